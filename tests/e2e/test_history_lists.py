"""The lists of what happened: found by order, linked to it, and read with as many queries at any length."""

from datetime import datetime

import pytest
from django.test import Client as Browser
from django.utils import timezone

from orders.models import CancelRequest, Order, TrailEntry
from payments.models import Payment, PaymentEvent
from tests.desk import place
from tests.e2e.doors import count_queries, make_user, page_of

LISTS = [
    f"/admin/{name}/"
    for name in (
        "orders/trailentry",
        "orders/orderaction",
        "orders/outboxmessage",
        "orders/cancelrequest",
        "payments/payment",
        "payments/paymentevent",
    )
]


def add_orders(count: int) -> list[Order]:
    """Orders with a row in each of the lists."""
    asks = make_user(f"ada-{Order.objects.count()}")
    now = timezone.now()
    orders = [place() for _ in range(count)]
    for order in orders:
        TrailEntry.objects.create(
            order=order, name="create_order", kind="step", state="done", started_at=now, finished_at=now
        )
        CancelRequest.objects.create(order=order, refund=400, reason="broken", requested_by=asks)
        payment = Payment.objects.create(
            order=order, amount=400, currency="EUR", token="tok_ok", state="charged"
        )
        PaymentEvent.objects.create(payment=payment, kind="charged", amount=400, reference=f"ch_{order.pk}")
    return orders


@pytest.mark.parametrize("address", LISTS)
def test_rows_are_found_by_their_orders_number_and_lead_to_it(boss: Browser, address: str) -> None:
    mine, other = add_orders(2)
    answer = boss.get(address, {"q": str(mine.number)})
    assert len(answer.context["cl"].result_list) == 1
    page = answer.content.decode()
    assert f'href="{page_of(mine)}"' in page
    assert f'href="{page_of(other)}"' not in page
    assert len(boss.get(address, {"q": "9" * 18}).context["cl"].result_list) == 0
    for odd in ("9" * 30, "9" * 5000, "\0", "%", "'"):
        assert boss.get(address, {"q": odd}, follow=True).status_code == 200


@pytest.mark.parametrize("address", LISTS)
def test_a_list_takes_as_many_queries_at_any_length(boss: Browser, address: str) -> None:
    add_orders(2)
    short = count_queries(boss, address)
    add_orders(20)
    assert count_queries(boss, address) == short


def test_a_reference_is_found_also_where_it_is_a_number(boss: Browser) -> None:
    (order,) = add_orders(1)
    PaymentEvent.objects.create(
        payment=order.payment, kind="settled_outside", amount=-400, reference="777000777"
    )
    answer = boss.get("/admin/payments/paymentevent/", {"q": "777000777"})
    assert [event.kind for event in answer.context["cl"].result_list] == ["settled_outside"]


def test_the_trail_is_filtered_by_step(boss: Browser) -> None:
    (order,) = add_orders(1)
    now = timezone.now()
    TrailEntry.objects.create(
        order=order, name="refund_payment", kind="undo", state="done", started_at=now, finished_at=now
    )
    answer = boss.get("/admin/orders/trailentry/", {"name": "refund_payment"})
    assert [entry.name for entry in answer.context["cl"].result_list] == ["refund_payment"]


def test_times_are_short_and_by_the_24_hour_clock(boss: Browser) -> None:
    add_orders(1)
    TrailEntry.objects.update(started_at=datetime(2027, 2, 3, 14, 5, tzinfo=timezone.get_default_timezone()))
    assert "3 Feb 2027, 14:05" in boss.get("/admin/orders/trailentry/").content.decode()
