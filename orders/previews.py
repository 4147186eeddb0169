"""What an action would do to an order, in words and sums, before anybody does it. Reads only."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Prefetch
from django.utils.formats import date_format
from django.utils.timezone import localtime

from notifications.models import EmailKind, EmailMessage, EmailState
from orders.models import (
    ALLOWED_MOVES,
    FINISHED_STATES,
    STEP_OF_UNDO,
    STEPS,
    CancelRequest,
    CancelRequestState,
    Order,
    OrderStatus,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.permissions import REFUND
from orders.repairs import find_resend_obstacle
from orders.selectors import list_open_flags
from orders.sentences import name_undo
from payments.models import Payment, PaymentState

# The undos in the order they run, as a person says them.
UNDO_WORDS = {
    undo: name_undo(undo)
    for undo in ("refund_payment", "release_inventory", "cancel_order", "send_cancellation_email")
}


DECIDED = "This request for a cancel is decided already, or was never made."


@dataclass
class Preview:
    """One order and what the action would do to it. `obstacle` says why it cannot; empty when it can."""

    order: Order
    effects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    obstacle: str = ""
    refund: Decimal = Decimal(0)
    units: int = 0
    mails: int = 0


def list_orders_to_preview(order_ids: Iterable[UUID]) -> list[Order]:
    """The orders with everything a preview reads, in the order given; unknown ids are left out."""
    found = (
        Order.objects.select_related("payment")
        .prefetch_related(
            "holds__product",
            "payment__events",
            "emails",
            Prefetch("trail", TrailEntry.objects.order_by("id")),
            "attention_flags",
            "cancel_requests__requested_by",
        )
        .in_bulk(list(order_ids))
    )
    return [found[order_id] for order_id in dict.fromkeys(order_ids) if order_id in found]


def list_stuck_undos(order: Order) -> list[str]:
    """The undos of the order that have failed and wait: what repair is for.

    Attempts that only ever time out leave a running row or none, and a flag.
    """
    states = {entry.name: entry.state for entry in order.trail.all()}
    flagged = {flag.subject for flag in list_open_flags(order)}
    return [
        undo
        for undo in UNDO_WORDS
        if states.get(undo) == StepState.FAILED
        or (undo in flagged and states.get(undo) not in FINISHED_STATES)
    ]


def find_open_request(order: Order) -> CancelRequest | None:
    """The cancel of the order that awaits approval, if there is one."""
    requests = order.cancel_requests.all()
    return next((one for one in requests if one.state == CancelRequestState.AWAITING_APPROVAL), None)


def _asked(order: Order, staff: User) -> bool:
    request = find_open_request(order)
    return request is not None and request.requested_by_id == staff.pk


# --- cancelling ------------------------------------------------------------------------------------------


def preview_cancel(order: Order, staff: User) -> Preview:
    """Cancelling: what is refunded, released and sent, or who has to approve it first."""
    preview = Preview(order)
    if order.status == OrderStatus.SHIPPED:
        preview.obstacle = "It has been shipped and can no longer be cancelled."
    elif OrderStatus.CANCELLING not in ALLOWED_MOVES[order.status]:
        preview.obstacle = f"It is {order.status} already."
    elif order.cancel_requested_at:
        preview.obstacle = "Somebody has cancelled it already; its saga is turning back."
    elif find_open_request(order):
        preview.obstacle = "A cancel of it awaits approval already."
    if preview.obstacle:
        return preview
    _describe_rollback(preview)
    if preview.refund and not staff.has_perm(REFUND):
        preview.obstacle = f"It has been paid: you may not refund {_show(preview.refund, order)}."
    limit = settings.REFUND_APPROVAL_ABOVE
    if limit is not None and preview.refund > limit:
        preview.notes.append(
            f"A second person has to approve it first: the refund is above {_show(limit, order)}. "
            "Nothing is undone before."
        )
    return preview


def preview_approval(order: Order, request_id: str, staff: User) -> Preview:
    """Approving a cancel: what it sets going."""
    preview = _preview_decision(order, request_id)
    if not preview.obstacle and _asked(order, staff):
        preview.obstacle = "You asked for it yourself: a second person has to approve it."
    if not preview.obstacle:
        _describe_rollback(preview)
    return preview


def preview_rejection(order: Order, request_id: str, staff: User) -> Preview:
    """Rejecting a cancel: the order goes on."""
    preview = _preview_decision(order, request_id)
    if not preview.obstacle and _asked(order, staff):
        preview.obstacle = "You asked for it yourself: withdraw it instead."
    preview.effects = ["keep the order as it is"]
    return preview


def preview_withdrawal(order: Order, request_id: str, staff: User) -> Preview:
    """Withdrawing one's own request: the order goes on."""
    preview = _preview_decision(order, request_id)
    if not preview.obstacle and not _asked(order, staff):
        preview.obstacle = "Only who asked for it can withdraw it."
    preview.effects = ["keep the order as it is"]
    return preview


