"""What the tests of the admin's actions share: orders to act on, and reading the answers."""

from typing import Any

from django.utils import timezone

from inventory import services as inventory_services
from notifications import services as notifications_services
from orders.models import (
    AttentionFlag,
    Order,
    StepState,
    TrailEntry,
)
from orders.services import Item
from payments.models import EventKind, Payment, PaymentEvent, PaymentState
from tests.desk import place
from tests.e2e.doors import set_status

UNKNOWN = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


def read_page(response: Any) -> str:
    """The page with its white space made even."""
    return " ".join(response.content.decode().split())


def complete(*, amount: str = "61.20", held: int = 3) -> Order:
    """A completed order of TEE-M: paid, held and confirmed."""
    order = place([Item("TEE-M", held)])
    Order.objects.filter(pk=order.pk).update(total=amount)
    set_status(order, "completed")
    payment = Payment.objects.create(order=order, state=PaymentState.CHARGED, amount=amount, currency="EUR")
    PaymentEvent.objects.create(payment=payment, kind=EventKind.CHARGED, amount=amount)
    inventory_services.reserve_inventory(order_id=order.pk)
    email = notifications_services.prepare_confirmation(order_id=order.pk).email
    notifications_services.record_sent(email_id=email.pk)
    order.refresh_from_db()
    return order


def stick(order: Order, undo: str = "refund_payment") -> Order:
    """Leave the order with an undo that has failed, as the saga would."""
    set_status(order, "cancelling")
    now = timezone.now()
    TrailEntry.objects.create(
        order=order,
        name=undo,
        kind="undo",
        state=StepState.FAILED,
        started_at=now,
        finished_at=now,
        error_type="GatewayUnavailable",
        error="the gateway does not answer",
    )
    AttentionFlag.objects.raise_flag(order.pk, undo, f"{undo} has failed 10 times")
    return order


def finish(order: Order, undo: str) -> None:
    now = timezone.now()
    TrailEntry.objects.create(
        order=order, name=undo, kind="undo", state="done", started_at=now, finished_at=now
    )


GARBAGE = ["", "nonsense", "\x00", "9" * 30, "-1", "1.5", "<b>x</b>"]
