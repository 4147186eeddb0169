"""The search for lost sagas leaves alone what is not lost, and decides once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from config.temporal import run_in_db
from orders import lost, patrol
from orders.models import SAGA_LOST, Order, OrderStatus, OutboxMessage, RepairRound
from tests.conftest import until
from tests.desk import (
    aplace,
    fetch,
    gateway_ledger,
    hand_over,
    read_trail,
    run_to_the_end,
    saga_of,
)
from tests.faults import is_blocked, pausing
from tests.saga.losing import (
    NEVER,
    check_rolled_back,
    holding,
    reach,
    read_messages,
    repair_until_settled,
)

pytestmark = pytest.mark.usefixtures("hasty_repair")


async def suspect(order: Order) -> lost.Suspect:
    """The order as the search lists it, once it has been quiet for long enough."""

    async def find() -> list[lost.Suspect]:
        return await run_in_db(lost.list_suspects, order_id=order.pk)

    [found] = await until(find, what="the order is suspected")
    assert isinstance(found, lost.Suspect)
    return found


async def test_running_saga_is_left_alone(worker: Client) -> None:
    order = await aplace()
    with holding("process_payment") as pause:
        await hand_over(worker)
        await reach(pause)
        assert (await suspect(order)).workflow_id == f"order-{order.pk}"
        assert await patrol.repair_lost_sagas(worker, NEVER) == 0
    await saga_of(worker, order).result()
    assert (await fetch(order)).status == OrderStatus.COMPLETED


async def test_order_of_which_temporal_was_not_told_is_left_alone(worker: Client) -> None:
    order = await aplace()
    await run_in_db(Order.objects.filter(pk=order.pk).update, accepted_at="2026-01-01T00:00:00Z")
    assert await patrol.repair_lost_sagas(worker, NEVER) == 0
    assert (await fetch(order)).status == OrderStatus.PENDING
    assert (await run_to_the_end(worker, order)).status == OrderStatus.COMPLETED


async def test_saga_that_was_started_just_now_is_left_alone(worker: Client, settings: Any) -> None:
    settings.REPAIR_AFTER = 60.0
    order = await aplace()
    await run_in_db(Order.objects.filter(pk=order.pk).update, accepted_at="2026-01-01T00:00:00Z")
    await run_in_db(OutboxMessage.objects.filter(order=order).update, delivered_at="2026-01-01T00:00:00Z")
    assert await run_in_db(lost.list_suspects)
    delivery = OutboxMessage.objects.filter(order=order)
    await run_in_db(delivery.update, delivered_at=None)
    await hand_over(worker)
    assert not await run_in_db(lost.list_suspects)
    await saga_of(worker, order).result()


async def complete_while_suspected(client: Client) -> tuple[Order, lost.Suspect]:
    """An order that is suspected, whose saga then ends well: what the search knows of it is old."""
    order = await aplace()
    with holding("complete_order") as pause:
        await hand_over(client)
        await reach(pause)
        found = await suspect(order)
    await saga_of(client, order).result()
    assert await patrol.find_loss(client, found.workflow_id) == "it had ended without finishing the order"
    return order, found


async def test_order_that_completed_since_it_was_suspected_is_left_alone(worker: Client) -> None:
    order, found = await complete_while_suspected(worker)
    assert not await patrol.repair(worker, found)
    assert (await fetch(order)).status == OrderStatus.COMPLETED
    assert await run_in_db(read_messages, order=order) == [("start", "PlaceOrderSaga")]


@contextmanager
def without_second_look(monkeypatch: pytest.MonkeyPatch, found: lost.Suspect) -> Iterator[None]:
    """The guard off: the decision believes the list it was made from."""
    with monkeypatch.context() as patch:
        patch.setattr(lost, "list_suspects", lambda **_: [found])
        yield


async def test_control_without_the_second_look_a_completed_order_is_rolled_back(
    worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, found = await complete_while_suspected(worker)
    with without_second_look(monkeypatch, found):
        assert await patrol.repair(worker, found)
    assert (await fetch(order)).status == OrderStatus.CANCELLING
    await saga_of(worker, order, cancel=True).result()
    assert await gateway_ledger(order) == ["charge", "refund"]


async def decide_at_once(client: Client, found: lost.Suspect, order: Order) -> list[tuple[str, str]]:
    """Two workers find the same saga lost at the same moment; gives the order's messages."""
    with pausing("orders_attentionflag", "INSERT", when="NEW.subject = 'saga_lost'") as pause:
        first = asyncio.create_task(patrol.repair(client, found))
        await reach(pause)
        second = asyncio.create_task(patrol.repair(client, found))
        # It waits for the row of the order.
        await until(lambda: asyncio.to_thread(is_waiting_for_the_order), what="the second one waits")
    await asyncio.gather(first, second)
    return await run_in_db(read_messages, order=order)


