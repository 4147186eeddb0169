"""Several dispatchers on one outbox: each message is delivered once, thanks to SKIP LOCKED and the lease."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from temporalio.client import Client

from config.temporal import run_in_db
from orders import dispatch
from orders.models import Order, OutboxMessage
from tests.conftest import until
from tests.desk import place
from tests.faults import Pause, count_blocked, pausing
from tests.switches.guards import SKIP_LOCKED, without

DISPATCHERS = 4
MESSAGES = 40  # fewer than a dispatcher claims at once
FULL_MESSAGES = 400


@pytest_asyncio.fixture
async def sagas(shop: None, temporal: Client) -> AsyncIterator[list[str]]:
    """The workflow ids of the orders of a test, whose sagas nobody works on; they are ended after it."""
    started: list[str] = []
    yield started
    await asyncio.gather(*(temporal.get_workflow_handle(found).terminate() for found in started))


class Counts:
    """How often each message was delivered, and how many claims have come back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delivered: Counter[int] = Counter()
        self.claims = 0
        deliver, claim_due = dispatch.deliver, dispatch.claim_due

        async def count_delivery(client: Client, message: OutboxMessage) -> bool:
            # One that Temporal did not answer in time is tried again, as it should be.
            is_told = await deliver(client, message)
            self.delivered[message.pk] += is_told
            return is_told

        def count_claim() -> list[OutboxMessage]:
            claimed = claim_due()
            self.claims += 1
            return claimed

        monkeypatch.setattr(dispatch, "deliver", count_delivery)
        monkeypatch.setattr(dispatch, "claim_due", count_claim)


async def dispatch_together(
    client: Client, counts: Counts, sagas: list[str], messages: int, have_met: Callable[[Pause], bool]
) -> None:
    """Have so many messages delivered by dispatchers that sweep at the same time.

    The first is held, with what it has found and before it has leased it, until `have_met`.
    """
    await run_in_db(lambda: [place() for _ in range(messages)])
    stop = asyncio.Event()
    leasing = "NEW.next_attempt_at <> OLD.next_attempt_at AND NEW.delivered_at IS NULL"
    with pausing("orders_outboxmessage", "UPDATE", when=leasing) as pause:
        dispatchers = [
            asyncio.create_task(dispatch.run_dispatcher(client, stop, asyncio.Semaphore(dispatch.DELIVERIES)))
            for _ in range(DISPATCHERS)
        ]
        await until(lambda: asyncio.to_thread(have_met, pause), within=120, what="they have met")

    async def is_empty() -> bool:
        return not await run_in_db(OutboxMessage.objects.filter(delivered_at=None).exists)

    await until(is_empty, within=60 + messages / 4, what="the outbox is empty")
    stop.set()
    await asyncio.gather(*dispatchers)
    sagas += await run_in_db(lambda: list(OutboxMessage.objects.values_list("workflow_id", flat=True)))
    assert len(set(sagas)) == await run_in_db(Order.objects.count) == messages == len(counts.delivered)


async def test_each_message_is_delivered_once(
    sagas: list[str], temporal: Client, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """Those who find it locked go away empty-handed, at once."""
    counts = Counts(monkeypatch)
    messages = FULL_MESSAGES if is_full else MESSAGES

    def have_met(pause: Pause) -> bool:
        # Beyond a batch, the others hold messages of their own at the breakpoint.
        return pause.is_reached() and pause.count_waiting() + counts.claims >= DISPATCHERS

    await dispatch_together(temporal, counts, sagas, messages, have_met)
    assert set(counts.delivered.values()) == {1}


async def test_without_skip_locked_some_are_delivered_twice(
    sagas: list[str], temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control. Even then there is one saga for each order: Temporal refuses the second."""
    counts = Counts(monkeypatch)

    def have_met(pause: Pause) -> bool:
        return pause.is_reached() and count_blocked("orders_outboxmessage") > 1

    with without(SKIP_LOCKED):
        await dispatch_together(temporal, counts, sagas, MESSAGES, have_met)
    assert max(counts.delivered.values()) > 1
    runs = [await temporal.get_workflow_handle(found).describe() for found in sagas]
    assert len({run.run_id for run in runs}) == MESSAGES
