"""The made-up past against the services: for the same story both write the same rows."""

from collections import Counter
from typing import Any

import pytest
from django.db.models import Q, Sum

from inventory import services as inventory_services
from inventory.models import Hold, StockMovement
from notifications.models import EmailMessage
from notifications.services import prepare_cancellation, prepare_confirmation, record_sent
from orders import rollback, services
from orders.models import (
    AttentionFlag,
    Order,
    OrderAction,
    OrderLine,
    OutboxMessage,
    StepKey,
)
from orders.services import Item
from payments import services as payments_services
from payments.gateways.protocol import Charge, Refund
from payments.models import Payment, PaymentEvent
from tests.desk import place
from tests.e2e.past import make_past


@pytest.fixture
def past(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make_past(monkeypatch)


def describe(order: Order) -> dict[str, Any]:
    """An order's rows without what differs from order to order: ids, amounts, words and times."""
    order = Order.objects.get(pk=order.pk)
    quantity = Sum("quantity")
    units = OrderLine.objects.filter(order=order).aggregate(n=quantity)["n"]
    moved = StockMovement.objects.filter(order=order).values_list("kind", "on_hand_change", "reserved_change")
    times = ["completed_at", "shipped_at", "cancel_requested_at", "rollback_started_at", "rolled_back_at"]
    sums: Counter[str] = Counter()
    for kind, on_hand, reserved in moved:
        sums[f"{kind} on hand"] += on_hand
        sums[f"{kind} held"] += reserved
    payment = Payment.objects.filter(order=order).first()
    return {
        "status": order.status,
        "cause": (order.failed_step, order.failure_type),
        "times": [name for name in times if getattr(order, name)],
        "keys": sorted(
            (step, bool(undone), bool(resolved))
            for step, undone, resolved in StepKey.objects.filter(order=order).values_list(
                "step", "undone_at", "resolved_at"
            )
        ),
        "moved": {name: total / units for name, total in sums.items()},
        "holds": set(Hold.objects.filter(order=order).values_list("state", flat=True)),
        "payment": payment and (payment.state, bool(payment.charge_id), payment.amount == order.total),
        "events": [
            (kind, amount / order.total, reference[:3] if kind in ("charged", "refunded") else "", bool(note))
            for kind, amount, reference, note in PaymentEvent.objects.filter(
                payment__order=order
            ).values_list("kind", "amount", "reference", "note")
        ],
        "actions": [
            (kind, bool(reason), undo)
            for kind, reason, undo in OrderAction.objects.filter(order=order).values_list(
                "kind", "reason", "undo"
            )
        ],
        "outbox": [
            (kind, name, workflow_id.replace(str(order.pk), ""), argument)
            for kind, name, workflow_id, argument in OutboxMessage.objects.filter(order=order).values_list(
                "kind", "name", "workflow_id", "argument"
            )
        ],
        "mails": [
            (kind, copy, message_id.replace(str(order.pk), ""), recipient == order.customer_email)
            for kind, copy, message_id, recipient in EmailMessage.objects.filter(order=order).values_list(
                "kind", "copy", "message_id", "recipient"
            )
        ],
        "flags": AttentionFlag.objects.filter(order=order, cleared_at=None).count(),
    }


def send(prepare: Any, order: Order) -> None:
    record_sent(email_id=prepare(order_id=order.pk).email.pk)


def carry_out(order: Order, *, charged: bool = True) -> None:
    """The steps of the saga by their services, up to the payment or to the end."""
    services.create_order(order_id=order.pk)
    inventory_services.reserve_inventory(order_id=order.pk)
    request = payments_services.start_charge(order_id=order.pk)
    if not charged:
        payments_services.record_decline(order_id=order.pk, code="card_declined", message="no")
        return
    payments_services.record_charge(order_id=order.pk, charge=charge_of(request.key, request.amount_minor))
    send(prepare_confirmation, order)
    services.complete_order(order_id=order.pk)


def charge_of(key: str, amount_minor: int) -> Charge:
    return Charge(id="ch_1", key=key, amount_minor=amount_minor, currency="EUR", refunded_minor=0)


def take_back(order: Order, *, paid: bool = True, held: bool = True) -> None:
    """The undos of the saga by their services."""
    if paid:
        payments_services.start_refund(order_id=order.pk)
        payment = Payment.objects.get(order=order)
        if payment.charge_id:
            amount = payments_services.to_minor(order.total)
            refund = Refund(id="re_1", key="refund", charge_id="ch_1", amount_minor=amount)
            payments_services.record_refund(
                order_id=order.pk, charge=charge_of("charge", amount), refund=refund
            )
        else:
            payments_services.record_nothing_charged(order_id=order.pk)
    if held:
        inventory_services.release_inventory(order_id=order.pk)
    rollback.cancel_order(order_id=order.pk)
    send(prepare_cancellation, order)


def begin(order: Order, step: str, error: str) -> None:
    rollback.begin_rollback(order_id=order.pk, failed_step=step, failure_type=error, failure="why")


def live(story: str) -> Order:
    """An order taken through `story` by the services."""
    order = place([Item("MUG-STONE", 2), Item("TEE-M", 1)])
    match story:
        case "completed":
            carry_out(order)
        case "shipped":
            carry_out(order)
            services.ship_order(order_id=order.pk, actor="ada")
        case "declined":
            carry_out(order, charged=False)
            begin(order, "process_payment", "PaymentRefused")
            take_back(order)
        case "out of stock":
            services.create_order(order_id=order.pk)
            begin(order, "reserve_inventory", "OutOfStock")
            take_back(order, paid=False)
        case "not sellable":
            begin(order, "create_order", "OrderNotSellable")
            take_back(order, paid=False, held=False)
        case "cancelled":
            carry_out(order)
            services.request_cancel(order_id=order.pk, actor="ada", reason="changed my mind")
            begin(order, "", "CancelRequested")
            take_back(order)
    return order


@pytest.mark.parametrize(
    ("story", "found"),
    [
        ("completed", Q(status="completed", attention_flags=None, cancel_requests=None)),
        ("shipped", Q(status="shipped")),
        ("declined", Q(failure_type="PaymentRefused")),
        ("out of stock", Q(failure_type="OutOfStock")),
        ("not sellable", Q(failure_type="OrderNotSellable")),
        ("cancelled", Q(failed_step="", failure_type="CancelRequested", payment__state="refunded")),
    ],
)
def test_made_up_rows_are_those_the_services_write(past: None, settings: Any, story: str, found: Q) -> None:
    settings.OUTBOX_FAST_PATH = False
    made_up = list(Order.objects.filter(found))
    expected = describe(live(story))
    assert made_up
    for order in made_up:
        assert describe(order) == expected
