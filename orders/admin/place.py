"""Placing an order in the admin: the form, and what its SKUs are looked up with."""

import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.forms.widgets import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse
from django.utils.cache import add_never_cache_headers

from config.admin import lay_out
from inventory import selectors as inventory_selectors
from inventory.selectors import Offer
from orders import desk, selectors
from orders.admin.forms import (
    LineForm,
    LineFormSet,
    PlaceOrderForm,
    ProductSearchForm,
    list_errors,
    read_items,
    show_errors,
)
from orders.services import Decision, InvalidOrder

if TYPE_CHECKING:
    from orders.admin.order import OrderAdmin

PRODUCTS_PER_PAGE = 20
# Empty rows for browsers without scripts, where no row can be added.
MORE_LINES = 20
AN_AMOUNT = re.compile(r"\d{1,15}\.\d\d", re.ASCII)

# The stock admin's "Add another" for formsets, with what it must be loaded after, and the combobox.
PAGE_MEDIA = forms.Media(
    css={"all": ["orders/place.css"]},
    js=[
        "admin/js/vendor/jquery/jquery.min.js",
        "admin/js/jquery.init.js",
        "admin/js/inlines.js",
        Script("orders/place.js", defer=True),  # type: ignore[list-item]  # the stubs are older
    ],
)


class Row(NamedTuple):
    """One line of the form, with the product its SKU names and what it costs, as far as they are known."""

    form: LineForm
    offer: Offer | None
    amount: Decimal | None


def place_order(admin: "OrderAdmin", request: HttpRequest) -> HttpResponse:
    """Place an order. What the desk refuses is shown beside the field it is about."""
    if not admin.has_add_permission(request):
        raise PermissionDenied
    form = PlaceOrderForm(request.POST or None)
    lines = LineFormSet(request.POST or None, prefix="lines")
    if "more" in request.GET:
        lines.extra = MORE_LINES
    if request.method == "POST" and all([form.is_valid(), lines.is_valid()]):
        try:
            # A total that nobody saw is refused only once it is known, and takes the order back with it.
            with transaction.atomic():
                decision = desk.place_order(
                    customer_email=form.cleaned_data["customer_email"],
                    payment_token=form.cleaned_data["payment_token"],
                    items=read_items(lines),
                    order_id=form.cleaned_data["order_id"],
                    actor=request.user.get_username(),
                    placed_by=cast("User", request.user),
                )
                if decision.changed:
                    check_total(form.cleaned_data["shown_total"], decision.order.total)
        except InvalidOrder as invalid:
            show_errors(form, lines, invalid)
        else:
            return _answer_placed(admin, request, decision, form.cleaned_data["customer_email"], lines)
    rows = _price_lines(lines)
    context = {
        "title": "Place an order",
        "form": form,
        "lines": lines,
        "rows": rows,
        "total": sum((row.amount for row in rows if row.amount is not None), Decimal("0.00")),
        "currency": settings.SHOP_CURRENCY,
        "adminform": lay_out(form),
        "error_list": list_errors(form, lines),
        "media": PAGE_MEDIA,
    }
    return admin.render_page(request, "place", context)


def check_total(shown: str | None, total: Decimal) -> None:
    """Raise InvalidOrder if a total was shown and the order's is another; prices change while people type."""
    if not shown or shown == f"{total:.2f}":
        return
    currency = settings.SHOP_CURRENCY
    old = f"{shown} {currency}" if AN_AMOUNT.fullmatch(shown) else "total"
    changed = f"The total is now {total:.2f} {currency}, not the {old} shown before"
    raise InvalidOrder({"items": f"{changed}: check it, then place the order."})


def _price_lines(lines: "forms.BaseFormSet[LineForm]") -> list[Row]:
    """The lines with what is known of them, read with one query."""
    known = [line.cleaned_data if lines.is_bound and hasattr(line, "cleaned_data") else {} for line in lines]
    skus = {values["sku"] for values in known if values.get("sku")}
    offers = inventory_selectors.find_offers(skus) if skus else {}
    rows: list[Row] = []
    for line, values in zip(lines, known, strict=True):
        offer, quantity = offers.get(values.get("sku", "")), values.get("quantity")
        rows.append(Row(line, offer, offer.price * quantity if offer and quantity else None))
    return rows


def _answer_placed(
    admin: "OrderAdmin", request: HttpRequest, decision: Decision, customer_email: str, lines: Any
) -> HttpResponse:
    """Say what became of the form, and lead to its order; a form sent twice placed one order."""
    quantities: Counter[str] = Counter()
    for item in read_items(lines):
        quantities[item.sku] += item.quantity
    order = decision.order
    if decision.changed:
        admin.log_addition(request, order, "Placed.")
        messages.success(request, f"{order} is accepted; its saga is on its way.")
    elif selectors.is_same_order(order, customer_email=customer_email, quantities=dict(quantities)):
        messages.info(request, f"{order} was placed by this form before.")
    else:
        messages.error(
            request,
            f"Nothing was placed: this form was already sent, as {order}. Open a new form.",
        )
    if not admin.has_view_permission(request):
        return HttpResponseRedirect(reverse("admin:index"))
    return HttpResponseRedirect(reverse("admin:orders_order_change", args=[order.pk]))


def find_products(admin: "OrderAdmin", request: HttpRequest) -> HttpResponse:
    """Products for the combobox, as JSON: what is on sale and matches `term`, a page at a time.

    Parameters that make no sense find nothing.
    """
    if not admin.has_add_permission(request):
        raise PermissionDenied
    search = ProductSearchForm(request.GET)
    offers: list[Offer] = []
    more = False
    if search.is_valid():
        term = search.cleaned_data["term"] or search.cleaned_data["q"]
        offers, more = inventory_selectors.search_offers(
            term, page=search.cleaned_data["page"] or 1, size=PRODUCTS_PER_PAGE
        )
    results = [
        {
            "sku": offer.sku,
            "name": offer.name,
            "price": str(offer.price),
            "currency": settings.SHOP_CURRENCY,
            "available": offer.available,
        }
        for offer in offers
    ]
    answer = JsonResponse({"results": results, "more": more})
    add_never_cache_headers(answer)
    return answer
