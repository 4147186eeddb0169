"""What staff can do to orders: who may, what it would do, and the call of the desk that does it."""

from collections.abc import Callable
from dataclasses import dataclass

from django.contrib.auth.models import User

from notifications.models import EmailMessage
from orders import desk, previews
from orders.models import Order
from orders.permissions import PERMISSIONS
from orders.previews import Preview
from orders.refusals import StateConflict
from orders.services import Decision


@dataclass(frozen=True)
class Target:
    """One order, and what of it the action is about: an undo, a mail's id, a flag's subject."""

    order: Order
    part: str = ""

    def __str__(self) -> str:
        return f"{self.order.pk} {self.part}".strip()


@dataclass(frozen=True)
class Words:
    """What the person gave: the reason, and the outside reference where one is asked for."""

    reason: str
    reference: str = ""


@dataclass(frozen=True)
class Action:
    """One thing staff can do: how it is called, who may, what it would do, and the call of the desk."""

    slug: str
    title: str
    button: str
    explanation: str
    # Common reasons to choose from; a text of one's own is always possible.
    reasons: tuple[str, ...]
    preview: Callable[[Target, User], Preview]
    act: Callable[[Target, User, Words], Decision]
    done: Callable[[Target, Decision], str]
    # What of the order the action is about, where the address names nothing.
    find_parts: Callable[[Order], list[str]] = lambda order: [""]
    # The address's parameter that names the part.
    parameter: str = ""
    asks_reference: bool = False

    @property
    def permission(self) -> str:
        return PERMISSIONS[self.slug]


def _find_resendable(order: Order) -> list[str]:
    email = previews.find_mail_to_resend(order)
    return [str(email.pk) if email else ""]


def _find_email(target: Target) -> EmailMessage | None:
    return next((mail for mail in target.order.emails.all() if str(mail.pk) == target.part), None)


def _find_email_id(target: Target) -> int:
    email = _find_email(target)
    if email is None:
        raise StateConflict(f"Order {target.order.number} has no such mail.")
    return email.pk


def _find_requests(order: Order) -> list[str]:
    request = previews.find_open_request(order)
    return [str(request.pk) if request else ""]


def _read_request_id(target: Target) -> int:
    request = previews.find_open_request(target.order)
    if request is None or str(request.pk) != target.part:
        raise StateConflict(previews.DECIDED)
    return request.pk


def _say_cancelled(target: Target, decision: Decision) -> str:
    if decision.awaiting:
        return "a second person has to approve the cancel; nothing is undone before."
    return "the cancel is accepted."


