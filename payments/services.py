"""All writes to payments. The row comes first, then the call to the gateway, then the result."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum

from orders.models import AttentionFlag, Order, StepKey, StepState, under_key
from orders.refusals import CancelRequested, PaymentRefused, StateConflict
from payments.gateways.protocol import Charge, Refund
from payments.models import EventKind, Payment, PaymentEvent, PaymentState

STEP = "process_payment"
LATE_CHARGE = "late_charge"
REFUNDED_TWICE = "refunded_twice"
REFUND_UNCHECKED = "refund_unchecked"


def to_minor(amount: Decimal) -> int:
    """An amount of the shop's currency in minor units (cents), as gateways count."""
    return int(amount * settings.MINOR_UNITS)


def from_minor(amount_minor: int) -> Decimal:
    """Minor units as an amount with two places."""
    return (Decimal(amount_minor) / settings.MINOR_UNITS).quantize(Decimal("0.01"))


def charge_key(order_id: UUID | str) -> str:
    """The idempotency key of an order's one charge: no run, attempt or worker is in it."""
    return f"order-{order_id}:charge"


def refund_key(order_id: UUID | str) -> str:
    """The idempotency key of an order's one refund."""
    return f"order-{order_id}:refund"


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """What the gateway is asked for; the amount is in minor units."""

    key: str
    amount_minor: int
    currency: str
    token: str


class RecordedCharge(NamedTuple):
    """What _RECORD_CHARGED answers: the step's key, and whether the charge was not known before."""

    undone_at: datetime | None
    resolved_at: datetime | None
    is_new: bool


# The row as it is once its lock is held, and the payment unless a cancel came first or there is one already.
_START_CHARGE = under_key("""
    , "order" AS (
        SELECT key.undone_at, locked.id, status, total, currency, payment_token, cancel_requested_at
        FROM key JOIN orders_order AS locked ON locked.id = key.order_id
        FOR NO KEY UPDATE OF locked
    ), payment AS (
        INSERT INTO payments_payment (order_id, state, amount, currency, token, charge_id)
        SELECT id, 'started', total, currency, payment_token, '' FROM "order"
        WHERE cancel_requested_at IS NULL
        ON CONFLICT (order_id) DO NOTHING
    )
    SELECT undone_at, status, total, currency, payment_token, cancel_requested_at FROM "order"
""")
# The event of an order's payment, unless there is one already, and with it the payment's new state. Answers
# with the step's key and whether the event is new, for an order that has a payment.
_RECORD_CHARGED = under_key("""
    , event AS (
        INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)
        SELECT payment.id, 'charged', %(amount)s, %(charge_id)s::text, ''
        FROM key JOIN payments_payment AS payment ON payment.order_id = key.order_id
        ON CONFLICT (payment_id, kind) DO NOTHING
        RETURNING payment_id
    ), charged AS (
        UPDATE payments_payment AS payment SET state = 'charged', charge_id = %(charge_id)s::text
        FROM event WHERE payment.id = event.payment_id
    )
    SELECT key.undone_at, key.resolved_at, EXISTS (SELECT FROM event)
    FROM key JOIN payments_payment AS payment ON payment.order_id = key.order_id
""")
# The event `declined` or `closed`, which is also what a payment becomes that has only been started.
_RECORD_UNCHARGED = """
    WITH event AS (
        INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)
        SELECT id, %(kind)s::text, 0, %(reference)s::text, %(note)s::text
        FROM payments_payment WHERE order_id = %(order_id)s
        ON CONFLICT (payment_id, kind) DO NOTHING
    )
    UPDATE payments_payment SET state = %(kind)s::text WHERE order_id = %(order_id)s AND state = 'started'
"""
# The event, unless there is one already, and the payment's state, unless a person has settled the refund.
# Answers whether the event is new, in which currency it is, and whether the charge was flagged as late.
_RECORD_REFUNDED = """
    WITH event AS (
        INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)
        SELECT id, 'refunded', %(amount)s, %(refund_id)s::text, ''
        FROM payments_payment WHERE order_id = %(order_id)s
        ON CONFLICT (payment_id, kind) DO NOTHING
        RETURNING payment_id
    ), refunded AS (
        UPDATE payments_payment SET state = 'refunded'
        WHERE order_id = %(order_id)s AND NOT %(is_settled)s::boolean
    )
    SELECT EXISTS (SELECT FROM event), currency, EXISTS (
        SELECT FROM orders_attentionflag
        WHERE order_id = %(order_id)s AND subject = %(late_charge)s AND cleared_at IS NULL
    )
    FROM payments_payment WHERE order_id = %(order_id)s
"""


