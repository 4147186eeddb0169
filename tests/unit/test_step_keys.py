"""The key of a step: one statement makes and locks it, and who waits for it sees what the holder wrote."""

import asyncio

import psycopg
import pytest

from config.temporal import run_in_db
from orders.models import StepKey
from orders.refusals import AlreadyUndone
from tests.conftest import until
from tests.desk import aplace
from tests.faults import connect, is_blocked

STEP = "reserve_inventory"
TOMBSTONE = "INSERT INTO orders_stepkey (order_id, step, undone_at) VALUES (%s, %s, now())"
WEAKEST_LOCK = "SELECT FROM orders_stepkey WHERE order_id = %s AND step = %s FOR KEY SHARE NOWAIT"


async def test_step_waits_for_the_undo_that_holds_the_key_and_sees_its_tombstone(shop: None) -> None:
    order = await aplace()
    with connect() as undo:
        undo.execute("BEGIN")
        undo.execute(TOMBSTONE, [order.pk, STEP])
        locking = asyncio.create_task(run_in_db(StepKey.objects.lock_step, order_id=order.pk, step=STEP))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_stepkey"), what="the step waiting")
        undo.execute("COMMIT")
        with pytest.raises(AlreadyUndone, match="came too late"):
            await locking


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
