"""The beginning of a rollback beside transactions that are still open."""

import asyncio

from config.temporal import run_in_db
from orders.models import Order
from orders.rollback import begin_rollback
from tests.conftest import until
from tests.desk import aplace
from tests.faults import connect, is_blocked

STEP = "reserve_inventory"
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
