"""Attempts of activities that can be stopped anywhere: before an effect, after it, before the answer.

What runs is the code the workers run: the activity under the trail's interceptor, on the real database,
gateway and mail server. A gate stands before each effect (a transaction, a request to the gateway, a mail)
and before the answer. An attempt waits at each one until it is let through, is killed there, or is left there
while others run and comes back late. Each attempt is on a worker of its own.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

import inventory.activities
import notifications.activities
import orders.activities
import orders.trail
import payments.activities
from config.temporal import run_in_db
from notifications.models import EmailMessage
from orders.trail import TrailInterceptor
from payments.gateways.protocol import Charge, Gateway, Refund

ACTIVITIES: dict[str, Callable[..., Any]] = {
    activity.__name__: activity
    for activity in (
        orders.activities.create_order,
        inventory.activities.reserve_inventory,
        payments.activities.process_payment,
        notifications.activities.send_confirmation_email,
        orders.activities.complete_order,
        orders.activities.begin_rollback,
        payments.activities.refund_payment,
        inventory.activities.release_inventory,
        orders.activities.cancel_order,
        notifications.activities.send_cancellation_email,
    )
}
ANSWER = "answer"
# No effect, gates before failures included, takes longer; what waits longer waits for something that is held.
PATIENCE = 30.0


@dataclass(frozen=True)
class Effect:
    """What comes next behind a gate: `db start_charge`, `gateway charge`, `mail confirmation`, `answer`."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


class CallActivity(ActivityInboundInterceptor):
    """The innermost of the chain of interceptors: calls the activity."""

    def __init__(self) -> None:
        """Nothing is further in."""

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        return await input.fn(*input.args)


@dataclass(eq=False)
class Attempt:
    """One attempt of an activity, standing at a gate until it has ended."""

    name: str
    order_id: str
    number: int
    worker: str
    arguments: tuple[str, ...] = ()
    at: Effect | None = None
    sending: dict[Any, Any] = field(default_factory=dict)
    value: Any = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.let_through = asyncio.Semaphore(0)
        self.stands = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        return self.task.done()

    @property
    def is_refused(self) -> bool:
        """Whether it ended with a business refusal, which Temporal does not retry."""
        return isinstance(self.error, ApplicationError) and self.error.non_retryable

    async def open(self) -> None:
        """Start it; it stands at its first gate afterwards."""
        self.task = asyncio.create_task(self._carry_out())
        await self._until_it_stands()

    async def pass_gate(self) -> Effect:
        """Let it through the gate it stands at, and wait until it stands at the next one or has ended."""
        passed = self.at
        assert passed is not None
        self.stands.clear()
        self.at = None
        self.let_through.release()
        await self._until_it_stands()
        return passed

    async def kill(self) -> None:
        """End it where it stands, as kill -9 ends its worker: nothing behind the gate happens."""
        for task in (self.task, *self.sending.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.at = None

    async def wait_at(self, effect: Effect) -> None:
        """Stand at a gate."""
        self.at = effect
        self.stands.set()
        await self.let_through.acquire()

    async def _until_it_stands(self) -> None:
        standing = asyncio.create_task(self.stands.wait())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({self.task, standing}, return_when=asyncio.FIRST_COMPLETED)
        standing.cancel()

    async def _carry_out(self) -> None:
        walking.set(self)
        environment = ActivityEnvironment()
        is_quick = self.name in orders.trail.QUICK
        environment.info = dataclasses.replace(
            environment.info,
            activity_type=self.name,
            # The first is tried in the workflow task; Temporal counts anew from the one it schedules.
            is_local=is_quick and self.number == 1,
            attempt=max(self.number - is_quick, 1),
            schedule_to_close_timeout=None,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60)
            ),
        )
        chain = TrailInterceptor(self.worker).intercept_activity(CallActivity())
        call = ExecuteActivityInput(
            fn=ACTIVITIES[self.name], args=[self.order_id, *self.arguments], executor=None, headers={}
        )
        try:
            self.value = await environment.run(chain.execute_activity, call)
        except Exception as error:
            self.error = error
        await self.wait_at(Effect(ANSWER))


walking: ContextVar[Attempt] = ContextVar("walking")


async def run_in_db_behind_gate(work: Callable[..., Any], /, *, last: bool = True, **arguments: Any) -> Any:
    """`run_in_db`, when the attempt is let through."""
    await walking.get().wait_at(Effect("db", work.__name__))
    return await run_in_db(work, last=last, **arguments)


async def send_behind_gate(email: EmailMessage) -> None:
    """`send`, when the attempt is let through."""
    await walking.get().wait_at(Effect("mail", email.kind))
    await send(email)


send = notifications.activities.send


class GatewayBehindGate:
    """The gateway, each call of which waits until its attempt is let through."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def charge(self, *, key: str, amount_minor: int, currency: str, token: str) -> Charge:
        await walking.get().wait_at(Effect("gateway", "charge"))
        return await self.gateway.charge(key=key, amount_minor=amount_minor, currency=currency, token=token)

    async def find(self, *, key: str) -> Charge | None:
        await walking.get().wait_at(Effect("gateway", "find"))
        return await self.gateway.find(key=key)

    async def refund(self, *, key: str, charge_id: str, amount_minor: int) -> Refund:
        await walking.get().wait_at(Effect("gateway", "refund"))
        return await self.gateway.refund(key=key, charge_id=charge_id, amount_minor=amount_minor)

    async def close(self, *, key: str) -> Charge | None:
        await walking.get().wait_at(Effect("gateway", "close"))
        return await self.gateway.close(key=key)

    async def aclose(self) -> None:
        await self.gateway.aclose()


class SendingOfWorker(MutableMapping[Any, Any]):
    """The mails a worker is sending. Every attempt here is a process of its own and sees only its own."""

    def __getitem__(self, key: Any) -> Any:
        return walking.get().sending[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        walking.get().sending[key] = value

    def __delitem__(self, key: Any) -> None:
        del walking.get().sending[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(walking.get().sending)

    def __len__(self) -> int:
        return len(walking.get().sending)


def set_gates(patch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    """Put a gate before every effect of every activity."""
    for module in (
        orders.activities,
        orders.trail,
        inventory.activities,
        payments.activities,
        notifications.activities,
    ):
        patch.setattr(module, "run_in_db", run_in_db_behind_gate)
    patch.setattr(payments.activities, "open_gateway", lambda: GatewayBehindGate(gateway))
    patch.setattr(notifications.activities, "send", send_behind_gate)
    patch.setattr(notifications.activities, "_sending", SendingOfWorker())
