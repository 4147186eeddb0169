"""All writes to mails: each is stored as it will be sent, then sent, then marked as sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import connection, transaction
from django.template.loader import render_to_string
from django.utils import timezone

from notifications.models import EmailKind, EmailMessage, EmailState
from orders.links import find_order_url
from orders.models import AttentionFlag, Order, OrderLine, StepKey, under_key

STEP = "send_confirmation_email"
LATE_CONFIRMATION = "late_confirmation"
RESEND = "resend_email"


@dataclass(frozen=True, slots=True)
class PreparedEmail:
    """A stored mail, and whether it still has to be sent."""

    email: EmailMessage
    is_due: bool


@transaction.atomic(savepoint=False)
def prepare_confirmation(*, order_id: UUID | str) -> PreparedEmail:
    """Store the confirmation mail. Locks the step key. Raises AlreadyUndone once it is undone."""
    return _store(order_id, EmailKind.CONFIRMATION, undone_at=None)


@transaction.atomic(savepoint=False)
def prepare_cancellation(*, order_id: UUID | str) -> PreparedEmail:
    """Write the tombstone of the confirmation and store the cancellation mail. Locks the step key."""
    return _store(order_id, EmailKind.CANCELLATION, undone_at=timezone.now())


# What is told of an order, line by line: its amounts never change, and no refund is recorded under this key.
# What the customer gets back is read by the ledger's tables: this app does not know the payments app.
_READ_UNTOLD = under_key("""
    SELECT key.undone_at, EXISTS (
               SELECT FROM notifications_emailmessage
               WHERE order_id = key.order_id AND kind = %(kind)s AND copy = 0
           ), (
               SELECT -COALESCE(sum(event.amount), 0)
               FROM payments_payment AS payment
               JOIN payments_paymentevent AS event ON event.payment_id = payment.id
               WHERE payment.order_id = key.order_id AND event.kind IN ('refunded', 'settled_outside')
           ),
           "order".number, "order".customer_email, "order".currency, "order".total,
           line.sku, line.name, line.unit_price, line.quantity
    FROM key
    JOIN orders_order AS "order" ON "order".id = key.order_id
    JOIN orders_orderline AS line ON line.order_id = key.order_id
    ORDER BY line.sku
""")
_STORE = """
    INSERT INTO notifications_emailmessage
        (order_id, kind, copy, state, message_id, recipient, subject, text, html)
    VALUES (%s, %s, 0, 'pending', %s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
    RETURNING id, created_at
"""


def _store(order_id: UUID | str, kind: EmailKind, *, undone_at: datetime | None) -> PreparedEmail:
    """The order's mail of this kind, written if it is missing. Locks the step key, with this tombstone.

    Raises AlreadyUndone for a confirmation that is undone.
    """
    key = {"order_id": order_id, "step": STEP, "undone_at": undone_at}
    with connection.cursor() as cursor:
        cursor.execute(_READ_UNTOLD, {**key, "kind": kind.value})
        rows = cursor.fetchall()
        if rows and kind == EmailKind.CONFIRMATION:
            StepKey.objects.refuse_undone(STEP, rows[0][0])
        if rows and not rows[0][1]:
            email = _write(order_id, kind, rows)
            stored = [email.message_id, email.recipient, email.subject, email.text, email.html]
            cursor.execute(_STORE, [order_id, kind.value, *stored])
            # Nothing is written beside the mail of an attempt that was waited for.
            if row := cursor.fetchone():
                email.pk, email.created_at = row
                return PreparedEmail(email=email, is_due=True)
    email = EmailMessage.objects.get(order_id=order_id, kind=kind, copy=0)
    return PreparedEmail(email=email, is_due=email.state == EmailState.PENDING)


def _write(order_id: UUID | str, kind: EmailKind, rows: Sequence[tuple[Any, ...]]) -> EmailMessage:
    """The mail that tells of these rows of _READ_UNTOLD, not stored yet."""
    _, _, refunded, number, recipient, currency, total, *_ = rows[0]
    context = {
        "order": Order(number=number, currency=currency, total=total),
        "lines": [
            OrderLine(sku=sku, name=name, unit_price=price, quantity=quantity)
            for *_, sku, name, price, quantity in rows
        ],
        "shop_name": settings.SHOP_NAME,
        "refunded": refunded,
        "order_url": find_order_url(order_id),
    }
    return EmailMessage(
        order_id=order_id,
        kind=kind,
        # Stable, so that a mail sent twice after a crash is recognised as one.
        message_id=f"<{kind}.{order_id}@{settings.DEFAULT_FROM_EMAIL.rpartition('@')[2]}>",
        recipient=recipient,
        subject=render_to_string(f"emails/{kind}_subject.txt", context).strip(),
        text=render_to_string(f"emails/{kind}.txt", context),
        html=render_to_string(f"emails/{kind}.html", context),
    )


def build_message(email: EmailMessage) -> EmailMultiAlternatives:
    """The stored mail as a message for Django's e-mail backend."""
    message = EmailMultiAlternatives(
        subject=email.subject,
        body=email.text,
        to=[email.recipient],
        headers={"Message-ID": email.message_id},
    )
    message.attach_alternative(email.html, "text/html")
    return message


# Marks the mail as sent, and answers with its order if the mail is a confirmation that has been undone.
_RECORD_SENT = """
    WITH sent AS (
        UPDATE notifications_emailmessage SET state = 'sent', sent_at = %s
        WHERE id = %s AND state = 'pending'
        RETURNING order_id, kind
    )
    SELECT sent.order_id
    FROM sent JOIN orders_stepkey AS key ON key.order_id = sent.order_id AND key.step = %s
    WHERE sent.kind = 'confirmation' AND key.undone_at IS NOT NULL
"""


@transaction.atomic(savepoint=False)
def record_sent(*, email_id: int) -> None:
    """Mark the mail as sent. Repeating it changes nothing.

    A confirmation that a slow mail server took after the rollback had begun cannot be called back: it is
    recorded and flagged.
    """
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_SENT, [timezone.now(), email_id, STEP])
        late = cursor.fetchone()
    if late is not None:
        AttentionFlag.objects.raise_flag(
            late[0],
            LATE_CONFIRMATION,
            "The confirmation mail reached the mail server after the order was cancelled.",
        )


