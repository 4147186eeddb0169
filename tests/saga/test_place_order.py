"""PlaceOrderSaga on real services: the story, and every way it turns back."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner

from config.temporal import run_in_db
from inventory.models import StockItem
from orders import desk
from orders.models import Order, OrderStatus, OutboxMessage
from orders.services import Item
from tests.conftest import until, working
from tests.desk import (
    LAPTOPS,
    STEPS,
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
    stock_of,
    undos_of,
    withdraw,
)
from tests.faults import failing, is_blocked, pausing

ALL_UNDONE = [
    ("refund_payment", "done"),
    ("release_inventory", "done"),
    ("cancel_order", "done"),
    ("send_cancellation_email", "done"),
]
NOTHING_CHARGED = [("refund_payment", "nothing_to_undo"), *ALL_UNDONE[1:]]


async def test_order_completes(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    assert order.status == OrderStatus.COMPLETED
    assert read_trail(order) == [(name, "done") for name in STEPS]
    books = await books_of(order)
    assert (books.held, books.events, books.mails) == (2, ["charged"], ["confirmation sent"])
    assert books.attention == []
    assert await gateway_ledger(order) == ["charge"]
    assert await mails_in_sink(order) == [f"<confirmation.{order.pk}@shop.example>"]
    await acheck_stock_sums()


async def test_declined_payment_rolls_back(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace(LAPTOPS))
    assert order.status == OrderStatus.CANCELLED
    assert (order.failed_step, order.failure_type) == ("process_payment", "PaymentRefused")
    assert read_trail(order) == [
        ("create_order", "done"),
        ("reserve_inventory", "done"),
        ("process_payment", "failed"),
        *NOTHING_CHARGED,
    ]
    books = await books_of(order)
    assert (books.held, books.holds, books.net) == (0, ["released"], 0)
    assert books.events == ["declined", "closed"]
    assert books.mails == ["cancellation sent"]
    assert [kind for kind in await gateway_ledger(order) if kind in ("charge", "refund")] == []
    assert await mails_in_sink(order) == [f"<cancellation.{order.pk}@shop.example>"]
    await acheck_stock_sums()


async def test_production_runner_runs_the_same_sagas(shop: None, temporal: Client) -> None:
    async with working(temporal, runner=UnsandboxedWorkflowRunner()):
        completed = await run_to_the_end(temporal, await aplace())
        cancelled = await run_to_the_end(temporal, await aplace(LAPTOPS))
    assert (completed.status, cancelled.status) == (OrderStatus.COMPLETED, OrderStatus.CANCELLED)


async def test_withdrawn_product_fails_at_create_order(worker: Client) -> None:
    order = await aplace()
    await run_in_db(withdraw, sku="HEAD-ANC")
    order = await run_to_the_end(worker, order)
    assert order.failure_type == "OrderNotSellable"
    assert read_trail(order) == [
        ("create_order", "failed"),
        ("cancel_order", "done"),
        ("send_cancellation_email", "done"),
    ]
    assert order.status == OrderStatus.CANCELLED
    assert await gateway_ledger(order) == []


async def test_changed_total_fails_at_create_order(worker: Client) -> None:
    order = await aplace()
    await run_in_db(Order.objects.filter(pk=order.pk).update, total=1)
    order = await run_to_the_end(worker, order)
    assert (order.status, order.failure_type, order.total) == (OrderStatus.CANCELLED, "OrderNotSellable", 1)


async def test_out_of_stock_fails_at_reserve_inventory(worker: Client) -> None:
    available = (await run_in_db(StockItem.objects.get, product__sku="TEE-M")).available
    before = await stock_of("HEAD-ANC")
    order = await run_to_the_end(worker, await aplace([Item("HEAD-ANC", 1), Item("TEE-M", available + 1)]))
    assert (order.status, order.failure_type) == (OrderStatus.CANCELLED, "OutOfStock")
    assert undos_of(order) == [
        ("release_inventory", "nothing_to_undo"),
        ("cancel_order", "done"),
        ("send_cancellation_email", "done"),
    ]
    assert await stock_of("HEAD-ANC") == before
    assert await gateway_ledger(order) == []
    await acheck_stock_sums()


async def test_unsendable_confirmation_refunds_and_releases(worker: Client, settings: Any) -> None:
    settings.SAGA_STEP_DEADLINE = 4.0
    order = await aplace()
    real_port, settings.EMAIL_PORT = settings.EMAIL_PORT, 1  # nothing listens there
    await hand_over(worker)

    async def is_cancelled() -> bool:
        return (await fetch(order)).status == OrderStatus.CANCELLED

    await until(is_cancelled)
    settings.EMAIL_PORT = real_port
    await saga_of(worker, order).result()
    order = await fetch(order)
    assert order.failed_step == "send_confirmation_email"
    assert undos_of(order) == ALL_UNDONE
    books = await books_of(order)
    assert (books.events, books.net, books.held) == (["charged", "refunded"], 0, 0)
    assert books.mails == ["cancellation sent", "confirmation pending"]
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_unsendable_confirmation_is_flagged_where_mail_is_not_required(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_STEP_DEADLINE = 4.0
    settings.SAGA_EMAIL_REQUIRED = False
    settings.EMAIL_PORT = 1
    order = await run_to_the_end(worker, await aplace())
    assert order.status == OrderStatus.COMPLETED
    assert any("confirmation mail" in reason for reason in (await books_of(order)).attention)


async def test_failing_complete_order_rolls_back_after_the_confirmation(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_STEP_DEADLINE = 4.0
    with failing("orders_order", "UPDATE", when="NEW.status = 'completed'", times=1_000_000):
        order = await run_to_the_end(worker, await aplace())
    assert (order.status, order.failed_step) == (OrderStatus.CANCELLED, "complete_order")
    assert undos_of(order) == ALL_UNDONE
    books = await books_of(order)
    assert books.mails == ["cancellation sent", "confirmation sent"]
    assert books.net == 0


@pytest.mark.parametrize(
    ("undo", "table", "event", "when"),
    [
        ("refund_payment", "payments_paymentevent", "INSERT", "NEW.kind = 'refunded'"),
        ("release_inventory", "inventory_hold", "UPDATE", "NEW.state = 'released'"),
        ("cancel_order", "orders_order", "UPDATE", "NEW.status = 'cancelled'"),
        ("send_cancellation_email", "notifications_emailmessage", "INSERT", "NEW.kind = 'cancellation'"),
    ],
)
async def test_undo_that_fails_twice_succeeds_at_last(
    worker: Client, settings: Any, undo: str, table: str, event: str, when: str
) -> None:
    order = await run_to_the_end(worker, await aplace())
    with failing(table, event, when=when, times=2):
        await call(desk.cancel_order, order_id=order.pk, actor="test", reason="test")
        await hand_over(worker)
        await saga_of(worker, order, cancel=True).result()
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert sorted(undos_of(order)) == sorted(ALL_UNDONE)
    [entry] = [entry for entry in order.trail.all() if entry.name == undo]
    assert entry.attempts == 3
    books = await books_of(order)
    assert (books.net, books.held, books.attention) == (0, 0, [])
    assert await gateway_ledger(order) == ["charge", "refund"]
    await acheck_stock_sums()


@pytest.mark.parametrize(
    "token", ["tok_error_500_x2", "tok_reset_x2", "tok_answer_lost_x1", "tok_rate_limited_x1"]
)
async def test_gateway_outage_delays_the_order_and_charges_once(worker: Client, token: str) -> None:
    order = await run_to_the_end(worker, await aplace(token=token))
    assert order.status == OrderStatus.COMPLETED
    assert await gateway_ledger(order) == ["charge"]
    assert (await books_of(order)).events == ["charged"]


PAUSES = {
    # Where an attempt of each step can be held: at the lock of its own key, before any effect.
    step: ("orders_stepkey", "INSERT", f"NEW.step = '{step}'")
    for step in ("create_order", "reserve_inventory", "process_payment", "send_confirmation_email")
} | {"charged": ("payments_paymentevent", "INSERT", "NEW.kind = 'charged'")}
NOTHING_CHARGED = [("refund_payment", "nothing_to_undo"), *ALL_UNDONE[1:]]


@pytest.mark.parametrize(
    ("step", "undos"),
    [
        # The saga hears of it when its workflow task ends, and whoever has cancelled is not charged any more.
        ("create_order", NOTHING_CHARGED),
        ("reserve_inventory", NOTHING_CHARGED),
        ("process_payment", NOTHING_CHARGED),
        ("charged", ALL_UNDONE),
        ("send_confirmation_email", ALL_UNDONE),
    ],
)
async def test_cancel_while_a_step_runs(worker: Client, step: str, undos: list[tuple[str, str]]) -> None:
    table, event, when = PAUSES[step]
    order = await aplace()
    with pausing(table, event, when=when) as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what=f"{step} running")
        decision = await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="changed my mind")
        assert decision.changed
        await hand_over(worker)
    await saga_of(worker, order).result()
    order = await fetch(order)
    assert (order.status, order.failure_type) == (OrderStatus.CANCELLED, "CancelRequested")
    assert undos_of(order) == undos
    books = await books_of(order)
    assert (books.net, books.held) == (0, 0)
    await acheck_stock_sums()


async def test_complete_order_loses_to_a_cancel_that_came_first(worker: Client) -> None:
    order = await aplace()
    with (
        pausing("notifications_emailmessage", "UPDATE", when="NEW.state = 'sent'", key=1) as confirmation,
        pausing("orders_orderaction", "INSERT", when="NEW.kind = 'cancel_order'", key=2) as cancel,
    ):
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(confirmation.is_reached), what="the mail being sent")
        # The cancel holds the order's row; complete_order has to wait for it.
        cancelling = asyncio.create_task(
            call(desk.cancel_order, order_id=order.pk, actor="ada", reason="changed my mind")
        )
        await until(lambda: asyncio.to_thread(cancel.is_reached), what="the cancel being written")
        confirmation.release()
        await until(lambda: asyncio.to_thread(is_blocked, 'UPDATE "orders_order"'), what="complete_order")
        cancel.release()
        assert (await cancelling).changed
    await saga_of(worker, order).result()  # without its signal: the database has decided
    await hand_over(worker)  # the signal is moot, and counts as delivered
    order = await fetch(order)
    assert (order.status, order.failed_step) == (OrderStatus.CANCELLED, "complete_order")
    assert order.failure_type == "CancelRequested"
    assert undos_of(order) == ALL_UNDONE
    assert not await run_in_db(OutboxMessage.objects.filter(delivered_at=None).exists)


async def test_cancel_after_complete_order_takes_the_order_back(worker: Client) -> None:
    order = await aplace()
    with pausing("orders_order", "UPDATE", when="NEW.status = 'completed'") as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="complete_order running")
        cancelling = asyncio.create_task(
            call(desk.cancel_order, order_id=order.pk, actor="ada", reason="changed my mind")
        )
        await until(lambda: asyncio.to_thread(is_blocked, "FOR NO KEY UPDATE"), what="the cancel waiting")
        pause.release()
        decision = await cancelling
    assert (decision.changed, decision.order.status) == (True, OrderStatus.CANCELLING)
    assert await saga_of(worker, order).result() == "completed"
    await hand_over(worker)
    assert await saga_of(worker, order, cancel=True).result() == "cancelled"
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert read_trail(order) == [*((name, "done") for name in STEPS), *ALL_UNDONE]


async def test_cancel_cuts_the_wait_for_a_retry(worker: Client, settings: Any) -> None:
    settings.SAGA_RETRY_INITIAL = 60.0
    settings.SAGA_RETRY_MAXIMUM = 60.0
    order = await aplace(token="tok_error_500")
    await hand_over(worker)

    async def has_failed() -> bool:
        return ("process_payment", "failed") in read_trail(await fetch(order))

    await until(has_failed)
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="waits too long")
    await hand_over(worker)
    await asyncio.wait_for(saga_of(worker, order).result(), 15)
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert undos_of(order) == NOTHING_CHARGED


async def test_temporals_own_cancel_means_the_same(worker: Client) -> None:
    order = await aplace()
    table, event, when = PAUSES["process_payment"]
    with pausing(table, event, when=when) as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached))
        await saga_of(worker, order).cancel()
    assert await saga_of(worker, order).result() == "cancelled"
    order = await fetch(order)
    assert (order.status, order.failure_type) == (OrderStatus.CANCELLED, "CancelRequested")
    assert undos_of(order) == ALL_UNDONE


async def test_rollback_ignores_further_cancels(worker: Client) -> None:
    order = await aplace(LAPTOPS)
    with pausing("orders_stepkey", "UPDATE", when="NEW.step = 'create_order'") as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="cancel_order running")
        decision = await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="again")
        assert not decision.changed
        await saga_of(worker, order).signal("cancel")
        await saga_of(worker, order).cancel()
    assert await saga_of(worker, order).result() == "cancelled"
    assert undos_of(await fetch(order)) == NOTHING_CHARGED


async def test_charge_the_gateway_calls_malformed_rolls_back(worker: Client) -> None:
    """Retrying our own bug would hold the stock for a day."""
    order = await aplace()
    await run_in_db(Order.objects.filter(pk=order.pk).update, currency="E1R")
    order = await run_to_the_end(worker, order)
    assert (order.status, order.failure_type) == (OrderStatus.CANCELLED, "PaymentRefused")
    assert (await books_of(order)).held == 0
