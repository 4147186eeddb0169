"""What a person may do to an order now: links to the page that previews it and asks for the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from orders.admin.words import name_step
from orders.models import ALLOWED_MOVES, AttentionFlag, Order, OrderStatus
from orders.permissions import PERMISSIONS, REFUND
from orders.previews import find_open_request, get_refund
from orders.repairs import find_resend_obstacle

ENDED = (OrderStatus.COMPLETED, OrderStatus.SHIPPED, OrderStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Offer:
    """A link of the action bar. `key` tells it from the others, so that an update of the page never turns a
    button that has the focus into another; `look` is the button's class."""

    key: str
    label: str
    url: str
    look: str = "od-quiet-button"


def list_offers(
    user: Any, order: Order, *, flags: Sequence[AttentionFlag], stuck: Sequence[str]
) -> list[Offer]:
    """What `user` may do to the order as it stands, the most pressing first. The desk decides again."""

    def may(slug: str) -> bool:
        return bool(user.has_perm(PERMISSIONS[slug]))

    def offer(label: str, slug: str, look: str = "od-quiet-button", **about: Any) -> Offer:
        query = urlencode({"order": order.pk, **about})
        key = "-".join([slug, *map(str, about.values())])
        return Offer(key, label, f"{reverse('admin:orders_order_act', args=[slug])}?{query}", look)

    offers: list[Offer] = []
    asked = find_open_request(order)
    if asked is not None:
        if user.pk == asked.requested_by_id and may("withdraw"):
            offers.append(offer("Withdraw the cancel", "withdraw", request=asked.pk))
        elif user.pk != asked.requested_by_id and may("approve"):
            offers.append(offer("Approve the cancel", "approve", "", request=asked.pk))
            offers.append(offer("Reject the cancel", "reject", request=asked.pk))
    for undo in stuck:
        if may("retry"):
            offers.append(offer(f"Retry now: {lower_first(name_step(undo))}", "retry", "", undo=undo))
        # It changes only our own database: there is nothing a person could have done instead.
        if may("resolve") and undo != "cancel_order":
            offers.append(offer(f"Resolve by hand: {lower_first(name_step(undo))}", "resolve", undo=undo))
    if order.status in ENDED and may("acknowledge"):
        offers += [
            offer(f"Acknowledge: {lower_first(name_step(flag.subject))}", "acknowledge", subject=flag.subject)
            for flag in flags
        ]
    if order.status == OrderStatus.COMPLETED and asked is None and may("ship"):
        offers.append(offer("Mark as shipped", "ship", ""))
    if may("resend"):
        offers += [
            offer(f"Send the {email.kind} again", "resend", email=email.pk)
            for email in order.emails.all()
            if not find_resend_obstacle(order, email) and email.copy == 0
        ]
    if asked is None and may("cancel") and _can_be_cancelled(order, user.has_perm(REFUND)):
        offers.append(offer("Cancel this order", "cancel", "od-danger-button"))
    return offers


def _can_be_cancelled(order: Order, may_refund: bool) -> bool:
    if OrderStatus.CANCELLING not in ALLOWED_MOVES[order.status] or order.cancel_requested_at is not None:
        return False
    return may_refund or not get_refund(order)


def lower_first(words: str) -> str:
    """The words as they stand in the middle of a sentence."""
    return words[:1].lower() + words[1:]
