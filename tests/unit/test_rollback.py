"""The beginning of a rollback beside transactions that are still open."""

import asyncio
from collections.abc import Callable

import pytest

from config.temporal import run_in_db
from inventory.models import Hold
from inventory.services import reserve_inventory
from orders.models import Order
from orders.refusals import AlreadyUndone
from orders.rollback import begin_rollback
from payments.models import Payment
from payments.services import start_charge
from tests.conftest import until
from tests.desk import aplace
from tests.faults import connect, is_blocked, pausing

STEP = "reserve_inventory"
TURN_BACK = "UPDATE orders_order SET status = 'cancelling', rollback_started_at = now() WHERE id = %s"
FAILED = """
    INSERT INTO orders_trailentry
        (order_id, name, kind, state, attempts, started_at, finished_at, error_type, error, worker, retry_at)
    VALUES (%s, %s, 'step', 'failed', 1, now(), now(), 'Error', 'busy', 'worker-1', now())
"""


async def begin(order: Order) -> list[str] | None:
    return await run_in_db(
        begin_rollback, order_id=order.pk, failed_step=STEP, failure_type="Error", failure="why"
    )


async def test_step_that_commits_meanwhile_is_among_those_that_have_begun(shop: None) -> None:
    order = await aplace()
    with connect() as retry:
        retry.execute(FAILED, [order.pk, STEP])
        retry.execute("BEGIN")
        retry.execute("INSERT INTO orders_stepkey (order_id, step) VALUES (%s, %s)", [order.pk, STEP])
        retry.execute(
            "UPDATE orders_trailentry SET state = 'done', retry_at = NULL WHERE order_id = %s", [order.pk]
        )
        beginning = asyncio.create_task(begin(order))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_trailentry"), what="the rollback waiting")
        retry.execute("COMMIT")
    assert await beginning == [STEP]


async def test_order_that_is_shipped_meanwhile_is_not_turned_back(shop: None) -> None:
    order = await aplace()
    with connect() as shipping:
        shipping.execute("BEGIN")
        shipping.execute("UPDATE orders_order SET status = 'shipped' WHERE id = %s", [order.pk])
        beginning = asyncio.create_task(begin(order))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the rollback waiting")
        shipping.execute("COMMIT")
    assert await beginning is None
    await run_in_db(order.refresh_from_db)
    assert (order.status, order.rollback_started_at) == ("shipped", None)


@pytest.mark.parametrize("step", [reserve_inventory, start_charge])
async def test_step_that_waits_for_a_rollback_to_begin_takes_no_effect(
    shop: None, step: Callable[..., object]
) -> None:
    """The rollback has not seen its key, so nothing would undo it."""
    order = await aplace()
    with connect() as turning:
        turning.execute("BEGIN")
        turning.execute(
            "UPDATE orders_order SET status = 'cancelling', rollback_started_at = now() WHERE id = %s",
            [order.pk],
        )
        attempt = asyncio.create_task(run_in_db(step, order_id=order.pk))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the step waiting")
        turning.execute("COMMIT")
    with pytest.raises(AlreadyUndone):
        await attempt
    assert not await run_in_db(Hold.objects.filter(order=order).exists)
    assert not await run_in_db(Payment.objects.filter(order=order).exists)
    assert await begin(order) == []


async def test_rollback_that_waits_for_a_reservation_knows_of_it(shop: None) -> None:
    order = await aplace()
    with pausing("inventory_hold", "INSERT") as pause:
        reserving = asyncio.create_task(run_in_db(reserve_inventory, order_id=order.pk))
        await until(lambda: asyncio.to_thread(pause.is_reached), what="the reservation")
        beginning = asyncio.create_task(begin(order))
        await until(lambda: asyncio.to_thread(is_blocked, "orders_order"), what="the rollback waiting")
    await reserving
    assert await beginning == [STEP]
