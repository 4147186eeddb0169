"""Rounds of the benchmark: empty sagas, orders that complete, and orders that are rolled back, in turn."""

import asyncio
import statistics
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from temporalio.client import Client

from config.temporal import background
from orders.management.load.course import Course
from orders.management.load.doors import DeskDoor
from orders.management.load.empty import EmptySaga
from orders.management.load.goods import stock_up
from orders.management.load.outcome import read_outcome
from orders.management.load.plan import Plan
from orders.management.load.processes import pause_processes, resume_processes
from orders.management.load.rig import Rig
from orders.management.stack import StackError

KINDS = ("empty", "order", "rollback")
# In flight at once while throughput is measured, and orders of the measurement one at a time.
CONCURRENCY = 100
ALONE = 15
# Unmeasured ones before anything is measured, and before each turn, as crews were stopped meanwhile.
WARM_UP, WAKE_UP = 10, 1
# Seconds for a turn of empty sagas.
EMPTY_PATIENCE = 120.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Round:
    """What one round measured of each kind: how many a second, and the median milliseconds of one alone."""

    rate: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """What some sagas of one kind took: seconds from the first start to the last end, milliseconds each."""

    seconds: float
    latencies: list[float]


class Bench:
    """Takes turns on a rig whose workers are ready and whose empty worker is started."""

    def __init__(self, rig: Rig, *, orders: int, empty_queue: str, say: Say) -> None:
        self.rig = rig
        self.orders = orders
        self.empty_queue = empty_queue
        self.say = say

    def warm_up(self) -> None:
        """Some of each kind, which nobody measures."""
        for kind in KINDS:
            self.take_turn(kind, min(WARM_UP, self.orders), concurrency=WARM_UP)

    def run_round(self, number: int) -> Round:
        """Each kind's throughput, then each kind alone. Every round begins with another kind."""
        first = number % len(KINDS)
        kinds = [*KINDS[first:], *KINDS[:first]]
        measured = Round()
        for kind in kinds:
            turn = self.take_turn(kind, self.orders, concurrency=CONCURRENCY)
            measured.rate[kind] = self.orders / turn.seconds
        for kind in kinds:
            turn = self.take_turn(kind, min(self.orders, ALONE), concurrency=1)
            measured.alone[kind] = statistics.median(turn.latencies)
        shown = ", ".join(
            f"{kind} {measured.rate[kind]:.1f}/s, alone {measured.alone[kind]:.0f} ms" for kind in KINDS
        )
        self.say(f"round {number + 1}: {shown}")
        return measured

    def take_turn(self, kind: str, count: int, *, concurrency: int) -> Turn:
        """Carry `count` of a kind through. Raises StackError when they do not all end as they should."""
        if kind == "empty":
            with self._resting_workers():
                run_empty(WAKE_UP, concurrency=1, task_queue=self.empty_queue)
                return run_empty(count, concurrency=concurrency, task_queue=self.empty_queue)
        stock_up(count + WAKE_UP)  # every run begins with the same product
        self._run_orders(kind, WAKE_UP, concurrency=1)
        return self._run_orders(kind, count, concurrency=concurrency)

    @contextmanager
    def _resting_workers(self) -> Iterator[None]:
        """The orders' workers stand still: even idle ones look for work twice a second, which the empty
        worker does not."""
        pids = list(self.rig.find_workers().values())
        pause_processes(pids)
        try:
            yield
        finally:
            resume_processes(pids)

    def _run_orders(self, kind: str, count: int, *, concurrency: int) -> Turn:
        plan = Plan(orders=count, concurrency=concurrency, decline_rate=1.0 if kind == "rollback" else 0.0)
        course = Course(plan, DeskDoor)
        course.run(lambda *_: self.rig.check_alive())
        outcome = read_outcome(plan, since=course.began_at, accepted_at=course.accepted_at)
        ended, latencies = (
            (outcome.cancelled, outcome.cancel_latencies)
            if kind == "rollback"
            else (outcome.completed, outcome.latencies)
        )
        if ended < count or outcome.last_end is None:
            raise StackError(
                f"Only {ended} of {count} orders ended as they should ({kind}); see {self.rig.log_dir}."
            )
        return Turn((outcome.last_end - course.began_at).total_seconds(), latencies)


def start_empty_worker(rig: Rig) -> str:
    """Start the plain worker in a process of its own; gives its task queue."""
    queue = f"bench-{uuid.uuid4().hex[:12]}"
    rig.stack.start_module(
        "empty-worker",
        "orders.management.load.empty",
        settings.TEMPORAL_ADDRESS,
        settings.TEMPORAL_NAMESPACE,
        queue,
    )
    return queue


def run_empty(count: int, *, concurrency: int, task_queue: str) -> Turn:
    """Start so many empty sagas, at most `concurrency` in flight, and wait for all. Raises StackError when
    they have not ended within EMPTY_PATIENCE."""
    loop = background()

    async def run() -> Turn:
        async with asyncio.timeout(EMPTY_PATIENCE):
            return await _run_empty(
                await loop.client(), count, concurrency=concurrency, task_queue=task_queue
            )

    try:
        return loop.submit(run()).result()
    except TimeoutError as error:
        raise StackError(
            f"The {count} empty sagas have not ended within {EMPTY_PATIENCE:.0f} s; see empty-worker.log."
        ) from error


async def _run_empty(client: Client, count: int, *, concurrency: int, task_queue: str) -> Turn:
    slots = asyncio.Semaphore(concurrency)

    async def run_one() -> tuple[datetime, Any]:
        async with slots:
            began = datetime.now(UTC)
            handle = await client.start_workflow(
                EmptySaga.run, id=f"empty-{uuid.uuid4()}", task_queue=task_queue
            )
            await handle.result()
            return began, handle

    began = datetime.now(UTC)
    ran = await asyncio.gather(*(run_one() for _ in range(count)))
    # The server's own word on when each was closed, asked for when nothing runs any more.
    closed = [(started, (await handle.describe()).close_time) for started, handle in ran]
    ends = [(started, end) for started, end in closed if end is not None]
    return Turn(
        (max(end for _, end in ends) - began).total_seconds(),
        [(end - started).total_seconds() * 1000 for started, end in ends],
    )
