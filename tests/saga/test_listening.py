"""Workers hear of a message at its commit: each message is one worker's, whoever comes and goes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from temporalio.client import Client

from config.temporal import run_in_db
from orders import desk, listening
from orders.dispatch import DELIVERIES, sweep
from orders.listening import Listener, run_listener
from orders.models import OUTBOX_CHANNEL, Order, OrderStatus, OutboxMessage
from tests.conftest import until
from tests.desk import aplace, call, fetch, place, saga_of
from tests.faults import connect


@pytest.fixture(autouse=True)
def nobody_sweeps(shop: None, settings: Any) -> None:
    settings.OUTBOX_FAST_PATH = True
    settings.OUTBOX_FIRST_LEASE = 60.0


class Post:
    """Where the listeners of a test deliver to, instead of to Temporal."""

    def __init__(self) -> None:
        self.delivered: Counter[int] = Counter()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def deliver(self, client: Client, message: OutboxMessage) -> bool:
        await self.is_open.wait()
        self.delivered[message.pk] += 1
        return True

    async def has_all_of(self, orders: Sequence[Order]) -> None:
        """Wait for the messages of these orders. There are no others, and each has come once."""
        wanted = await run_in_db(lambda: list(OutboxMessage.objects.filter(order__in=orders)))

        async def are_delivered() -> bool:
            return self.delivered.keys() >= {message.pk for message in wanted}

        await until(are_delivered, what="all are delivered")
        assert self.delivered == Counter(message.pk for message in wanted)


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    post = Post()
    monkeypatch.setattr(listening, "deliver", post.deliver)
    return post


@asynccontextmanager
async def hearing(client: Client) -> AsyncIterator[Listener]:
    """A listener, which goes as that of a worker does that is stopped."""
    async with listening.connect() as opened:
        listener = Listener(client, opened, asyncio.Semaphore(DELIVERIES))
        task = asyncio.create_task(listener.listen())
        try:
            await agree(listener)
            yield listener
        finally:
            task.cancel()
            await asyncio.wait([task])


def find_pid(listener: Listener) -> int:
    return listener.connection.info.backend_pid


async def agree(*listeners: Listener, without: int | None = None) -> None:
    """Wait until these have counted each other, and have noticed that another has gone."""
    pids = {find_pid(listener) for listener in listeners}

    async def is_agreed() -> bool:
        return all(
            pids <= set(listener.listeners) and without not in listener.listeners for listener in listeners
        )

    await until(is_agreed, what="the listeners have counted each other")


async def place_some(count: int) -> list[Order]:
    return await run_in_db(lambda: [place() for _ in range(count)])


def kill(pid: int) -> None:
    with connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])


async def is_noted(order: Order) -> bool:
    """Whether the outbox says of all messages of the order that they were delivered, once."""
    messages = await run_in_db(lambda: list(OutboxMessage.objects.filter(order=order)))
    return all(message.delivered_at is not None and message.attempts == 1 for message in messages)


async def test_order_is_carried_through_without_a_sweep(worker: Client) -> None:
    async with hearing(worker):
        order = await aplace()

        async def is_completed() -> bool:
            return (await fetch(order)).status == OrderStatus.COMPLETED

        await until(is_completed, what="the order is completed")
        await until(lambda: is_noted(order), what="the delivery is noted")
    # Its first task came with the answer to the start.
    history = await saga_of(worker, order).fetch_history()
    assert history.events[0].workflow_execution_started_event_attributes.eager_execution_accepted


async def test_cancel_reaches_a_running_saga_without_a_sweep(temporal: Client) -> None:
    async with hearing(temporal):
        order = await aplace()
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="at once")
        await until(lambda: is_noted(order), what="both deliveries are noted")
    names = [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in (await saga_of(temporal, order).fetch_history()).events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    await saga_of(temporal, order).terminate()
    assert names == ["cancel"]


async def test_each_message_is_one_listeners(temporal: Client, post: Post) -> None:
    async with hearing(temporal) as first, hearing(temporal) as second, hearing(temporal) as third:
        await agree(first, second, third)
        orders = await place_some(30)
        await post.has_all_of(orders)
        # All of an order's messages are the same one's.
        owners = [[one.is_mine(order.pk) for one in (first, second, third)] for order in orders]
        assert all(sum(mine) == 1 for mine in owners)
        assert len({tuple(mine) for mine in owners}) == 3


async def test_who_goes_is_not_waited_for(
    temporal: Client, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others hear of it, and need not find out at their next count."""
    monkeypatch.setattr(listening, "COUNT_EVERY", 600.0)
    async with hearing(temporal) as stays:
        async with hearing(temporal) as goes:
            await agree(stays, goes)
            gone = find_pid(goes)
        await agree(stays, without=gone)
        await post.has_all_of(await place_some(5))


