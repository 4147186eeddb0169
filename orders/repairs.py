"""What a person does about a stuck undo: try it again now, or settle it by hand."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from inventory import services as inventory_services
from notifications import services as notifications_services
from orders.models import (
    STEP_OF_UNDO,
    ActionKind,
    AttentionFlag,
    Order,
    OrderAction,
    OutboxKind,
    OutboxMessage,
    StepKey,
    StepState,
    TrailEntry,
)
from orders.refusals import StateConflict
from orders.services import CANCEL_SAGA, Decision, tell_temporal
from payments import services as payments_services

# Seconds after the time-out of an attempt until it counts as lost.
LATE_MARGIN = 5.0


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
    StepKey.objects.filter(order_id=order_id, step=STEP_OF_UNDO[undo]).update(resolved_at=timezone.now())
    last = TrailEntry.objects.filter(order_id=order_id, name=undo).latest("id")
    last.state = StepState.RESOLVED
    last.finished_at = timezone.now()
    last.save(update_fields=["state", "finished_at"])
    AttentionFlag.objects.clear_flag(order_id, undo)
    return _act_on_undo(
        order, ActionKind.RESOLVE_UNDO, undo=undo, actor=actor, reason=reason, reference=reference
    )


def _check_stuck(order_id: UUID | str, undo: str) -> Order:
    """The order, if its `undo` has failed and waits; its key is locked, so no attempt can begin meanwhile."""
    if undo not in STEP_OF_UNDO:
        raise StateConflict(f"There is no undo {undo!r}; there are {', '.join(STEP_OF_UNDO)}.")
    StepKey.objects.lock(order_id, STEP_OF_UNDO[undo])
    order = Order.objects.get(pk=order_id)
    last = TrailEntry.objects.filter(order_id=order_id, name=undo).order_by("-id").first()
    if last is None:
        raise StateConflict(f"{undo} has not been tried for order {order.number} yet.")
    in_flight_until = last.started_at + timedelta(seconds=settings.SAGA_ATTEMPT_TIMEOUT + LATE_MARGIN)
    if last.state == StepState.RUNNING and timezone.now() < in_flight_until:
        raise StateConflict(f"An attempt of {undo} is in flight for order {order.number}; wait for its end.")
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