ACTIONS = {
    action.slug: action
    for action in [
        Action(
            slug="cancel",
            title="Cancel",
            button="Cancel order",
            explanation="What was done is undone step by step, and the customer is told. "
            "A cancel cannot be taken back.",
            reasons=("The customer asked for it", "Ordered twice", "Suspected fraud", "Cannot be delivered"),
            preview=lambda target, staff: previews.preview_cancel(target.order, staff),
            act=lambda target, staff, words: desk.cancel_order_as_staff(
                order_id=target.order.pk, staff=staff, reason=words.reason
            ),
            done=_say_cancelled,
        ),
        Action(
            slug="ship",
            title="Mark as shipped",
            button="Mark as shipped",
            explanation="The held units leave the stock for good, and the order can no longer be cancelled.",
            reasons=("Handed to the carrier", "Collected by the customer"),
            preview=lambda target, staff: previews.preview_ship(target.order, staff),
            act=lambda target, staff, words: desk.ship_order(
                order_id=target.order.pk, actor=staff.get_username(), reason=words.reason
            ),
            done=lambda target, decision: "marked as shipped.",
        ),
        Action(
            slug="retry",
            title="Retry a stuck undo",
            button="Retry now",
            explanation="Retrying never stops by itself; this only means now. Doing it twice is harmless.",
            reasons=("The cause is fixed", "The other side says it works again", "To see whether it works"),
            preview=lambda target, staff: previews.preview_retry(target.order, target.part),
            act=lambda target, staff, words: desk.retry_undo(
                order_id=target.order.pk, undo=target.part, actor=staff.get_username(), reason=words.reason
            ),
            done=lambda target, decision: f"{target.part} is tried again now.",
            find_parts=lambda order: previews.list_stuck_undos(order) or [""],
            parameter="undo",
        ),
        Action(
            slug="resolve",
            title="Resolve a stuck undo by hand",
            button="Book as settled",
            explanation="Only when it has been settled outside this system: it is booked in the ledger under "
            "your name, and the rollback goes on without it.",
            reasons=("Paid back by bank transfer", "Voucher given", "Counted and corrected on the shelf"),
            preview=lambda target, staff: previews.preview_resolve(target.order, target.part),
            act=lambda target, staff, words: desk.resolve_undo(
                order_id=target.order.pk,
                undo=target.part,
                actor=staff.get_username(),
                reason=words.reason,
                reference=words.reference,
            ),
            done=lambda target, decision: f"{target.part} is settled by hand.",
            find_parts=lambda order: previews.list_stuck_undos(order) or [""],
            parameter="undo",
            asks_reference=True,
        ),
        Action(
            slug="resend",
            title="Resend a mail",
            button="Send again",
            explanation="The customer gets the same text again, as a new message.",
            reasons=("The customer has not received it", "The customer has lost it"),
            preview=lambda target, staff: previews.preview_resend(target.order, _find_email(target)),
            act=lambda target, staff, words: desk.resend_email(
                order_id=target.order.pk,
                email_id=_find_email_id(target),
                actor=staff.get_username(),
                reason=words.reason,
            ),
            done=lambda target, decision: "the mail is sent again.",
            find_parts=_find_resendable,
            parameter="email",
        ),
        Action(
            slug="acknowledge",
            title="Acknowledge",
            button="Clear the flag",
            explanation="Nothing clears this by itself. What you write stays in the order's history.",
            reasons=("Checked: nothing is left to do", "Settled with the customer"),
            preview=lambda target, staff: previews.preview_acknowledgement(target.order, target.part),
            act=lambda target, staff, words: desk.acknowledge(
                order_id=target.order.pk,
                subject=target.part,
                actor=staff.get_username(),
                reason=words.reason,
            ),
            done=lambda target, decision: "the flag is cleared.",
            parameter="subject",
        ),
        Action(
            slug="approve",
            title="Approve a cancel",
            button="Approve and cancel",
            explanation="The cancel is carried out at once, under the name of who asked for it and yours.",
            reasons=("Checked and agreed",),
            preview=lambda target, staff: previews.preview_approval(target.order, target.part, staff),
            act=lambda target, staff, words: desk.approve_cancel(
                request_id=_read_request_id(target), staff=staff, note=words.reason
            ),
            done=lambda target, decision: "the cancel is approved and under way.",
            find_parts=_find_requests,
            parameter="request",
        ),
        Action(
            slug="reject",
            title="Reject a cancel",
            button="Reject",
            explanation="The order stays as it is. Who asked can read your reason in the order's history.",
            reasons=("Not agreed with the customer", "Needs more information"),
            preview=lambda target, staff: previews.preview_rejection(target.order, target.part, staff),
            act=lambda target, staff, words: desk.reject_cancel(
                request_id=_read_request_id(target), staff=staff, note=words.reason
            ),
            done=lambda target, decision: "the cancel is rejected; the order stays as it is.",
            find_parts=_find_requests,
            parameter="request",
        ),
        Action(
            slug="withdraw",
            title="Withdraw a cancel",
            button="Withdraw",
            explanation="You take back what you asked for. The order stays as it is.",
            reasons=("Asked for by mistake", "The customer has changed their mind"),
            preview=lambda target, staff: previews.preview_withdrawal(target.order, target.part, staff),
            act=lambda target, staff, words: desk.withdraw_cancel(
                request_id=_read_request_id(target), staff=staff, note=words.reason
            ),
            done=lambda target, decision: "the request is withdrawn; the order stays as it is.",
            find_parts=_find_requests,
            parameter="request",
        ),
    ]
}

# What the list offers for several orders at a time.
BULK = ("cancel", "ship", "retry", "resolve", "resend")