async def test_who_is_killed_is_missed_at_the_next_count(temporal: Client, post: Post) -> None:
    async with hearing(temporal) as stays, hearing(temporal) as dies:
        await agree(stays, dies)
        killed = find_pid(dies)
        await run_in_db(lambda: kill(killed))
        await agree(stays, without=killed)
        await post.has_all_of(await place_some(5))


async def test_message_that_comes_together_with_a_call_is_heard(temporal: Client, post: Post) -> None:
    def place_and_call() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(listening._CALL, [OUTBOX_CHANNEL])
            place()

    async with hearing(temporal):
        await run_in_db(place_and_call)
        await post.has_all_of(await run_in_db(lambda: list(Order.objects.all())))


async def test_lost_connection_is_opened_again(
    temporal: Client, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    async def find_listeners() -> list[int]:
        async with listening.connect() as opened:
            found = await opened.execute(listening._LIST, [listening.LISTENERS])
            return [pid for (pid,) in await found.fetchall()]

    task = asyncio.create_task(run_listener(temporal, asyncio.Semaphore(DELIVERIES)))
    try:
        [before] = await until(find_listeners, what="it listens")
        await run_in_db(lambda: kill(before))

        async def is_back() -> bool:
            return (await find_listeners()) not in ([], [before])

        await until(is_back, what="it listens again")
        await post.has_all_of(await place_some(3))
        assert "cannot listen for messages" in caplog.text
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_is_rolled_back_is_not_heard_of(temporal: Client, post: Post) -> None:
    def place_and_think_better_of_it() -> None:
        with transaction.atomic():
            place()
            transaction.set_rollback(True)

    async with hearing(temporal):
        await run_in_db(place_and_think_better_of_it)
        await post.has_all_of(await place_some(1))


async def test_without_the_fast_path_nobody_is_told(temporal: Client, post: Post, settings: Any) -> None:
    async with hearing(temporal):
        settings.OUTBOX_FAST_PATH = False
        await place_some(1)
        settings.OUTBOX_FAST_PATH = True
        await post.has_all_of(await place_some(1))


async def test_message_whose_turn_comes_too_late_is_left_to_the_dispatchers(
    temporal: Client, post: Post, settings: Any
) -> None:
    post.is_open.clear()
    async with hearing(temporal) as listener:
        in_time = await place_some(DELIVERIES)

        async def all_turns_are_taken() -> bool:
            return listener.turns.locked()

        await until(all_turns_are_taken, what="all turns are taken")
        settings.OUTBOX_FIRST_LEASE = 0.0
        [too_late] = await place_some(1)

        async def is_waiting() -> bool:
            return len(listener.delivering) == DELIVERIES + 1

        await until(is_waiting, what="one waits for its turn")
        post.is_open.set()

        async def is_idle() -> bool:
            return not listener.delivering

        await until(is_idle, what="all have had their turn")
        await post.has_all_of(in_time)
    assert await sweep(temporal) == 1
    await saga_of(temporal, too_late).terminate()


async def test_what_has_begun_is_seen_through(temporal: Client, post: Post) -> None:
    """A worker that is stopped notes what it was telling Temporal, and begins nothing else."""
    post.is_open.clear()
    async with hearing(temporal) as listener:
        orders = await place_some(DELIVERIES + 2)

        async def all_are_heard() -> bool:
            return len(listener.delivering) == len(orders)

        await until(all_are_heard, what="all are heard of")

        async def is_leaving() -> bool:
            return listener.is_leaving

        async def open_when_it_leaves() -> None:
            await until(is_leaving, what="it leaves")
            post.is_open.set()

        opening = asyncio.create_task(open_when_it_leaves())
    await opening
    assert len(post.delivered) == DELIVERIES
    noted = await run_in_db(OutboxMessage.objects.exclude(delivered_at=None).count)
    assert noted == DELIVERIES
