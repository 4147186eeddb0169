"""The checkout: from the cart to an order, once, however often and from wherever the form is sent.

The form carries the id that the order will have. The session made it with the cart, and takes no other: so a
form sent twice finds its order, and a guessed id finds nothing.
"""

import re
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from config.login import find_client_address
from orders import desk, limits, selectors
from orders.links import sign_order
from orders.models import CUSTOMER, Order
from orders.services import InvalidOrder, Item
from orders.storefront.cart import CartLine, mark_lines, mark_seen, read_lines, sum_lines
from orders.storefront.errors import show_too_many
from orders.storefront.forms import CheckoutForm
from orders.storefront.pages import keep_private, show
from orders.storefront.session import Shopping, change_shopping, read_shopping
from orders.storefront.words import FIRST_PAYMENT, PAYMENTS

AN_AMOUNT = re.compile(r"(\d{1,12}\.\d\d) ", re.ASCII)


class CartChanged(Exception):
    """The order is not what the page showed: it is taken back."""


@require_http_methods(["GET", "HEAD", "POST"])
@keep_private
def check_out(request: HttpRequest) -> HttpResponse:
    """The form, and what becomes of it."""
    if request.method == "POST":
        if wait := _count_order(request):
            return show_too_many(request, wait)
        with change_shopping(request) as shopping:
            return _place_order(request, shopping)
    shopping = read_shopping(request)
    if not shopping.items:
        return redirect("shop:cart")
    lines = read_lines(shopping)
    if any(line.problem for line in lines):
        return _show_shortage(request, shopping, lines, status=200)
    return _show_form(
        request, shopping, lines, CheckoutForm(initial={"payment": FIRST_PAYMENT} | shopping.draft)
    )


def _count_order(request: HttpRequest) -> int:
    """Count an order from this address. 0 when it may be tried, otherwise the seconds until the next may.

    Orders need no account and hold stock: nobody should be able to hold all of it.
    """
    if not settings.SHOP_ORDERS_PER_MINUTE:
        return 0
    network = limits.name_network(find_client_address(request))
    return limits.spend(subject=f"shop {network}", per_minute=settings.SHOP_ORDERS_PER_MINUTE)


def _place_order(request: HttpRequest, shopping: Shopping) -> HttpResponse:
    """Place the cart's order, or say why not. The session's row is locked: one form at a time comes here."""
    form = CheckoutForm(request.POST)
    order_id = form.read_order_id()
    if order_id is None or order_id not in (shopping.order_id, *shopping.placed):
        return show(request, "stale", {}, status=409, shopping=shopping)
    if (earlier := selectors.find_order(order_id)) is not None:
        if order_id == shopping.order_id:
            return _take_note(request, shopping, earlier, form)
        return _lead_to_order(request, earlier, form)
    lines = read_lines(shopping)
    if not form.is_valid():
        return _show_form(request, shopping, lines, form, status=422)
    shopping.draft = {name: form.cleaned_data[name] for name in ("email", "payment")}
    if not lines or any(line.problem for line in lines):
        return _show_shortage(request, shopping, lines, status=409)
    try:
        decision_order, is_new = _order_as_seen(order_id, lines, form)
    except CartChanged:
        return _show_form(request, shopping, read_lines(shopping), form, status=409)
    except InvalidOrder as invalid:
        return _show_refusal(request, shopping, form, invalid)
    if not is_new:
        return _take_note(request, shopping, decision_order, form)
    shopping.empty()
    shopping.note_placed(order_id)
    return redirect("shop:order", sign_order(order_id))


@transaction.atomic
def _order_as_seen(order_id: UUID, lines: list[CartLine], form: CheckoutForm) -> tuple[Order, bool]:
    """Place the order at the prices on the page; at any other the order is taken back (CartChanged)."""
    decision = desk.place_order(
        order_id=order_id,
        customer_email=form.cleaned_data["email"],
        payment_token=PAYMENTS[form.cleaned_data["payment"]].token,
        items=[Item(line.sku, line.quantity) for line in lines],
        actor=CUSTOMER,
    )
    if decision.changed and mark_order(decision.order) != form.cleaned_data["seen"]:
        raise CartChanged
    return decision.order, decision.changed


def mark_order(order: Order) -> str:
    """What the page must have shown for this order to be as the customer saw it."""
    lines = [(line.sku, line.quantity, line.unit_price) for line in order.lines.all()]
    return mark_seen(lines, order.total)


def _take_note(request: HttpRequest, shopping: Shopping, order: Order, form: CheckoutForm) -> HttpResponse:
    """The cart's order is there although the session did not know: a slower tab had overwritten it.

    What is in the cart beyond that order stays there, under a new id.
    """
    quantities = {sku: item.quantity for sku, item in shopping.items.items()}
    if selectors.is_same_order(order, customer_email=order.customer_email, quantities=quantities):
        shopping.empty()
    shopping.note_placed(order.pk)
    return _lead_to_order(request, order, form, shopping)


def _lead_to_order(
    request: HttpRequest, order: Order, form: CheckoutForm, shopping: Shopping | None = None
) -> HttpResponse:
    """To the order that this form has placed. If the form says something else now, say so first."""
    sent = form.is_valid() and (
        form.cleaned_data["email"],
        PAYMENTS[form.cleaned_data["payment"]].token,
        form.cleaned_data["seen"],
    )
    if sent == (order.customer_email, order.payment_token, mark_order(order)):
        return redirect("shop:order", sign_order(order.pk))
    context = {"order": order, "signed": sign_order(order.pk)}
    return show(request, "placed", context, status=409, shopping=shopping)


def _show_form(
    request: HttpRequest,
    shopping: Shopping,
    lines: list[CartLine],
    form: CheckoutForm,
    *,
    status: int = 200,
) -> HttpResponse:
    """The form with the cart as it is now; if the page it came from showed another one, that is said."""
    shown = str(form.data.get("seen", ""))
    now, total = mark_lines(lines), sum_lines(lines)
    old = AN_AMOUNT.match(shown)
    context = {
        "form": form,
        "errors": form.list_errors() if form.is_bound else [],
        "choices": [
            (radio, choice) for radio, choice in zip(form["payment"], PAYMENTS.values(), strict=True)
        ],
        "lines": lines,
        "total": total,
        "order_id": shopping.order_id,
        "seen": now,
        "is_changed": form.is_bound and shown != now,
        "old_total": old[1] if old and old[1] != f"{total:.2f}" else "",
    }
    return show(request, "checkout", context, status=status, shopping=shopping)


def _show_shortage(
    request: HttpRequest, shopping: Shopping, lines: list[CartLine], *, status: int
) -> HttpResponse:
    """There is less than the cart asks for: which lines, how many are left, and one button to go on."""
    context = {
        "short": [line for line in lines if line.problem],
        "rest": [line for line in lines if line.left],
        "has_tried": status != 200,
    }
    return show(request, "short", context, status=status, shopping=shopping)


def _show_refusal(
    request: HttpRequest, shopping: Shopping, form: CheckoutForm, invalid: InvalidOrder
) -> HttpResponse:
    """What the desk refuses, beside the field it is about."""
    lines = read_lines(shopping)
    if any(line.problem for line in lines):  # withdrawn since the lines were read
        return _show_shortage(request, shopping, lines, status=409)
    for field, message in invalid.errors.items():
        form.add_error("email" if field == "customer_email" else None, message)
    return _show_form(request, shopping, lines, form, status=422)
