"""Cancels by staff: done at once up to a limit, and above it only when a second person approves."""

from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from orders.models import (
    ALLOWED_MOVES,
    ActionKind,
    CancelRequest,
    CancelRequestState,
    Order,
    OrderAction,
    OrderStatus,
)
from orders.permissions import REFUND
from orders.refusals import StateConflict
from orders.services import Decision, request_cancel
from payments import services as payments_services


@transaction.atomic
def request_cancel_by_staff(*, order_id: UUID | str, staff: User, reason: str) -> Decision:
    """Cancel an order, or ask for approval when its refund is above REFUND_APPROVAL_ABOVE.

    Locks the order's row, which also keeps the payment from beginning: the refund it judges by stays what
    it is. A saga's own rollback never comes here. Raises StateConflict without a reason, for a shipped
    order, and for a paid one when `staff` may not refund.
    """
    if not reason.strip():
        raise StateConflict("Give a reason for the cancel.")
    order = Order.objects.select_for_update(no_key=True).get(pk=order_id)
    actor = staff.get_username()
    if OrderStatus.CANCELLING not in ALLOWED_MOVES[order.status] or order.cancel_requested_at:
        return request_cancel(order_id=order_id, actor=actor, reason=reason)
    refund = payments_services.get_refund_at_stake(order_id=order_id)
    if refund and not staff.has_perm(REFUND):
        raise StateConflict(
            f"Cancelling order {order.number} refunds {refund} {order.currency}, which you may not do."
        )
    limit = settings.REFUND_APPROVAL_ABOVE
    if limit is None or refund <= limit:
        return request_cancel(order_id=order_id, actor=actor, reason=reason)
    request, is_new = CancelRequest.objects.get_or_create(
        order=order,
        state=CancelRequestState.AWAITING_APPROVAL,
        defaults={"refund": refund, "reason": reason, "requested_by": staff},
    )
    if is_new:
        OrderAction.objects.create(order=order, kind=ActionKind.REQUEST_CANCEL, actor=actor, reason=reason)
    return Decision(order=order, changed=is_new, awaiting=request)


@transaction.atomic
def approve_cancel(*, request_id: int, staff: User, note: str = "") -> Decision:
    """Approve a cancel and carry it out. Locks the order's row, then the request's.

    Raises StateConflict when it is decided already, and when `staff` is who asked for it.
    """
    request = _lock_open_request(request_id)
    if request.requested_by_id == staff.pk:
        raise StateConflict("You asked for this cancel: a second person has to approve it.")
    _decide(request, CancelRequestState.APPROVED, ActionKind.APPROVE_CANCEL, staff=staff, note=note)
    return request_cancel(
        order_id=request.order_id, actor=request.requested_by.get_username(), reason=request.reason
    )


@transaction.atomic
def reject_cancel(*, request_id: int, staff: User, note: str) -> Decision:
    """Reject a cancel: the order stays as it is. Locks as `approve_cancel` does.

    Raises StateConflict without a note, when it is decided already, and when `staff` is who asked for it.
    """
    if not note.strip():
        raise StateConflict("Give a reason for the rejection.")
    request = _lock_open_request(request_id)
    if request.requested_by_id == staff.pk:
        raise StateConflict("You asked for this cancel: withdraw it instead.")
    _decide(request, CancelRequestState.REJECTED, ActionKind.REJECT_CANCEL, staff=staff, note=note)
    return Decision(order=request.order, changed=True)


@transaction.atomic
def withdraw_cancel(*, request_id: int, staff: User, note: str = "") -> Decision:
    """Take back one's own request. Locks as `approve_cancel` does.

    Raises StateConflict when it is decided already, and when `staff` is not who asked for it.
    """
    request = _lock_open_request(request_id)
    if request.requested_by_id != staff.pk:
        raise StateConflict("Only who asked for this cancel can withdraw it.")
    _decide(request, CancelRequestState.WITHDRAWN, ActionKind.WITHDRAW_CANCEL, staff=staff, note=note)
    return Decision(order=request.order, changed=True)


def _lock_open_request(request_id: int) -> CancelRequest:
    requests = CancelRequest.objects.select_related("requested_by", "decided_by")
    request = requests.filter(pk=request_id).first()
    if request is None:
        raise StateConflict("There is no such request.")
    # The order's row first, as every other door locks it.
    order = Order.objects.select_for_update(no_key=True).get(pk=request.order_id)
    request = requests.select_for_update(of=("self",)).get(pk=request_id)
    if request.state != CancelRequestState.AWAITING_APPROVAL:
        by = f" by {request.decided_by}" if request.decided_by else ""
        raise StateConflict(
            f"The cancel of order {order.number} is already {request.get_state_display().lower()}{by}."
        )
    request.order = order
    return request


def _decide(
    request: CancelRequest, state: CancelRequestState, kind: ActionKind, *, staff: User, note: str
) -> None:
    request.state = state
    request.decided_by = staff
    request.decided_at = timezone.now()
    request.note = note
    request.save(update_fields=["state", "decided_by", "decided_at", "note"])
    OrderAction.objects.create(
        order=request.order, kind=kind, actor=staff.get_username(), reason=note or request.reason
    )