def _preview_decision(order: Order, request_id: str) -> Preview:
    """What approving, rejecting and withdrawing have in common: the request, and who asked for it."""
    preview = Preview(order)
    request = find_open_request(order)
    if request is None or str(request.pk) != request_id:
        # Another request than the one the person was shown is not theirs to decide unseen.
        preview.obstacle = DECIDED
        return preview
    preview.notes.append(
        f"{request.requested_by} asks for it, to refund {_show(request.refund, order)}: {request.reason}"
    )
    return preview


def _describe_rollback(preview: Preview) -> None:
    """Add what a rollback from here does: refund, release, mail; and what of it there is no need for."""
    order = preview.order
    _describe_refund(preview)
    held = [hold for hold in order.holds.all() if hold.state == "held"]
    preview.units = sum(hold.quantity for hold in held)
    if held:
        preview.effects.append(
            "release " + ", ".join(f"{_count(hold.quantity, 'unit')} of {hold.product.sku}" for hold in held)
        )
    else:
        preview.notes.append("No stock is held so far.")
    preview.mails = 1
    preview.effects.append("send 1 mail")


def _describe_refund(preview: Preview) -> None:
    order = preview.order
    payment = _find_payment(order)
    preview.refund = get_refund(order)
    if payment is not None and payment.state == PaymentState.STARTED:
        preview.effects.append(f"refund {_show(preview.refund, order)} if the payment in flight succeeds")
    elif preview.refund:
        preview.effects.append(f"refund {_show(preview.refund, order)}")
    else:
        preview.notes.append("Nothing was charged: nothing to refund.")


# --- shipping, repairing, mailing ------------------------------------------------------------------------


def preview_ship(order: Order, staff: User) -> Preview:
    """Shipping: which units leave the house."""
    preview = Preview(order)
    if order.status == OrderStatus.SHIPPED:
        preview.obstacle = "It is shipped already."
    elif order.status != OrderStatus.COMPLETED:
        preview.obstacle = f"It is {order.status}; only a completed order can be shipped."
    elif find_open_request(order):
        preview.obstacle = "A cancel of it awaits approval; that has to be decided first."
    held = [hold for hold in order.holds.all() if hold.state == "held"]
    preview.units = sum(hold.quantity for hold in held)
    preview.effects = [f"ship {_count(hold.quantity, 'unit')} of {hold.product.sku}" for hold in held]
    return preview


def preview_retry(order: Order, undo: str) -> Preview:
    """Trying a stuck undo again now, and what follows when it succeeds."""
    preview = _preview_undo(order, undo)
    if not preview.obstacle:
        preview.effects = [f"try {_describe_undo(preview, undo)} again now"]
        _describe_rest(preview, undo)
    return preview


def preview_resolve(order: Order, undo: str) -> Preview:
    """Settling a stuck undo by hand: what is booked, and what follows."""
    preview = _preview_undo(order, undo)
    if undo == "cancel_order":
        preview.obstacle = "It only changes our own database and cannot be settled outside: retry it."
    if preview.obstacle:
        return preview
    described = _describe_undo(preview, undo)
    if undo == "refund_payment" and not preview.refund:
        preview.obstacle = "No charge is known, so there is nothing to settle: retry it instead."
        return preview
    preview.effects = [f"book {described} as settled by you, outside this system"]
    _describe_rest(preview, undo)
    return preview