def is_waiting_for_the_order() -> bool:
    return is_blocked('FROM "orders_order"')


async def lose(client: Client) -> tuple[Order, lost.Suspect]:
    order = await aplace(token="tok_error_500")
    await hand_over(client)
    await saga_of(client, order).terminate()
    return order, await suspect(order)


async def test_two_workers_start_one_rollback(worker: Client) -> None:
    order, found = await lose(worker)
    messages = await decide_at_once(worker, found, order)
    assert messages == [("start", "PlaceOrderSaga"), ("repair", "CancelOrderSaga")]
    await repair_until_settled(worker, order)
    await check_rolled_back(order)


async def test_control_without_the_second_look_there_are_two(
    worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, found = await lose(worker)
    with without_second_look(monkeypatch, found):
        messages = await decide_at_once(worker, found, order)
    assert messages.count(("repair", "CancelOrderSaga")) == 2
    # Which is why the rollback is idempotent, too.
    await repair_until_settled(worker, order)
    await check_rolled_back(order, losses=2)


async def test_silence_of_temporal_is_no_verdict(worker: Client) -> None:
    order, _ = await lose(worker)
    deaf = await Client.connect("127.0.0.1:1", lazy=True)
    with pytest.raises((RPCError, RuntimeError)):
        await patrol.repair_lost_sagas(deaf, NEVER)
    elsewhere = await Client.connect(worker.service_client.config.target_host, namespace="no-such-namespace")
    with pytest.raises(RPCError):
        await patrol.repair_lost_sagas(elsewhere, NEVER)
    with pytest.raises(RPCError):
        await patrol.find_loss(elsewhere, f"order-{order.pk}")
    assert SAGA_LOST not in dict(read_trail(await fetch(order)))


async def test_search_is_made_by_one_of_all_at_a_time(
    worker: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REPAIR_INTERVAL = 3600.0
    claims, rounds, claim = list[bool](), list[None](), RepairRound.objects.claim

    def watch_claim() -> bool:
        claims.append(claim())
        return claims[-1]

    async def count_round(client: Client, stop: asyncio.Event) -> int:
        rounds.append(None)
        return 0

    async def search() -> None:
        """Four workers, until each has asked once whether a round is due."""
        wanted, stop = len(claims) + 4, asyncio.Event()
        workers = [asyncio.create_task(patrol.run_patrol(worker, stop)) for _ in range(4)]

        async def have_asked() -> bool:
            return len(claims) == wanted

        await until(have_asked, what="every worker has asked")
        stop.set()
        await asyncio.gather(*workers)

    monkeypatch.setattr(RepairRound.objects, "claim", watch_claim)
    monkeypatch.setattr(patrol, "repair_lost_sagas", count_round)
    await search()
    assert (len(rounds), claims.count(True)) == (1, 1)
    await search()
    assert len(rounds) == 1  # the next one is not due yet
    await run_in_db(RepairRound.objects.update, due_at="2026-01-01T00:00:00Z")
    await search()
    assert len(rounds) == 2


async def test_search_can_be_switched_off(worker: Client, settings: Any) -> None:
    settings.REPAIR_INTERVAL = 0.0
    await asyncio.wait_for(patrol.run_patrol(worker, asyncio.Event()), 5)
