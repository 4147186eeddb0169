"""Points inside an activity's attempt where it is held until its process is killed, or until it is let go.

A plan says for one order: which activity, at which point. Points are `begins`; `commit N before`, `after` or
`lost` (carried out, and the connection gone before the answer), N counting the attempt's commits; and
`request NAME before` or `after`, around a call of the gateway (charge, close, refund) or the mail server
(mail).
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.mail import EmailMultiAlternatives
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from notifications import services as notifications
from notifications.models import EmailMessage
from orders import trail
from payments.gateways.sandbox import SandboxGateway

LOOK_EVERY = 0.02


@dataclass(frozen=True)
class Plan:
    """Where the first attempt of an order's activity is held. `without` is a guard its order goes without."""

    activity: str = ""
    point: str = ""
    without: str = ""


class Places:
    """The directory of plans, and of what has become of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write_plan(self, order_id: UUID | str, plan: Plan) -> None:
        """To be called before the order can get there."""
        unfinished = self.directory / f"{order_id}.unfinished"
        unfinished.write_text(json.dumps(asdict(plan)))
        unfinished.rename(self.directory / f"{order_id}.plan")

    def read_plan(self, order_id: str) -> Plan | None:
        try:
            return Plan(**json.loads((self.directory / f"{order_id}.plan").read_text()))
        except FileNotFoundError:
            return None

    def mark_reached(self, order_id: str) -> bool:
        """Whether this attempt is the first at its point: only that one is held."""
        try:
            with (self.directory / f"{order_id}.reached").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return False
        return True

    def find_reached(self, order_id: UUID | str) -> int | None:
        """The process that has got to the order's point."""
        try:
            return int((self.directory / f"{order_id}.reached").read_text() or "0") or None
        except FileNotFoundError:
            return None

    def let_go(self, order_id: UUID | str) -> None:
        """Let the attempt that is held go on."""
        (self.directory / f"{order_id}.released").touch()

    def is_let_go(self, order_id: str) -> bool:
        return (self.directory / f"{order_id}.released").exists()

    def mark_ended(self, order_id: str, outcome: str) -> None:
        (self.directory / f"{order_id}.ended").write_text(outcome)

    def find_ended(self, order_id: UUID | str) -> str | None:
        """How the attempt that was held has ended: its answer, or the type of its error."""
        try:
            return (self.directory / f"{order_id}.ended").read_text() or None
        except FileNotFoundError:
            return None


@dataclass
class Attempt:
    """An attempt that runs now, with its order's plan."""

    order_id: str
    activity: str
    plan: Plan
    places: Places
    commits: int = 0
    was_held: bool = False

    def is_at(self, point: str) -> bool:
        """Whether this is its point, and nobody has been there before."""
        if (self.plan.activity, self.plan.point) != (self.activity, point):
            return False
        self.was_held = self.was_held or self.places.mark_reached(self.order_id)
        return self.was_held

    def hold(self, point: str) -> None:
        """Hold this thread, if this is its point."""
        if self.is_at(point):
            while not self.places.is_let_go(self.order_id):
                time.sleep(LOOK_EVERY)

    async def hold_task(self, point: str) -> None:
        """Hold this task, if this is its point; being cancelled meanwhile does not free it."""
        if self.is_at(point):
            while not self.places.is_let_go(self.order_id):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(LOOK_EVERY)


current: ContextVar[Attempt | None] = ContextVar("current", default=None)


def put_in(directory: Path) -> None:
    """Put the points into this process."""
    places = Places(directory)

    run_attempt = trail.run_attempt

    async def run_with_points(
        call: Callable[[], Awaitable[Any]], *, name: str, arguments: Sequence[Any], **more: Any
    ) -> Any:
        order_id = str(arguments[0]) if arguments else ""  # the audit is of no order
        plan = places.read_plan(order_id)
        if plan is None:
            return await run_attempt(call, name=name, arguments=arguments, **more)
        attempt = Attempt(order_id, name, plan, places)

        async def call_with_points() -> Any:
            token = current.set(attempt)
            outcome = "cancelled"
            try:
                await attempt.hold_task("begins")
                answer = await call()
                outcome = f"answered {answer}"
            except Exception as error:
                outcome = type(error).__name__
                raise
            else:
                return answer
            finally:
                current.reset(token)
                if attempt.was_held:
                    places.mark_ended(order_id, outcome)

        return await run_attempt(call_with_points, name=name, arguments=arguments, **more)

    setattr(trail, "run_attempt", run_with_points)  # noqa: B010
    hold_commits()
    hold_requests()


def goes_without(guard: str) -> bool:
    """Whether the plan of the order that is worked on takes this guard away."""
    attempt = current.get()
    return attempt is not None and attempt.plan.without == guard


def hold_commits() -> None:
    """Around every COMMIT. The context reaches the database threads (config.temporal)."""
    commit = BaseDatabaseWrapper._commit  # type: ignore[attr-defined]

    def commit_with_points(self: BaseDatabaseWrapper) -> None:
        attempt = current.get()
        if attempt is None:
            commit(self)
            return
        attempt.commits += 1
        number = attempt.commits
        attempt.hold(f"commit {number} before")
        commit(self)
        attempt.hold(f"commit {number} after")
        if attempt.is_at(f"commit {number} lost") and not attempt.places.is_let_go(attempt.order_id):
            attempt.places.let_go(attempt.order_id)
            self.connection.close()
            raise OperationalError("the connection is lost: was that COMMIT carried out?")

    BaseDatabaseWrapper._commit = commit_with_points  # type: ignore[attr-defined]


def hold_requests() -> None:
    """Around every call of the gateway, and of the mail server by a mail."""

    def with_points(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call_with_points(self: SandboxGateway, **arguments: Any) -> Any:
            attempt = current.get()
            if attempt is not None:
                await attempt.hold_task(f"request {name} before")
            answer = await call(self, **arguments)
            if attempt is not None:
                await attempt.hold_task(f"request {name} after")
            return answer

        return call_with_points

    for name in ("charge", "close", "refund"):
        setattr(SandboxGateway, name, with_points(name, getattr(SandboxGateway, name)))

    build = notifications.build_message

    def build_with_points(email: EmailMessage) -> EmailMultiAlternatives:
        # Built in the attempt's task, sent on a mail thread, where its context does not reach.
        message = build(email)
        attempt = current.get()
        if attempt is None:
            return message
        send = message.send

        def send_with_points(*options: Any, **more: Any) -> int:
            attempt.hold("request mail before")
            sent = send(*options, **more)
            attempt.hold("request mail after")
            return sent

        message.send = send_with_points  # type: ignore[method-assign]
        return message

    notifications.build_message = build_with_points
