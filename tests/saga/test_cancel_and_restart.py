"""Cancelling completed orders, cancelling twice, shipping against cancelling, and sagas started again."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy

from config.temporal import run_in_db
from orders import desk
from orders.dispatch import read_policy
from orders.models import Order, OrderStatus, OutboxMessage
from orders.refusals import StateConflict
from orders.sagas.policy import SagaInput
from tests.conftest import until
from tests.desk import (
    LAPTOPS,
    acheck_stock_sums,
    aplace,
    books_of,
    call,
    fetch,
    gateway_ledger,
    hand_over,
    read_trail,
    run_to_the_end,
    saga_of,
    stock_of,
    undos_of,
)
from tests.faults import is_blocked, pausing


async def test_cancel_of_a_completed_order_gives_everything_back(worker: Client) -> None:
    before = await stock_of("HEAD-ANC")
    order = await run_to_the_end(worker, await aplace())
    decision = await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    assert decision.order.status == OrderStatus.CANCELLING
    await hand_over(worker)
    assert await saga_of(worker, order, cancel=True).result() == "cancelled"
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert [name for name, _ in undos_of(order)] == [
        "refund_payment",
        "release_inventory",
        "cancel_order",
        "send_cancellation_email",
    ]
    books = await books_of(order)
    assert (books.events, books.net, books.holds) == (["charged", "refunded"], 0, ["released"])
    assert await gateway_ledger(order) == ["charge", "refund"]
    assert await stock_of("HEAD-ANC") == before


async def test_second_cancel_changes_nothing(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    first = await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="one")
    second = await call(desk.cancel_order, order_id=order.pk, actor="bob", reason="two")
    assert (first.changed, second.changed) == (True, False)
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    third = await call(desk.cancel_order, order_id=order.pk, actor="bob", reason="three")
    assert (third.changed, third.order.status) == (False, OrderStatus.CANCELLED)
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_cancel_before_the_start_is_delivered(worker: Client) -> None:
    order = await aplace()
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="at once")
    await hand_over(worker)  # the start; the signal waits for it
    await hand_over(worker)
    await saga_of(worker, order).result()
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert (await books_of(order)).net == 0


async def test_shipped_order_is_sold_and_cannot_be_cancelled(worker: Client) -> None:
    on_hand, reserved = await stock_of("HEAD-ANC")
    order = await run_to_the_end(worker, await aplace())
    await call(desk.ship_order, order_id=order.pk, actor="ada")
    assert await stock_of("HEAD-ANC") == (on_hand - 2, reserved)
    with pytest.raises(StateConflict, match="shipped"):
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="late")
    again = await call(desk.ship_order, order_id=order.pk, actor="ada")
    assert not again.changed
    await acheck_stock_sums()


@pytest.mark.parametrize("first", ["ship", "cancel"])
async def test_ship_and_cancel_race_for_one_row(worker: Client, first: str) -> None:
    """Both run at the same moment; whoever has the row first wins, and the other is told the state."""
    order = await run_to_the_end(worker, await aplace())
    ship: Any = lambda: call(desk.ship_order, order_id=order.pk, actor="ada")  # noqa: E731
    cancel: Any = lambda: call(desk.cancel_order, order_id=order.pk, actor="bob", reason="race")  # noqa: E731
    winner, loser = (ship, cancel) if first == "ship" else (cancel, ship)
    with pausing("orders_orderaction", "INSERT") as pause:
        winning = asyncio.create_task(winner())
        await until(lambda: asyncio.to_thread(pause.is_reached), what="the winner holding the row")
        losing = asyncio.create_task(loser())
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the loser waiting")
        pause.release()
        assert (await winning).changed
        with pytest.raises(StateConflict, match=r"shipped|cancelling"):
            await losing
    order = await fetch(order)
    assert order.status == (OrderStatus.SHIPPED if first == "ship" else OrderStatus.CANCELLING)
    if first == "cancel":
        await hand_over(worker)
        await saga_of(worker, order, cancel=True).result()
        assert (await books_of(order)).net == 0
    await acheck_stock_sums()


async def start_again(client: Client, order: Order, saga: str, settings: Any) -> str:
    """Start a saga for the order although Temporal has forgotten the first, and return how it ended."""
    result: str = await client.execute_workflow(
        saga,
        SagaInput(order_id=str(order.pk), policy=read_policy()),
        id=f"order-{order.pk}" if saga == "PlaceOrderSaga" else f"order-{order.pk}-cancel",
        task_queue=settings.SAGA_TASK_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        result_type=str,
    )
    return result


@pytest.mark.parametrize("status", ["pending", "created", "completed", "shipped", "cancelling", "cancelled"])
async def test_saga_started_again_for_an_order_in_every_status(
    worker: Client, settings: Any, status: str
) -> None:
    order = await aplace(LAPTOPS if status == "cancelled" else None)
    if status == "created":
        await run_in_db(Order.objects.filter(pk=order.pk).update, status="created")
    elif status in ("completed", "shipped", "cancelling", "cancelled"):
        order = await run_to_the_end(worker, order)
    if status == "shipped":
        await call(desk.ship_order, order_id=order.pk, actor="ada")
    if status == "cancelling":
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    before = await fetch(order)
    assert before.status == status
    ended = await start_again(worker, order, "PlaceOrderSaga", settings)
    after = await fetch(order)
    if status in ("pending", "created"):
        assert (ended, after.status) == ("completed", OrderStatus.COMPLETED)
        assert await gateway_ledger(order) == ["charge"]
    elif status == "cancelling":  # whoever turned it back may have died over it
        assert (ended, after.status) == ("cancelled", OrderStatus.CANCELLED)
        assert await gateway_ledger(order) == ["charge", "refund"]
    else:
        assert ended == "already_final"
        assert (after.status, read_trail(after)) == (status, read_trail(before))
    await acheck_stock_sums()


async def test_message_delivered_again_after_its_saga_has_ended_starts_nothing(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    ran = await saga_of(worker, order).describe()
    due_again: dict[str, Any] = {"delivered_at": None, "next_attempt_at": order.accepted_at}
    await run_in_db(OutboxMessage.objects.filter(order=order).update, **due_again)
    await hand_over(worker)
    assert (await saga_of(worker, order).describe()).run_id == ran.run_id
    message = await run_in_db(OutboxMessage.objects.get, order=order)
    assert (message.delivered_at is not None, message.last_error) == (True, "")


@pytest.mark.parametrize("status", ["shipped", "cancelled"])
async def test_cancel_saga_started_again_undoes_nothing(worker: Client, settings: Any, status: str) -> None:
    order = await run_to_the_end(worker, await aplace(LAPTOPS if status == "cancelled" else None))
    if status == "shipped":
        await call(desk.ship_order, order_id=order.pk, actor="ada")
    before = await gateway_ledger(order)
    assert await start_again(worker, order, "CancelOrderSaga", settings) == "already_final"
    assert (await fetch(order)).status == status
    assert await gateway_ledger(order) == before


async def test_running_saga_keeps_the_policy_it_started_with(worker: Client, settings: Any) -> None:
    """Settings change while the saga runs and its history is replayed: its timeouts stay its own."""
    order = await aplace(token="tok_error_500_x2")
    with pausing("orders_stepkey", "INSERT", when="NEW.step = 'process_payment'") as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="the payment")
        settings.SAGA_STEP_DEADLINE = 0.001
        settings.SAGA_ATTEMPT_TIMEOUT = 0.001
        settings.SAGA_EMAIL_REQUIRED = False
    assert await saga_of(worker, order).result() == "completed"
    history = await saga_of(worker, order).fetch_history()
    timeouts = {
        event.activity_task_scheduled_event_attributes.schedule_to_close_timeout.ToTimedelta().total_seconds()
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    }
    assert timeouts == {60.0}


async def test_restarted_saga_undoes_what_its_lost_run_began(worker: Client, settings: Any) -> None:
    """Temporal has lost the run that charged; the next is cancelled before its first step."""
    order = await aplace()
    with pausing("orders_stepkey", "INSERT", when="NEW.step = 'send_confirmation_email'") as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="the mail step")
        await saga_of(worker, order).terminate()
    assert (await fetch(order)).status == OrderStatus.CREATED
    assert (await books_of(order)).net == order.total
    handle = await worker.start_workflow(
        "PlaceOrderSaga",
        SagaInput(order_id=str(order.pk), policy=read_policy()),
        id=f"order-{order.pk}",
        task_queue=settings.SAGA_TASK_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        start_signal="cancel",
        result_type=str,
    )
    assert await handle.result() == "cancelled"
    books = await books_of(order)
    assert (books.net, books.held) == (0, 0)
    assert await gateway_ledger(order) == ["charge", "refund"]