def preview_resend(order: Order, email: EmailMessage | None) -> Preview:
    """Sending a mail again."""
    preview = Preview(order, obstacle=find_resend_obstacle(order, email))
    if email is not None and not preview.obstacle:
        preview.mails = 1
        preview.effects = [f"send the {email.kind} mail again to {email.recipient}"]
        if has_copy_under_way(order, email.kind):
            preview.obstacle = "An earlier copy is still on its way."
        elif email.sent_at is not None:
            sent = date_format(localtime(email.sent_at), "j M Y, H:i")
            preview.notes.append(f"It was sent on {sent}.")
        else:
            preview.notes.append("It has never reached the mail server.")
    return preview


def has_copy_under_way(order: Order, kind: str | None = None) -> bool:
    """Whether a mail of the order (of that kind) that a person had sent again is not sent yet."""
    return any(
        email.copy and email.state == EmailState.PENDING and kind in (None, email.kind)
        for email in order.emails.all()
    )


def find_mail_to_resend(order: Order) -> EmailMessage | None:
    """The mail that tells how the order stands: the cancellation once there is one, else the confirmation."""
    by_kind = {email.kind: email for email in order.emails.all() if not email.copy}
    return by_kind.get(EmailKind.CANCELLATION) or by_kind.get(EmailKind.CONFIRMATION)


def preview_acknowledgement(order: Order, subject: str) -> Preview:
    """Clearing a flag that nothing clears by itself."""
    preview = Preview(order)
    flag = next((flag for flag in list_open_flags(order) if flag.subject == subject), None)
    if flag is None:
        preview.obstacle = f"It has no open flag about {subject} (any more)."
    elif order.status not in (OrderStatus.COMPLETED, OrderStatus.SHIPPED, OrderStatus.CANCELLED):
        preview.obstacle = f"It is {order.status}; the flag clears itself when that succeeds."
    else:
        preview.effects = ["clear the flag"]
        preview.notes = [flag.reason]
    return preview


def _preview_undo(order: Order, undo: str) -> Preview:
    preview = Preview(order)
    if undo not in STEP_OF_UNDO:
        preview.obstacle = "None of its undos is stuck."
    elif undo not in list_stuck_undos(order):
        preview.obstacle = f"{UNDO_WORDS[undo].capitalize()} is not stuck (any more)."
    return preview


def _describe_undo(preview: Preview, undo: str) -> str:
    order = preview.order
    if undo == "refund_payment":
        preview.refund = get_refund(order)
        return f"the refund of {_show(preview.refund, order)}" if preview.refund else "the refund"
    if undo == "release_inventory":
        preview.units = sum(hold.quantity for hold in order.holds.all() if hold.state == "held")
        return f"the release of {_count(preview.units, 'held unit')}"
    preview.mails = undo == "send_cancellation_email"
    return UNDO_WORDS[undo]


def _describe_rest(preview: Preview, undo: str) -> None:
    """Say what of the rollback is done already, and what waits for this undo."""
    last = {entry.name: entry for entry in preview.order.trail.all() if entry.kind == StepKind.UNDO}
    for name in UNDO_WORDS:
        if name in last and last[name].state in FINISHED_STATES:
            number = list(STEPS).index(STEP_OF_UNDO[name]) + 1
            preview.notes.append(f"Step {number} ({STEP_OF_UNDO[name]}) is already undone.")
    waiting = [
        words
        for name, words in UNDO_WORDS.items()
        if name != undo
        and list(UNDO_WORDS).index(name) > list(UNDO_WORDS).index(undo)
        and not (name in last and last[name].state in FINISHED_STATES)
    ]
    if waiting:
        preview.notes.append(f"After it: {', '.join(waiting)}.")


def _find_payment(order: Order) -> Payment | None:
    return getattr(order, "payment", None)


def get_refund(order: Order) -> Decimal:
    """As payments.services.get_refund_at_stake, on what was prefetched."""
    payment = _find_payment(order)
    if payment is None:
        return Decimal(0)
    if payment.state == PaymentState.STARTED:
        return payment.amount
    return max(sum((event.amount for event in payment.events.all()), Decimal(0)), Decimal(0))


def _show(amount: Decimal, order: Order) -> str:
    return f"{amount} {order.currency}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
