"""The key of a step: one statement makes and locks it, and who waits for it sees what the holder wrote.

Steps do more in the statement that waits. What the holder has done meanwhile they must not do again.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from config.temporal import run_in_db
from inventory import services as inventory
from inventory.models import Hold, StockItem, StockMovement
from notifications import services as notifications
from notifications.models import EmailMessage
from orders import services as orders
from orders.models import Order, OrderStatus, StepKey, StepState
from orders.refusals import AlreadyUndone, CancelRequested
from orders.rollback import begin_rollback, cancel_order
from payments import services as payments
from payments.gateways.protocol import Charge
from payments.models import Payment, PaymentEvent
from tests.conftest import until
from tests.desk import aplace
from tests.faults import connect, is_blocked

STEP = "reserve_inventory"
TOMBSTONE = "INSERT INTO orders_stepkey (order_id, step, undone_at) VALUES (%s, %s, now())"
WEAKEST_LOCK = "SELECT FROM orders_stepkey WHERE order_id = %s AND step = %s FOR KEY SHARE NOWAIT"


def record_charge(*, order_id: UUID) -> None:
    key = payments.charge_key(order_id)
    charge = Charge(id="ch_1", key=key, amount_minor=40000, currency="EUR", refunded_minor=0)
    payments.record_charge(order_id=order_id, charge=charge)


def begin(*, order_id: UUID) -> None:
    begin_rollback(order_id=order_id, failed_step=STEP, failure_type="OutOfStock", failure="why")


def read_books(order_id: UUID) -> list[Any]:
    """All that a step writes of an order, as plain values."""
    return [
        Order.objects.values_list("status", "rolled_back_at").get(pk=order_id),
        list(StockItem.objects.order_by("pk").values_list("pk", "reserved")),
        *(
            list(rows.order_by("pk").values())
            for rows in (
                Hold.objects.filter(order=order_id),
                StockMovement.objects.filter(order=order_id),
                Payment.objects.filter(order=order_id),
                PaymentEvent.objects.filter(payment__order=order_id),
                EmailMessage.objects.filter(order=order_id),
            )
        ),
    ]


@pytest.mark.parametrize(
    ("step", "carry_out"),
    [
        ("create_order", orders.create_order),
        ("reserve_inventory", inventory.reserve_inventory),
        ("process_payment", payments.start_charge),
        ("send_confirmation_email", notifications.prepare_confirmation),
    ],
)
async def test_step_waits_for_the_undo_that_holds_the_key_and_does_nothing(
    shop: None, step: str, carry_out: Callable[..., Any]
) -> None:
    order = await aplace()
    before = await run_in_db(read_books, order_id=order.pk)
    with connect() as undo:
        undo.execute("BEGIN")
        undo.execute(TOMBSTONE, [order.pk, step])
        carrying = asyncio.create_task(run_in_db(carry_out, order_id=order.pk))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_stepkey"), what="the step waiting")
        undo.execute("COMMIT")
        with pytest.raises(AlreadyUndone, match=f"{step} came too late"):
            await carrying
    assert await run_in_db(read_books, order_id=order.pk) == before


@pytest.mark.parametrize(
    ("earlier", "carry_out"),
    [
        ([], orders.create_order),
        ([], inventory.reserve_inventory),
        ([], payments.start_charge),
        ([payments.start_charge], record_charge),
        ([], notifications.prepare_confirmation),
        ([], notifications.prepare_cancellation),
        ([inventory.reserve_inventory], inventory.release_inventory),
        ([begin], cancel_order),
    ],
)
async def test_attempt_that_waits_for_another_changes_nothing_after_it(
    shop: None, earlier: list[Callable[..., Any]], carry_out: Callable[..., Any]
) -> None:
    order = await aplace()
    for service in earlier:
        await run_in_db(service, order_id=order.pk)
    (answer, books), second = await meet(order, carry_out, carry_out)
    assert second == answer
    assert await run_in_db(read_books, order_id=order.pk) == books


async def test_release_that_waits_for_the_reservation_gives_its_holds_back(shop: None) -> None:
    order = await aplace()
    _, released = await meet(order, inventory.reserve_inventory, inventory.release_inventory)
    assert released == StepState.DONE
    assert await run_in_db(lambda: [hold.state for hold in Hold.objects.filter(order=order)]) == ["released"]
    assert not await run_in_db(StockItem.objects.exclude(reserved=0).exists)


async def meet(
    order: Order, first: Callable[..., Any], second: Callable[..., Any]
) -> tuple[tuple[Any, list[Any]], Any]:
    """Carry out `second` while `first`, which has done its work, has yet to commit. Gives the first's answer
    with the books that it left, and the second's answer."""
    is_done, may_commit = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def carry_out_and_hold() -> tuple[Any, list[Any]]:
        answer = first(order_id=order.pk)
        books = read_books(order.pk)
        loop.call_soon_threadsafe(is_done.set)
        assert may_commit.wait(20)
        return answer, books

    holding = asyncio.create_task(run_in_db(carry_out_and_hold))
    await asyncio.wait_for(is_done.wait(), 20)
    waiting = asyncio.create_task(run_in_db(second, order_id=order.pk))
    await until(lambda: asyncio.to_thread(is_blocked, "orders_stepkey"), what="the second one waiting")
    may_commit.set()
    return await holding, await waiting


async def test_charge_waits_for_a_cancel_that_holds_the_order_and_is_not_started(shop: None) -> None:
    order = await aplace()
    with connect() as cancel:
        cancel.execute("BEGIN")
        cancel.execute("UPDATE orders_order SET cancel_requested_at = now() WHERE id = %s", [order.pk])
        charging = asyncio.create_task(run_in_db(payments.start_charge, order_id=order.pk))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the charge waiting")
        cancel.execute("COMMIT")
        with pytest.raises(CancelRequested):
            await charging
    assert not await run_in_db(Payment.objects.filter(order=order).exists)


async def test_order_that_turns_back_meanwhile_is_not_created(shop: None) -> None:
    order = await aplace()
    with connect() as rollback:
        rollback.execute("BEGIN")
        rollback.execute(
            "UPDATE orders_order SET status = 'cancelling', rollback_started_at = now() WHERE id = %s",
            [order.pk],
        )
        creating = asyncio.create_task(run_in_db(orders.create_order, order_id=order.pk))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the step waiting")
        rollback.execute("COMMIT")
        await creating
    await run_in_db(order.refresh_from_db)
    assert order.status == OrderStatus.CANCELLING


async def test_key_that_was_there_is_locked_against_everybody(shop: None) -> None:
    order = await aplace()
    made = await run_in_db(StepKey.objects.lock, order_id=order.pk, step=STEP)

    def lock_again() -> StepKey:
        key = StepKey.objects.lock(order.pk, STEP)
        with connect() as other, pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(WEAKEST_LOCK, [order.pk, STEP])
        return key

    assert (await run_in_db(lock_again)).pk == made.pk
    with connect() as other:
        other.execute(WEAKEST_LOCK, [order.pk, STEP])


async def test_second_undo_keeps_the_first_ones_tombstone(shop: None) -> None:
    order = await aplace()
    first = await run_in_db(StepKey.objects.lock_undo, order_id=order.pk, step=STEP)
    assert first.undone_at is not None
    again = await run_in_db(StepKey.objects.lock_undo, order_id=order.pk, step=STEP)
    locked = await run_in_db(StepKey.objects.lock, order_id=order.pk, step=STEP)
    assert again.undone_at == locked.undone_at == first.undone_at