@transaction.atomic(savepoint=False)
def start_charge(*, order_id: UUID | str) -> ChargeRequest:
    """Write the payment's row before the gateway is called and return what to ask it for.

    Locks the step key, then the order's row: a cancel sees either the payment or an order that is never
    charged. Raises AlreadyUndone after the rollback has begun, CancelRequested after somebody has cancelled.
    """
    with connection.cursor() as cursor:
        cursor.execute(_START_CHARGE, {"order_id": order_id, "step": STEP, "undone_at": None})
        row = cursor.fetchone()
    if row is None:
        raise Order.DoesNotExist(f"there is no order {order_id}")
    undone_at, status, total, currency, token, cancel_requested_at = row
    StepKey.objects.refuse_undone(STEP, undone_at, status)
    if cancel_requested_at is not None:
        raise CancelRequested("a cancel was requested before the payment was taken")
    return ChargeRequest(
        key=charge_key(order_id), amount_minor=to_minor(total), currency=currency, token=token
    )


@transaction.atomic(savepoint=False)
def record_charge(*, order_id: UUID | str, charge: Charge) -> None:
    """Record that the gateway took the money. Repeating it changes nothing. Locks the step key.

    A charge that reports back after its tombstone is recorded all the same and flagged; the refund,
    which asks the gateway and not us, clears the flag.
    """
    recorded = _record_charged(order_id, charge)
    if recorded.is_new and recorded.undone_at is not None:
        payment = Payment.objects.get(order_id=order_id)
        AttentionFlag.objects.raise_flag(
            order_id,
            LATE_CHARGE,
            f"{payment.amount} {payment.currency} was charged ({charge.id}) after the refund had begun.",
        )


def _record_charged(order_id: UUID | str, charge: Charge) -> RecordedCharge:
    """Append the `charged` event unless it is there. Locks the step key.

    Raises Payment.DoesNotExist for a charge that we never asked for.
    """
    values: dict[str, Any] = {"order_id": order_id, "step": STEP, "undone_at": None}
    values |= {"amount": from_minor(charge.amount_minor), "charge_id": charge.id}
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_CHARGED, values)
        row = cursor.fetchone()
    if row is None:
        raise Payment.DoesNotExist(f"order {order_id} has no payment")
    return RecordedCharge(*row)


@transaction.atomic(savepoint=False)
def record_decline(*, order_id: UUID | str, code: str, message: str) -> PaymentRefused:
    """Record that the gateway declined the charge. Repeating it changes nothing.

    Returns the refusal for the caller to raise: raised here, it would roll back what is recorded.
    """
    if not _record_uncharged(order_id, EventKind.DECLINED, reference=code, note=message):
        Payment.objects.get(order_id=order_id)  # raises for a charge that we never asked for
    return PaymentRefused(message)


def _record_uncharged(order_id: UUID | str, kind: EventKind, *, reference: str = "", note: str = "") -> bool:
    """Append the event unless it is there. Returns whether the payment has changed its state with it."""
    values = {"order_id": order_id, "kind": kind.value, "reference": reference, "note": note}
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_UNCHARGED, values)
        return bool(cursor.rowcount)


