"""Temporal's data deleted under running orders: each is rolled back, and what was complete stays so."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from orders import desk
from orders.audit.books import audit_books
from orders.models import (
    FINISHED_STATES,
    SAGA_LOST,
    AttentionFlag,
    Order,
    OrderStatus,
    OutboxMessage,
    TrailEntry,
)
from orders.selectors import get_order
from orders.services import Item
from tests.crash.shopping import read_gateway, status_of
from tests.desk import PATIENCE, check_stock_sums, place, read_books, read_trail
from tests.own_services import own_temporal
from tests.processes import Crew, wait_until

pytestmark = pytest.mark.timeout(500)

# A round each second, and an attempt that is over in two: the settings' own proportions, in less time.
IMPATIENT = {
    "REPAIR_INTERVAL": "1",
    "REPAIR_AFTER": "2.5",
    "SAGA_ATTEMPT_TIMEOUT": "2",
    "PAYMENT_GATEWAY_TIMEOUT": "1.5",
    "SAGA_STEP_DEADLINE": "600",
    "SAGA_RETRY_INITIAL": "1",
    "SAGA_RETRY_MAXIMUM": "3",
}
NOTEBOOK = [Item("NOTE-A5", 1)]


def place_many(count: int, token: str) -> list[Order]:
    return [place(NOTEBOOK, token=token) for _ in range(count)]


def cancel(order: Order) -> None:
    desk.cancel_order(order_id=order.pk, actor="ada", reason="changed my mind")


def count_ended() -> int:
    """Orders that are complete, or rolled back with their customers told: two queries, asked often."""
    told = TrailEntry.objects.filter(name="send_cancellation_email", state__in=FINISHED_STATES)
    return told.count() + Order.objects.filter(status=OrderStatus.COMPLETED).count()


def have_failed(orders: list[Order], name: str) -> bool:
    """Whether every one of them has had an attempt of it that failed."""
    failed = TrailEntry.objects.filter(order__in=orders, name=name).exclude(error_type="")
    return failed.values("order").distinct().count() == len(orders)


def count_mails() -> Counter[str]:
    """How many distinct mails of each kind the mail server has for each order."""
    url = f"{os.environ['MAIL_SINK_URL']}/messages.json"
    answer = httpx.get(url, params={"to": "ada@example.com"}, timeout=PATIENCE)
    return Counter({message["message_id"] for message in answer.json()})


def test_orders_end_clean_when_temporal_loses_its_data_under_50_of_them(
    start: Callable[..., Crew], settings: Any, tmp_path: Path
) -> None:
    with own_temporal(tmp_path) as temporal:
        crew = start(2, TEMPORAL_ADDRESS=temporal.address, **IMPATIENT)
        crew.wait_ready(2)
        kept = place_many(5, "tok_ok")
        refunding = place_many(10, "tok_ok__refund_error_500_x6")
        wait_until(
            lambda: {status_of(order.pk) for order in [*kept, *refunding]} == {OrderStatus.COMPLETED},
            "they are complete",
            within=120,
        )
        for order in refunding:
            cancel(order)
        charging = place_many(10, "tok_error_500")
        slow = place_many(10, "tok_hang_s1")  # the charge is under way, and will be taken
        wait_until(
            lambda: have_failed(refunding, "refund_payment") and have_failed(charging, "process_payment"),
            "rollbacks and payments are being retried",
            within=120,
        )
        # A start that is not noted yet is delivered again, to whatever Temporal there is then.
        wait_until(
            lambda: not OutboxMessage.objects.filter(delivered_at=None).exists(), "their starts are noted"
        )
        fresh = place_many(15, "tok_ok")
        wait_until(lambda: any(status_of(order.pk) != "pending" for order in fresh), "the last ones move")

        temporal.kill()
        for file in tmp_path.glob("temporal.db*"):
            file.unlink()
        unwanted = charging[0]
        cancel(unwanted)  # which the saga that has it will never hear of
        completed = [order for order in [*slow, *fresh] if status_of(order.pk) == OrderStatus.COMPLETED]
        temporal.start()

        orders = [*kept, *refunding, *charging, *slow, *fresh]
        assert len(orders) == 50
        wait_until(
            lambda: count_ended() == len(orders),
            "all have come to their end",
            within=150,
        )
        lost = set(AttentionFlag.objects.filter(subject=SAGA_LOST).values_list("order", flat=True))
        assert {order.pk for order in charging} <= lost
        assert len(lost) > len(charging)  # some that were on their way back, or going well, too
        crew.clean_up()

    for order in [*kept, *completed]:
        assert status_of(order.pk) == OrderStatus.COMPLETED
    mails = count_mails()
    for order in orders:
        status, books, ledger = status_of(order.pk), read_books(order.pk), read_gateway(order.pk)
        assert mails[f"<cancellation.{order.pk}@shop.example>"] == (status == OrderStatus.CANCELLED)
        if status == OrderStatus.COMPLETED:
            assert (books.net, books.held, ledger) == (order.total, 1, ["charge"])
            assert order.pk not in lost
        else:
            assert status == OrderStatus.CANCELLED
            assert (books.net, books.held) == (0, 0)
            assert ledger.count("charge") == ledger.count("refund")
            # Staff are told once of each, and its trail has the line.
            assert order.pk in lost
            assert ("saga_lost", "lost") in read_trail(get_order(order.pk))
    assert not OutboxMessage.objects.filter(delivered_at=None).exists()
    assert OutboxMessage.objects.filter(kind="repair").count() == len(lost)
    check_stock_sums()
    report = asyncio.run(audit_books(ask_temporal=False))
    assert [violation.sentence for violation in report.violations] == []
