"""What a person does about a stuck undo (try again now, settle by hand) or a finding (acknowledge it)."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, transaction
from django.utils import timezone

from inventory import services as inventory_services
from notifications import services as notifications_services
from notifications.models import EmailKind, EmailMessage, EmailState
from orders.models import (
    STEP_OF_UNDO,
    ActionKind,
    AttentionFlag,
    Order,
    OrderAction,
    OrderStatus,
    OutboxKind,
    OutboxMessage,
    StepKey,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.refusals import StateConflict
from orders.services import CANCEL_SAGA, Decision, tell_temporal
from payments import services as payments_services

# Seconds after the time-out of an attempt until it counts as lost.
LATE_MARGIN = 5.0
RESEND_WORKFLOW = "ResendEmail"
IN_FLIGHT = "An attempt of {undo} is in flight; wait for its end."


@transaction.atomic
def retry_undo(*, order_id: UUID | str, undo: str, actor: str, reason: str = "") -> Decision:
    """Ask the saga to try a failed undo again now. Locks the undo's key.

    Raises StateConflict unless the order is being cancelled and the undo's last attempt failed.
    """
    order = _check_stuck(order_id, undo)
    return _act_on_undo(order, ActionKind.RETRY_UNDO, undo=undo, actor=actor, reason=reason)


@transaction.atomic
def resolve_undo(*, order_id: UUID | str, undo: str, actor: str, reason: str, reference: str) -> Decision:
    """Settle a failed undo by hand: book it in the ledger and let the saga go on. Locks the undo's key.

    `reason` and `reference` (where the settlement can be found) are required. Later attempts of the undo
    see the booking and stop. Raises StateConflict as `retry_undo` does, and while an attempt is in flight.
    """
    if not reason.strip() or not reference.strip():
        raise StateConflict("Give a reason and a reference to where the settlement can be found.")
    order = _check_stuck(order_id, undo)
    match undo:
        case "refund_payment":
            payments_services.settle_refund_outside(order_id=order_id, reference=reference, note=reason)
        case "release_inventory":
            inventory_services.settle_holds_by_hand(order_id=order_id)
        case "send_cancellation_email":
            notifications_services.settle_cancellation_by_hand(order_id=order_id)
        case _:
            raise StateConflict(
                f"{undo} only changes our own database and cannot be settled outside: retry it."
            )
    now = timezone.now()
    # Attempts that only ever timed out may have left no key yet.
    key = StepKey.objects.lock(order_id, STEP_OF_UNDO[undo])
    key.resolved_at = now
    key.save(update_fields=["resolved_at"])
    last = TrailEntry.objects.filter(order_id=order_id, name=undo).order_by("-id").first()
    if last is None:
        last = TrailEntry(order=order, name=undo, kind=StepKind.UNDO, started_at=now)
    last.state = StepState.RESOLVED
    last.finished_at = now
    last.retry_at = None
    last.save()
    AttentionFlag.objects.clear_flag(order_id, undo)
    return _act_on_undo(
        order, ActionKind.RESOLVE_UNDO, undo=undo, actor=actor, reason=reason, reference=reference
    )


def _check_stuck(order_id: UUID | str, undo: str) -> Order:
    """The order, if its `undo` has failed and waits; its key is locked, so no attempt can begin meanwhile."""
    if undo not in STEP_OF_UNDO:
        raise StateConflict(f"There is no undo {undo!r}; there are {', '.join(STEP_OF_UNDO)}.")
    try:
        key = StepKey.objects.select_for_update(nowait=True)
        key.filter(order_id=order_id, step=STEP_OF_UNDO[undo]).first()
    except OperationalError:  # lock not available
        raise StateConflict(IN_FLIGHT.format(undo=undo)) from None
    order = Order.objects.get(pk=order_id)
    last = TrailEntry.objects.filter(order_id=order_id, name=undo).order_by("-id").first()
    if last is None:
        # Attempts that only ever timed out have left a flag and no row.
        if not AttentionFlag.objects.filter(order=order, subject=undo, cleared_at=None).exists():
            raise StateConflict(f"{undo} has not been tried for order {order.number} yet.")
        return order
    in_flight_until = last.started_at + timedelta(seconds=settings.SAGA_ATTEMPT_TIMEOUT + LATE_MARGIN)
    if last.state == StepState.RUNNING and timezone.now() < in_flight_until:
        raise StateConflict(IN_FLIGHT.format(undo=undo))
    if last.state not in (StepState.RUNNING, StepState.FAILED):
        raise StateConflict(f"{undo} is not stuck for order {order.number}: it is {last.state}.")
    return order


def _act_on_undo(
    order: Order, kind: ActionKind, *, undo: str, actor: str, reason: str, reference: str = ""
) -> Decision:
    OrderAction.objects.create(
        order=order, kind=kind, undo=undo, actor=actor, reason=reason, reference=reference
    )
    by_cancel_saga = OutboxMessage.objects.filter(order=order, name=CANCEL_SAGA).exists()
    message = tell_temporal(
        order,
        kind=OutboxKind.SIGNAL,
        name=kind,
        workflow_id=f"order-{order.pk}-cancel" if by_cancel_saga else f"order-{order.pk}",
        argument=undo,
    )
    return Decision(order=order, changed=True, message=message)


@transaction.atomic
def resend_email(*, order_id: UUID | str, email_id: int, actor: str, reason: str) -> Decision:
    """Send a mail to the customer again, as a copy with a workflow of its own. Locks the order's row.

    Changes nothing while an earlier copy is on its way. Raises StateConflict without a reason, while the
    saga itself is still sending the mail, and for a confirmation of an order that is being cancelled.
    """
    if not reason.strip():
        raise StateConflict("Give a reason for sending the mail again.")
    order = Order.objects.select_for_update(no_key=True).get(pk=order_id)
    if obstacle := find_resend_obstacle(order, order.emails.filter(pk=email_id, copy=0).first()):
        raise StateConflict(obstacle)
    copy = notifications_services.copy_email(email_id=email_id)
    if copy is None:
        return Decision(order=order, changed=False)
    OrderAction.objects.create(
        order=order, kind=ActionKind.RESEND_EMAIL, actor=actor, reason=reason, reference=copy.message_id
    )
    message = tell_temporal(
        order,
        kind=OutboxKind.START,
        name=RESEND_WORKFLOW,
        workflow_id=f"order-{order.pk}-mail-{copy.pk}",
        argument=str(copy.pk),
    )
    return Decision(order=order, changed=True, message=message)


def find_resend_obstacle(order: Order, email: EmailMessage | None) -> str:
    """Why the order's mail cannot be sent again now; empty when it can."""
    if email is None:
        return f"Order {order.number} has no such mail."
    is_open = order.status in (OrderStatus.COMPLETED, OrderStatus.SHIPPED)
    if email.kind == EmailKind.CONFIRMATION and not is_open:
        return f"Order {order.number} is {order.status}: its confirmation is not sent again."
    if email.kind == EmailKind.CANCELLATION and email.state == EmailState.PENDING:
        return f"The rollback of order {order.number} is still sending this mail: retry it instead."
    return ""


@transaction.atomic
def acknowledge(*, order_id: UUID | str, subject: str, actor: str, reason: str) -> Decision:
    """Clear an attention flag that nothing clears by itself, once its order has come to an end.

    `reason` is required. Raises StateConflict for an order whose saga still runs (its success clears the
    flag) and for a flag that is not open.
    """
    if not reason.strip():
        raise StateConflict("Give a reason: what was found, and what was done about it.")
    order = Order.objects.select_for_update(no_key=True).get(pk=order_id)
    if order.status not in (OrderStatus.COMPLETED, OrderStatus.SHIPPED, OrderStatus.CANCELLED):
        raise StateConflict(
            f"Order {order.number} is {order.status}; the flag clears itself when that succeeds."
        )
    flags = AttentionFlag.objects.filter(order=order, subject=subject, cleared_at=None)
    if not flags.update(cleared_at=timezone.now()):
        raise StateConflict(f"Order {order.number} has no open flag about {subject}.")
    OrderAction.objects.create(
        order=order, kind=ActionKind.ACKNOWLEDGE, actor=actor, reason=reason, reference=subject
    )
    return Decision(order=order, changed=True)