@transaction.atomic
def settle_cancellation_by_hand(*, order_id: UUID | str) -> None:
    """Book the cancellation mail as delivered some other way. Locks the step key."""
    prepared = _store(order_id, EmailKind.CANCELLATION, undone_at=None)
    EmailMessage.objects.filter(pk=prepared.email.pk, state=EmailState.PENDING).update(
        state=EmailState.SETTLED_BY_HAND
    )


@transaction.atomic
def copy_email(*, email_id: int) -> EmailMessage | None:
    """Store a copy of the mail to be sent again, under a Message-ID of its own: mail readers hide a repeated
    one. None while an earlier copy is on its way (later than its deadline it is on its way no more). The
    caller holds the order's row."""
    original = EmailMessage.objects.get(pk=email_id, copy=0)
    copies = EmailMessage.objects.filter(order_id=original.order_id, kind=original.kind)
    alive = timezone.now() - timedelta(seconds=settings.SAGA_STEP_DEADLINE + settings.SAGA_ATTEMPT_TIMEOUT)
    if copies.filter(copy__gt=0, state=EmailState.PENDING, created_at__gt=alive).exists():
        return None
    number = copies.count()
    local, _, domain = original.message_id.strip("<>").partition("@")
    return EmailMessage.objects.create(
        order_id=original.order_id,
        kind=original.kind,
        copy=number,
        message_id=f"<{local}.{number}@{domain}>",
        recipient=original.recipient,
        subject=original.subject,
        text=original.text,
        html=original.html,
    )


@transaction.atomic(savepoint=False)
def prepare_copy(*, email_id: int) -> PreparedEmail:
    """The copy, and whether it still has to be sent. Locks the step key: a confirmation is withdrawn once
    its order is being cancelled."""
    order_id = EmailMessage.objects.values_list("order_id", flat=True).get(pk=email_id)
    key = StepKey.objects.lock(order_id, STEP)
    email = EmailMessage.objects.get(pk=email_id)
    if email.kind == EmailKind.CONFIRMATION and key.undone_at and email.state == EmailState.PENDING:
        email.state = EmailState.WITHDRAWN
        email.save(update_fields=["state"])
        AttentionFlag.objects.clear_flag(order_id, RESEND)
    return PreparedEmail(email=email, is_due=email.state == EmailState.PENDING)


@transaction.atomic(savepoint=False)
def close_copy(*, email_id: int) -> None:
    """A copy has been sent: it stands for the mail that never was, and the flags about both are cleared.

    Changes nothing for a copy that was not. Another kind's copy keeps its flag.
    """
    email = EmailMessage.objects.get(pk=email_id)
    if email.state != EmailState.SENT:
        return
    mails = EmailMessage.objects.filter(order_id=email.order_id)
    mails.filter(kind=email.kind, copy=0, state=EmailState.PENDING).update(state=EmailState.SETTLED_BY_HAND)
    if email.kind == EmailKind.CONFIRMATION:
        AttentionFlag.objects.clear_flag(email.order_id, STEP)
    unsent = mails.filter(copy__gt=0, state__in=[EmailState.PENDING, EmailState.REFUSED])
    if not unsent.exclude(kind=email.kind).exists():
        AttentionFlag.objects.clear_flag(email.order_id, RESEND)


@transaction.atomic(savepoint=False)
def explain_copy(*, email_id: int, error: str) -> None:
    """Say in the open flag, if there is one, why the copy could not be sent so far."""
    email = EmailMessage.objects.get(pk=email_id)
    AttentionFlag.objects.filter(order_id=email.order_id, subject=RESEND, cleared_at=None).update(
        reason=f"The {email.kind} mail could not be sent again yet; it is tried on: {error}"
    )


@transaction.atomic(savepoint=False)
def refuse_copy(*, email_id: int, error: str) -> None:
    """The copy is not sent, for good: record and flag it. Changes nothing for one that was."""
    email = EmailMessage.objects.get(pk=email_id)
    refused = EmailMessage.objects.filter(pk=email_id, state=EmailState.PENDING)
    if refused.update(state=EmailState.REFUSED):
        AttentionFlag.objects.raise_flag(
            email.order_id, RESEND, f"The {email.kind} mail could not be sent again: {error}"
        )
