"""The one door to the desk: admin, views, API and commands all come through here.

Each function is one service call. What Temporal must be told is written with it (orders.dispatch). They raise
what the service raises: InvalidOrder, StateConflict, Order.DoesNotExist.
"""

from collections.abc import Sequence
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction

from orders import approvals, repairs, services
from orders.models import ApiClient
from orders.services import Decision, Item


@transaction.atomic
def place_order(
    *,
    customer_email: str,
    items: Sequence[Item],
    actor: str,
    placed_by: User | None = None,
    client: ApiClient | None = None,
    payment_token: str = "",
    order_id: UUID | None = None,
) -> Decision:
    """Accept an order and start its saga. Naming the `order_id` makes repeating the call harmless."""
    return services.accept_order(
        customer_email=customer_email,
        items=items,
        actor=actor,
        placed_by=placed_by,
        client=client,
        payment_token=payment_token,
        order_id=order_id,
    )


@transaction.atomic
def cancel_order(*, order_id: UUID | str, actor: str, reason: str) -> Decision:
    """Cancel an order, running or completed."""
    return services.request_cancel(order_id=order_id, actor=actor, reason=reason)


@transaction.atomic
def cancel_order_as_staff(*, order_id: UUID | str, staff: User, reason: str) -> Decision:
    """Cancel an order, or ask a second person for approval when its refund is above the limit."""
    return approvals.request_cancel_by_staff(order_id=order_id, staff=staff, reason=reason)


@transaction.atomic
def approve_cancel(*, request_id: int, staff: User, note: str = "") -> Decision:
    """Approve a cancel that awaits a second person, and carry it out."""
    return approvals.approve_cancel(request_id=request_id, staff=staff, note=note)


@transaction.atomic
def reject_cancel(*, request_id: int, staff: User, note: str) -> Decision:
    """Reject a cancel that awaits a second person."""
    return approvals.reject_cancel(request_id=request_id, staff=staff, note=note)


@transaction.atomic
def withdraw_cancel(*, request_id: int, staff: User, note: str = "") -> Decision:
    """Take back one's own request to cancel."""
    return approvals.withdraw_cancel(request_id=request_id, staff=staff, note=note)


@transaction.atomic
def ship_order(*, order_id: UUID | str, actor: str, reason: str = "") -> Decision:
    """Mark a completed order as shipped."""
    return services.ship_order(order_id=order_id, actor=actor, reason=reason)


@transaction.atomic
def retry_undo(*, order_id: UUID | str, undo: str, actor: str, reason: str = "") -> Decision:
    """Try a stuck undo again now."""
    return repairs.retry_undo(order_id=order_id, undo=undo, actor=actor, reason=reason)


@transaction.atomic
def resolve_undo(*, order_id: UUID | str, undo: str, actor: str, reason: str, reference: str) -> Decision:
    """Settle a stuck undo by hand."""
    return repairs.resolve_undo(order_id=order_id, undo=undo, actor=actor, reason=reason, reference=reference)


@transaction.atomic
def resend_email(*, order_id: UUID | str, email_id: int, actor: str, reason: str) -> Decision:
    """Send a mail to the customer again."""
    return repairs.resend_email(order_id=order_id, email_id=email_id, actor=actor, reason=reason)


@transaction.atomic
def acknowledge(*, order_id: UUID | str, subject: str, actor: str, reason: str) -> Decision:
    """Clear an attention flag that nothing clears by itself."""
    return repairs.acknowledge(order_id=order_id, subject=subject, actor=actor, reason=reason)
