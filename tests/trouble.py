"""Trouble for the work queue, made as the saga and the desk make it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from orders.models import (
    CancelRequest,
    Order,
    OutboxMessage,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.sentences import WorkItem
from orders.trail import flag_repeated
from payments import services as payments
from payments.gateways.protocol import Charge


def charge(order: Order) -> None:
    """The payment's row and the charge, as `process_payment` leaves them."""
    payments.start_charge(order_id=order.pk)
    payments.record_charge(
        order_id=order.pk,
        charge=Charge(
            id=f"ch_{order.number}",
            key=payments.charge_key(order.pk),
            amount_minor=payments.to_minor(order.total),
            currency="EUR",
            refunded_minor=0,
        ),
    )


def fail(order: Order, name: str, error: str, *, attempts: int = 12, **changes: Any) -> None:
    """A step or undo that has failed so often that the order was flagged."""
    now = timezone.now()
    kind = StepKind.STEP if name in ("create_order", "process_payment") else StepKind.UNDO
    TrailEntry.objects.create(
        **{
            "order": order,
            "name": name,
            "kind": kind,
            "state": StepState.FAILED,
            "attempts": attempts,
            "started_at": now,
            "finished_at": now,
            "error_type": "GatewayDown",
            "error": error,
            **changes,
        }
    )
    flag_repeated(order_id=str(order.pk), activity=name, number=attempts + 1)


def make_old(order: Order, **ages: float) -> None:
    """Move the order into the past: `accepted_at=600` seconds ago; its message was delivered at once."""
    now = timezone.now()
    Order.objects.filter(pk=order.pk).update(
        **{name: now - timedelta(seconds=age) for name, age in ages.items()}
    )
    OutboxMessage.objects.filter(order=order).update(delivered_at=now)


# What a viewer of orders sees of the queue.
VIEWS = ("view_order", "view_attentionflag", "view_cancelrequest", "view_outboxmessage")


def ask_to_cancel(order: Order, user: User, reason: str, refund: str = "900.00") -> CancelRequest:
    return CancelRequest.objects.create(order=order, refund=Decimal(refund), reason=reason, requested_by=user)


def only(items: list[WorkItem]) -> WorkItem:
    """The only item of the queue."""
    assert len(items) == 1, [item.sentence for item in items]
    return items[0]


def slugs(item: WorkItem) -> list[str]:
    return [action.slug for action in item.actions]