@transaction.atomic(savepoint=False)
def start_refund(*, order_id: UUID | str) -> StepState:
    """Write the tombstone of `process_payment` under its key. Returns RUNNING, or RESOLVED when a person
    has settled the refund outside and there is nothing left to do."""
    key = StepKey.objects.lock_undo(order_id, STEP)
    return StepState.RUNNING if key.resolved_at is None else StepState.RESOLVED


@transaction.atomic(savepoint=False)
def record_found_charge(*, order_id: UUID | str, charge: Charge) -> None:
    """Record a charge that the gateway knows, before it is asked to give it back. Locks the step key.

    Its own answer may have been lost; without this a refusal of the refund would leave a charge that our
    books do not know and nobody could settle.
    """
    _record_charged(order_id, charge)


@transaction.atomic(savepoint=False)
def record_nothing_charged(*, order_id: UUID | str) -> StepState:
    """Record the gateway's word that no charge exists and none can come any more."""
    _record_uncharged(order_id, EventKind.CLOSED)
    return StepState.NOTHING_TO_UNDO


@transaction.atomic(savepoint=False)
def record_refund(*, order_id: UUID | str, charge: Charge, refund: Refund) -> StepState:
    """Record that the gateway gave the money back. Repeating it changes nothing. Locks the step key.

    A refund that succeeds although a person has settled it outside is recorded and flagged.
    """
    is_settled = _record_charged(order_id, charge).resolved_at is not None
    values = {
        "order_id": order_id,
        "amount": -from_minor(refund.amount_minor),
        "refund_id": refund.id,
        "is_settled": is_settled,
        "late_charge": LATE_CHARGE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_REFUNDED, values)
        is_new, currency, is_late = cursor.fetchone()
    if is_new and is_settled:
        AttentionFlag.objects.raise_flag(
            order_id,
            REFUNDED_TWICE,
            f"{from_minor(refund.amount_minor)} {currency} was refunded by the gateway ({refund.id}) "
            "after it had been settled outside.",
        )
    if is_late:
        AttentionFlag.objects.clear_flag(order_id, LATE_CHARGE)
    return StepState.DONE


@transaction.atomic(savepoint=False)
def flag_unchecked_refund(*, order_id: UUID | str, error: str) -> None:
    """Flag a refund settled outside of which the gateway could not say whether it refunded as well."""
    AttentionFlag.objects.raise_flag(
        order_id,
        REFUND_UNCHECKED,
        "The refund was settled outside, and the gateway could not be asked whether it has refunded as well: "
        + error,
    )


@transaction.atomic
def settle_refund_outside(*, order_id: UUID | str, reference: str, note: str) -> None:
    """Book what is still owed to the customer as settled outside (a bank transfer, a voucher).

    The caller holds the key of `process_payment`. Raises StateConflict when nothing was charged: then
    there is nothing a person could have settled.
    """
    payment = Payment.objects.filter(order_id=order_id).first()
    owed = get_net_charged(order_id=order_id)
    if payment is None or owed <= 0:
        raise StateConflict(
            "No charge is known for this order, so there is nothing to settle: retry instead."
        )
    PaymentEvent.objects.create(
        payment=payment, kind=EventKind.SETTLED_OUTSIDE, amount=-owed, reference=reference, note=note
    )
    Payment.objects.filter(pk=payment.pk).update(state=PaymentState.SETTLED_OUTSIDE)
    AttentionFlag.objects.clear_flag(order_id, LATE_CHARGE)


def get_net_charged(*, order_id: UUID | str) -> Decimal:
    """What the customer has paid and not got back, by the ledger."""
    total: Decimal = PaymentEvent.objects.filter(payment__order_id=order_id).aggregate(
        total=Sum("amount", default=Decimal(0))
    )["total"]
    return total


def get_refund_at_stake(*, order_id: UUID | str) -> Decimal:
    """What a cancel of the order would give back: what was taken, or may be taken by a charge in flight."""
    payment = Payment.objects.filter(order_id=order_id).first()
    if payment is None:
        return Decimal(0)
    if payment.state == PaymentState.STARTED:
        return payment.amount
    return max(get_net_charged(order_id=order_id), Decimal(0))
