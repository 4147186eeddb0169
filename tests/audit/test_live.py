"""A desk at work is audited again and again: whatever moment the snapshot catches, nothing is wrong."""

import asyncio
import random
from typing import Any

import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from inventory.models import Product
from inventory.services import receive_stock
from orders import desk
from orders.audit.books import audit_books
from orders.models import Order, OrderStatus
from orders.refusals import StateConflict
from orders.services import Item
from tests.conftest import until
from tests.desk import LAPTOPS, acheck_stock_sums, aplace, call, hand_over
from tests.gateway import Server

ORDERS = 40
FEWEST_AUDITS = 5
ENDED = (OrderStatus.COMPLETED, OrderStatus.SHIPPED, OrderStatus.CANCELLED)
WISHES: list[tuple[list[Item], str]] = [
    ([Item("HEAD-ANC", 1), Item("PEN-BRASS", 2)], "tok_ok"),
    ([Item("PEN-BRASS", 1), Item("HEAD-ANC", 1)], "tok_answer_lost_x1"),
    ([Item("NOTE-A5", 3)], "tok_error_500_x2"),
    ([Item("NOTE-A5", 1)], "tok_ok__refund_answer_lost_x1__close_error_500_x1"),
    ([Item("BAG-ROLL", 5000)], "tok_ok"),
    (LAPTOPS, "tok_ok"),
]


@pytest.mark.timeout(240)
async def test_audit_of_a_desk_at_work_finds_nothing(
    worker: Client, own_gateway: Server, settings: Any
) -> None:
    rng = random.Random(7)
    stop = asyncio.Event()

    async def dispatch() -> None:
        while not stop.is_set():
            await hand_over(worker)
            await asyncio.sleep(0.02)

    async def audit_on_and_on() -> int:
        audits = 0
        while not stop.is_set() or audits < FEWEST_AUDITS:
            report = await audit_books(ask_gateway=True)
            assert [found.sentence for found in report.violations] == []
            audits += 1
        return audits

    async def go_through(number: int) -> None:
        """Placed; and perhaps shipped, or cancelled at some moment."""
        items, token = WISHES[number % len(WISHES)]
        order = await aplace(items, token=token)
        wish = rng.choice(["leave", "cancel", "cancel", "ship"])
        await asyncio.sleep(rng.random() * 4)
        try:
            if wish == "cancel":
                await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
            elif wish == "ship":
                await call(desk.ship_order, order_id=order.pk, actor="ada")
        except StateConflict:
            pass
        product = await run_in_db(Product.objects.get, sku="NOTE-A5")
        await run_in_db(receive_stock, product_id=product.pk, quantity=1)

    async def all_have_ended() -> bool:
        unended = Order.objects.exclude(status__in=ENDED)
        return not await run_in_db(unended.exists)

    dispatching, auditing = asyncio.create_task(dispatch()), asyncio.create_task(audit_on_and_on())
    try:
        await asyncio.gather(*(go_through(number) for number in range(ORDERS)))
        await until(all_have_ended, within=120, what="all orders have ended")
    finally:
        stop.set()
        await asyncio.gather(dispatching)
    assert await auditing >= FEWEST_AUDITS
    settings.AUDIT_QUIET_FOR = 0.0  # all have ended, so that all are compared
    report = await audit_books(ask_gateway=True)
    assert (report.total, report.orders) == (0, ORDERS)
    await acheck_stock_sums()
