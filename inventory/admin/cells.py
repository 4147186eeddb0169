"""What the inventory's lists and pages show the same way: signed numbers, moments, badges, links."""

from datetime import datetime

from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from inventory.models import HoldState, MovementKind, Product
from inventory.selectors import get_stock
from orders.models import Order

KINDS_IN_WORDS: dict[str, str] = {
    MovementKind.RECEIVED: "Received",
    MovementKind.ADJUSTED: "Count corrected",
    MovementKind.RESERVED: "Held for an order",
    MovementKind.RELEASED: "Hold released",
    MovementKind.SOLD: "Shipped",
    MovementKind.SETTLED_BY_HAND: "Hold settled by hand",
}
STATES_IN_WORDS: dict[str, str] = {
    HoldState.HELD: "Held",
    HoldState.RELEASED: "Released",
    HoldState.SOLD: "Shipped",
    HoldState.SETTLED_BY_HAND: "Settled by hand",
}


def show_signed(change: int) -> str:
    """A change with its sign, and nothing for none. The minus is the typographic one, as wide as the plus."""
    return f"{change:+d}".replace("-", "\u2212") if change else ""


def show_moment(moment: datetime | None) -> str:
    """A moment to the second, in the project's time zone."""
    return date_format(localtime(moment), "j M Y, H:i:s") if moment else ""


def show_badge(word: str, state: str) -> SafeString:
    """A state by word and colour."""
    return format_html('<span class="od-badge od-{}">{}</span>', state, word)


def show_kind(kind: str) -> SafeString:
    return show_badge(KINDS_IN_WORDS.get(kind, kind), f"stock-{kind}")


def show_state(state: str) -> SafeString:
    return show_badge(STATES_IN_WORDS.get(state, state), f"stock-{state}")


def show_level(product: Product) -> SafeString | str:
    """Whether little or nothing of the product is available; empty when there is enough."""
    available = get_stock(product).on_hand - get_stock(product).reserved
    if available > product.low_stock_at:
        return ""
    return show_badge("low", "stock-low") if available > 0 else show_badge("sold out", "stock-out")


def link_order(request: HttpRequest, order: Order | None) -> SafeString | str:
    """The order's number, as a link for those who may see orders."""
    if order is None:
        return ""
    if not request.user.has_perm("orders.view_order"):
        return str(order.number)
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:orders_order_change", args=[order.pk]), order.number
    )


def link_product(product: Product) -> SafeString:
    """Name and SKU, leading to the product's page."""
    return format_html(
        '<a href="{}">{}</a> <code>{}</code>',
        reverse("admin:inventory_product_change", args=[product.pk]),
        product.name,
        product.sku,
    )
