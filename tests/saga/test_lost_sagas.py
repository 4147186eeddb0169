"""Sagas that Temporal has lost: each order is rolled back once, cleanly, and staff are told."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from config.temporal import run_in_db
from orders import desk, lost, patrol
from orders.attention import list_work
from orders.audit.books import audit_books
from orders.audit.rule import Scope
from orders.models import SAGA_LOST, AttentionFlag, Order, OrderStatus, OutboxMessage
from orders.selectors import is_settled, summarise_trail
from tests.conftest import until
from tests.desk import (
    STEPS,
    UNDOS,
    acheck_stock_sums,
    aplace,
    books_of,
    call,
    fetch,
    gateway_ledger,
    hand_over,
    mails_in_sink,
    read_trail,
    run_to_the_end,
    saga_of,
)
from tests.faults import Pause, failing, is_blocked, pausing

# The round is not broken off.
NEVER = asyncio.Event()
# Where an attempt of each can be held: its first statement that changes something.
HELD_AT: dict[str, tuple[str, str, str]] = {
    "create_order": ("orders_stepkey", "INSERT", "NEW.step = 'create_order'"),
    "reserve_inventory": ("orders_stepkey", "INSERT", "NEW.step = 'reserve_inventory'"),
    "process_payment": ("orders_stepkey", "INSERT", "NEW.step = 'process_payment'"),
    "charge taken, not recorded": ("payments_paymentevent", "INSERT", "NEW.kind = 'charged'"),
    "send_confirmation_email": ("orders_stepkey", "INSERT", "NEW.step = 'send_confirmation_email'"),
    "mail sent, not recorded": ("notifications_emailmessage", "UPDATE", "NEW.kind = 'confirmation'"),
    "complete_order": ("orders_order", "UPDATE", "NEW.status = 'completed'"),
    "refund_payment": (
        "orders_stepkey",
        "UPDATE",
        "NEW.step = 'process_payment' AND NEW.undone_at IS NOT NULL",
    ),
    "release_inventory": (
        "orders_stepkey",
        "UPDATE",
        "NEW.step = 'reserve_inventory' AND NEW.undone_at IS NOT NULL",
    ),
    "cancel_order": ("orders_order", "UPDATE", "NEW.status = 'cancelled'"),
    "send_cancellation_email": ("notifications_emailmessage", "INSERT", "NEW.kind = 'cancellation'"),
}


@pytest.fixture(autouse=True)
def hasty(shop: None, settings: Any) -> None:
    """An order is looked at after half a second without a sign."""
    settings.REPAIR_AFTER = 0.5


def holding(name: str) -> AbstractContextManager[Pause]:
    table, event, when = HELD_AT[name]
    return pausing(table, event, when=when)


async def reach(pause: Pause) -> None:
    await until(lambda: asyncio.to_thread(pause.is_reached), what="the breakpoint")


async def repair_until_settled(client: Client, order: Order, *, within: float = 30.0) -> Order:
    """Rounds of the search, and deliveries, as workers make them, until the order has come to an end."""

    async def is_over() -> bool:
        await patrol.repair_lost_sagas(client, NEVER)
        await hand_over(client)
        found = await fetch(order)
        return is_settled(found, summarise_trail(found.trail.all()))

    await until(is_over, within=within, what="the order has come to its end")
    return await fetch(order)


async def check_rolled_back(order: Order, *, losses: int = 1) -> None:
    """Nothing is held, nothing charged, the customer told once; trail and queue say what was lost."""
    found, books = await fetch(order), await books_of(order)
    assert found.status == OrderStatus.CANCELLED
    assert (books.held, books.net) == (0, 0)
    ledger = await gateway_ledger(order)
    assert ledger.count("charge") == ledger.count("refund") <= 1
    assert [mail for mail in books.mails if "cancellation" in mail] == ["cancellation sent"]
    assert len([mail for mail in await mails_in_sink(order) if "cancellation" in mail]) == 1
    assert {name for name, state in read_trail(found) if name in UNDOS} == set(UNDOS)
    assert {state for name, state in read_trail(found) if name in UNDOS} <= {"done", "nothing_to_undo"}
    lines = [entry for entry in found.trail.all() if entry.name == SAGA_LOST]
    assert [(entry.kind, entry.state) for entry in lines] == [("saga", "lost")] * losses
    assert await run_in_db(read_open_flags, order=order) == [SAGA_LOST]
    await acheck_stock_sums()
    report = await audit_books(Scope(order_id=order.pk), ask_temporal=False)
    assert [violation.sentence for violation in report.violations] == []


def read_open_flags(order: Order) -> list[str]:
    return list(AttentionFlag.objects.filter(order=order, cleared_at=None).values_list("subject", flat=True))


def read_messages(order: Order) -> list[tuple[str, str]]:
    return list(OutboxMessage.objects.filter(order=order).order_by("pk").values_list("kind", "name"))


@pytest.mark.parametrize("point", [name for name in HELD_AT if name not in ("complete_order", *UNDOS)])
async def test_saga_terminated_at_a_step_is_rolled_back(worker: Client, point: str) -> None:
    """The attempt in flight lands after its saga has gone, as it would in production."""
    order = await aplace()
    with holding(point) as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order).terminate()
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failure_type == "SagaLost"
    assert found.failed_step in STEPS
    # Begun by the search, so that it was over before the saga in its place ran.
    assert await saga_of(worker, order, cancel=True).result() == "cancelled"
    kinds = await run_in_db(read_messages, order=order)
    assert kinds == [("start", "PlaceOrderSaga"), ("repair", "CancelOrderSaga")]


@pytest.mark.parametrize("point", ["refund_payment", "release_inventory", "cancel_order"])
async def test_rollback_terminated_at_an_undo_is_finished(worker: Client, point: str) -> None:
    order = await run_to_the_end(worker, await aplace())
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    with holding(point) as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order, cancel=True).terminate()
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failure_type == "CancelRequested"


async def terminate_between_attempts(
    client: Client, order: Order, name: str, *, table: str, event: str, when: str, cancel: bool = False
) -> None:
    """Terminate the saga while the step or undo waits for a retry: no attempt of it will ever land."""

    async def has_failed() -> bool:
        return (name, "failed") in read_trail(await fetch(order))

    with failing(table, event, when=when, times=1000):
        await hand_over(client)
        await until(has_failed, what=f"{name} failed")
        await saga_of(client, order, cancel=cancel).terminate()
        # An attempt that was handed out before is over when this is: it fails, too.
        await asyncio.sleep(0.3)


async def test_saga_terminated_before_its_last_step_is_rolled_back(worker: Client) -> None:
    order = await aplace()
    table, event, when = HELD_AT["complete_order"]
    await terminate_between_attempts(worker, order, "complete_order", table=table, event=event, when=when)
    assert (await fetch(order)).status == OrderStatus.CREATED
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failed_step == "complete_order"


async def test_rollback_terminated_before_its_mail_tells_the_customer(worker: Client) -> None:
    """The order is cancelled already, and only its customer does not know."""
    order = await run_to_the_end(worker, await aplace())
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    table, event, when = HELD_AT["send_cancellation_email"]
    await terminate_between_attempts(
        worker, order, "send_cancellation_email", table=table, event=event, when=when, cancel=True
    )
    assert (await fetch(order)).status == OrderStatus.CANCELLED
    await repair_until_settled(worker, order)
    await check_rolled_back(order)


async def test_repair_that_is_terminated_itself_is_repaired(worker: Client) -> None:
    order = await aplace(token="tok_error_500")
    await hand_over(worker)

    async def is_trying() -> bool:
        return ("process_payment", "failed") in read_trail(await fetch(order))

    await until(is_trying, what="the payment has failed")
    await saga_of(worker, order).terminate()
    with holding("release_inventory") as pause:

        async def is_held() -> bool:
            await patrol.repair_lost_sagas(worker, NEVER)
            await hand_over(worker)
            return await asyncio.to_thread(pause.is_reached)

        await until(is_held, what="the first repair has come to the release")
        await saga_of(worker, order, cancel=True).terminate()
    await repair_until_settled(worker, order)
    await check_rolled_back(order, losses=2)
    kinds = [kind for kind, _ in await run_in_db(read_messages, order=order)]
    assert kinds == ["start", "repair", "repair"]


async def test_charge_that_reports_back_after_the_repair_began_is_given_back(worker: Client) -> None:
    order = await aplace()
    with holding("charge taken, not recorded") as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order).terminate()

        async def is_repaired() -> bool:
            return await patrol.repair_lost_sagas(worker, NEVER) > 0

        await until(is_repaired, what="the loss was noticed")
        await hand_over(worker)
    await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_what_the_lost_saga_was_still_to_be_told_holds_nothing_up(worker: Client) -> None:
    """A cancel that Temporal cannot deliver any more is what the rollback does anyhow."""
    order = await aplace(token="tok_error_500")
    await hand_over(worker)
    await saga_of(worker, order).terminate()
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    await hand_over(worker)
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failure_type == "CancelRequested"
    undelivered = OutboxMessage.objects.filter(order=order, delivered_at=None)
    assert not await run_in_db(undelivered.exists)


async def test_staff_see_it_in_the_queue_and_acknowledge_it(worker: Client, admin_user: Any) -> None:
    order = await aplace(token="tok_error_500")
    await hand_over(worker)
    await saga_of(worker, order).terminate()
    await repair_until_settled(worker, order)
    [item] = [item for item in (await run_in_db(list_work, user=admin_user)).items if item.order_id]
    assert item.sentence == (
        f"Order {order.number}: Temporal had no running saga for it any more (order-{order.pk}: it was "
        "terminated). It is rolled back by CancelOrderSaga, which was started in its place."
    )
    assert [action.slug for action in item.actions] == ["acknowledge"]
    await call(desk.acknowledge, order_id=order.pk, subject=SAGA_LOST, actor="ada", reason="looked into")
    assert not (await books_of(order)).attention


# --- what must be left alone -------------------------------------------------------------------------------


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
    await asyncio.sleep(0.6)  # longer than REPAIR_AFTER
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
    rounds: list[None] = []

    async def count(client: Client, stop: asyncio.Event) -> int:
        rounds.append(None)
        return 0

    monkeypatch.setattr(patrol, "repair_lost_sagas", count)
    settings.REPAIR_INTERVAL = 1.0
    stop = asyncio.Event()
    workers = [asyncio.create_task(patrol.run_patrol(worker, stop)) for _ in range(4)]
    await asyncio.sleep(2.5)
    stop.set()
    await asyncio.gather(*workers)
    assert len(rounds) in (2, 3)


async def test_search_can_be_switched_off(worker: Client, settings: Any) -> None:
    settings.REPAIR_INTERVAL = 0.0
    await asyncio.wait_for(patrol.run_patrol(worker, asyncio.Event()), 5)
