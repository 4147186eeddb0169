"""What the tests of an order's page share: reading it, and what may stand on it."""

import re
from decimal import Decimal
from html import unescape
from typing import Any

from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone

from notifications.models import EmailKind, EmailMessage, EmailState
from orders.models import (
    STEP_OF_UNDO,
    CancelRequest,
    Order,
    StepKind,
    StepState,
    TrailEntry,
)
from payments.models import EventKind, Payment, PaymentEvent, PaymentState
from tests.desk import place
from tests.e2e.doors import LIST, page_of, set_status

MAILS = "/admin/notifications/emailmessage/"

SECTION = re.compile(r'<(section|nav) [^>]*data-live-section="(\w+)".*?</\1>', re.S)


def live_of(order: Order) -> str:
    return f"{LIST}{order.pk}/live/"


def read(browser: Browser, order: Order) -> str:
    """The order's page."""
    response = browser.get(page_of(order))
    assert response.status_code == 200
    return response.content.decode()


def read_status(page: str) -> str:
    """The status line as text."""
    status = re.search(r'<section id="status".*?<p>(.*?)</p>', page, re.S)
    assert status is not None
    return unescape(re.sub(r"<[^>]+>", "", status[1]))


def read_rows(page: str) -> list[tuple[str, str]]:
    """(code name, badge) of each line of the timeline."""
    return re.findall(r'<code>(\w+)</code> <span class="od-badge od-\w+">([\w ]+)</span></div>', page)


def read_offers(page: str) -> list[str]:
    """The labels of the action bar."""
    bar = re.search(r'<nav id="act".*?</nav>', page, re.S)
    assert bar is not None
    return [unescape(label) for label in re.findall(r">([^<>]+)</a>", bar[0])]


def write_trail(order: Order, *entries: tuple[str, str], **changes: Any) -> TrailEntry:
    """Trail rows as the saga leaves them; `changes` go into the last one, which is returned."""
    now = timezone.now()
    rows = [
        TrailEntry(
            order=order,
            name=name,
            kind=StepKind.UNDO if name in STEP_OF_UNDO else StepKind.STEP,
            state=state,
            started_at=now,
            finished_at=None if state == StepState.RUNNING else now,
            ms=None if state == StepState.RUNNING else 12,
            worker="worker-1",
        )
        for name, state in entries
    ]
    for name, value in changes.items():
        setattr(rows[-1], name, value)
    TrailEntry.objects.bulk_create(rows)
    return rows[-1]


def write_mail(order: Order, kind: str = EmailKind.CONFIRMATION, **changes: Any) -> EmailMessage:
    fields: dict[str, Any] = {
        "copy": 0,
        "state": EmailState.SENT,
        "sent_at": timezone.now(),
        "recipient": order.customer_email,
        "subject": f"Your order {order.number}",
        "text": "Thank you.",
        "html": "<h1 style='color:red'>Thank you</h1>",
        **changes,
    }
    message_id = f"<{kind}.{fields['copy']}.{order.pk}@shop.example>"
    return EmailMessage.objects.create(order=order, kind=kind, message_id=message_id, **fields)


def charge(order: Order) -> Payment:
    payment = Payment.objects.create(
        order=order, amount=order.total, currency="EUR", token="tok_ok", state=PaymentState.CHARGED
    )
    PaymentEvent.objects.create(payment=payment, kind=EventKind.CHARGED, amount=order.total)
    return payment


def turn_back(placed: Order, status: str, failure_type: str = "CancelRequested", **changes: Any) -> None:
    """The order as its rollback leaves it in this status."""
    set_status(placed, status)
    Order.objects.filter(pk=placed.pk).update(failure_type=failure_type, failure="internal", **changes)


def ask_to_cancel(order: Order, asked_by: User) -> CancelRequest:
    return CancelRequest.objects.create(
        order=order, refund=Decimal("400.00"), reason="wrong colour", requested_by=asked_by
    )


def make_stuck(undo: str = "refund_payment") -> Order:
    """An order whose rollback waits for this undo."""
    order = place()
    set_status(order, "cancelling")
    write_trail(order, (undo, StepState.FAILED), error_type="GatewayUnavailable", error="no verdict")
    return order
