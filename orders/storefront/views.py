"""Catalogue and cart. Nothing is changed by looking: what changes the cart is a POST and then a redirect."""

from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.cache import patch_cache_control
from django.views.decorators.http import require_http_methods, require_safe

from inventory import selectors as inventory_selectors
from orders.links import sign_order
from orders.services import MAX_QUANTITY
from orders.storefront.cart import (
    CartLine,
    adjust_to_stock,
    put_in,
    read_lines,
    set_quantities,
    sum_lines,
)
from orders.storefront.forms import AddForm, QuantityForm, SearchForm
from orders.storefront.pages import keep_private, post_only, show
from orders.storefront.session import Item, Shopping, change_shopping, read_shopping
from orders.storefront.words import say_availability

PRODUCTS_PER_PAGE = 24


@require_safe
def show_catalogue(request: HttpRequest) -> HttpResponse:
    """What is sold, a page at a time, or what of it matches the words looked for."""
    search = SearchForm(request.GET)
    search.is_valid()
    term = search.cleaned_data.get("q", "")
    products = inventory_selectors.search_products(term)
    page = Paginator(products, PRODUCTS_PER_PAGE).get_page(search.cleaned_data.get("page"))
    offers = []
    for product in page:
        available = inventory_selectors.get_available(product)
        offers.append((product, available, *say_availability(available, product.low_stock_at)))
    context = {"page": page, "offers": offers, "term": term, "max_quantity": MAX_QUANTITY}
    response = show(request, "catalogue", context)
    # It has the cart's size and a form's token in it, and prices that change.
    patch_cache_control(response, private=True, no_cache=True)
    return response


@post_only
@keep_private
def add_to_cart(request: HttpRequest) -> HttpResponse:
    """Put a product into the cart, and back to where it was found."""
    form = AddForm(request.POST)
    if not form.is_valid():
        wrong = form.errors.get("quantity") or ["Choose a product from the catalogue."]
        messages.error(request, f"Nothing was put in your cart. {wrong[0]}")
        return _go_back(form)
    sku, quantity = form.cleaned_data["sku"], form.cleaned_data["quantity"]
    offer = inventory_selectors.find_offers([sku]).get(sku)
    if offer is None:
        messages.error(request, "Nothing was put in your cart. This product is no longer sold.")
        return _go_back(form)
    with change_shopping(request) as shopping:
        refusal = put_in(shopping, offer, quantity)
    if refusal:
        messages.error(request, f"Nothing was put in your cart. {refusal}")
    else:
        messages.success(request, f"{quantity} × {offer.name} put in your cart.")  # noqa: RUF001
    return _go_back(form)


def _go_back(form: AddForm) -> HttpResponseRedirect:
    """To the page of the catalogue that the form was on."""
    place = {name: form.cleaned_data[name] for name in ("q", "page") if form.cleaned_data.get(name)}
    query = f"?{urlencode(place)}" if place else ""
    return HttpResponseRedirect(reverse("shop:catalogue") + query)


@require_http_methods(["GET", "HEAD", "POST"])
@keep_private
def show_cart(request: HttpRequest) -> HttpResponse:
    """The cart; a POST sets its quantities, takes a line out or goes on to the checkout by its button."""
    if request.method == "POST":
        with change_shopping(request) as shopping:
            return _change_cart(request, shopping)
    return _render_cart(request, read_shopping(request))


def _change_cart(request: HttpRequest, shopping: Shopping) -> HttpResponse:
    sku = request.POST.get("remove", "")
    if removed := shopping.items.get(sku):
        shopping.take_out(sku)
    # Lines that another tab has put in meanwhile are not in the form, and stay as they are.
    forms = {sku: QuantityForm(request.POST, prefix=name_line(sku)) for sku in shopping.items}
    sent = {sku: form for sku, form in forms.items() if form.add_prefix("quantity") in request.POST}
    quantities = {sku: form.cleaned_data["quantity"] for sku, form in sent.items() if form.is_valid()}
    has_errors = len(quantities) < len(sent)
    if has_errors and removed is None:
        return _render_cart(request, shopping, sent)
    before = {sku: item.quantity for sku, item in shopping.items.items()}
    set_quantities(shopping, read_lines(shopping), quantities)
    if has_errors:
        return _render_cart(request, shopping, sent, removed)
    if "checkout" in request.POST and shopping.items:
        return redirect("shop:checkout")
    if removed is not None:
        messages.success(request, f"{removed.name} was taken out of your cart.")
    elif before != {sku: item.quantity for sku, item in shopping.items.items()}:
        messages.success(request, "Your cart is up to date.")
    return redirect("shop:cart")


def _render_cart(
    request: HttpRequest,
    shopping: Shopping,
    sent: dict[str, QuantityForm] | None = None,
    removed: Item | None = None,
) -> HttpResponse:
    """The cart's page; `sent` is what was typed if not all could be taken, `removed` a line taken out."""
    lines = read_lines(shopping)
    rows = [Row(line, *_read_field(line, (sent or {}).get(line.sku))) for line in lines]
    has_errors = any(row.error for row in rows)
    context = {
        "rows": rows,
        "has_errors": has_errors,
        "removed": removed,
        "max_quantity": MAX_QUANTITY,
        "total": sum_lines(lines),
        "problems": [line for line in lines if line.problem],
        "last_order": sign_order(shopping.placed[-1]) if shopping.placed else "",
    }
    return show(request, "cart", context, shopping=shopping, status=422 if has_errors else 200)


class Row(NamedTuple):
    """A line of the page: what its field is called, holds, and has wrong. No form: a cart has up to 100."""

    line: CartLine
    field: str
    quantity: object
    error: str


def _read_field(line: CartLine, form: QuantityForm | None) -> tuple[str, object, str]:
    if form is None:
        return f"{name_line(line.sku)}-quantity", line.quantity, ""
    field = form["quantity"]
    return field.html_name, field.value(), str(next(iter(field.errors), ""))


def name_line(sku: str) -> str:
    """What the line's field is called: a SKU may have blanks, an element's id may not."""
    return f"line-{sha256(sku.encode()).hexdigest()[:12]}"


@post_only
@keep_private
def adjust_cart(request: HttpRequest) -> HttpResponse:
    """Bring the cart down to what is left, and go on to the checkout with the rest."""
    with change_shopping(request) as shopping:
        done = adjust_to_stock(shopping, read_lines(shopping))
        if done:
            told = done if len(done) <= 3 else [f"{len(done)} products were changed or taken out."]
            messages.success(request, " ".join(["Your cart is adjusted.", *told]))
        return redirect("shop:checkout" if shopping.items else "shop:cart")
