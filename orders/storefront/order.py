"""The page of one's own order, live until nothing can change any more, and its cancel."""

from hashlib import sha256

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.views.decorators.http import require_http_methods, require_safe

from orders import desk, selectors
from orders.links import read_signed
from orders.models import CUSTOMER, Order, OrderStatus
from orders.refusals import StateConflict
from orders.storefront.pages import keep_private, show
from orders.storefront.progress import can_cancel, describe_order, read_money
from orders.storefront.words import mask_email

REASON = "customer cancelled"


def _find_order(signed: str) -> Order:
    """The order a link leads to. 404 for a link this shop has not made."""
    order_id = read_signed(signed)
    order = selectors.find_order_of_customer(order_id) if order_id else None
    if order is None:
        raise Http404("This link leads to no order.")
    return order


@require_safe
@keep_private
def show_order(request: HttpRequest, signed: str) -> HttpResponse:
    """The whole page."""
    return show(request, "order", {"signed": signed, **describe_order(_find_order(signed))})


@require_safe
@keep_private
def show_live(request: HttpRequest, signed: str) -> HttpResponse:
    """The parts of the page that change, with an ETag: 304 while nothing has."""
    context = {"signed": signed, **describe_order(_find_order(signed))}
    content = render_to_string("storefront/order/live.html", context).encode()
    etag = quote_etag(sha256(content).hexdigest())
    response = HttpResponse(content, headers={"ETag": etag})
    return get_conditional_response(request, etag=etag, response=response) or response


@require_http_methods(["GET", "HEAD", "POST"])
@keep_private
def cancel_order(request: HttpRequest, signed: str) -> HttpResponse:
    """Say what a cancel does, and do it once confirmed. Whoever comes too late is told what happened."""
    order = _find_order(signed)
    if request.method == "POST":
        try:
            decision = desk.cancel_order(order_id=order.pk, actor=CUSTOMER, reason=REASON)
        except StateConflict:
            messages.error(request, "Too late: your order has been shipped, so it was not cancelled.")
        else:
            if not decision.changed:
                messages.info(request, "Your order had been cancelled before; nothing more was done.")
        return redirect("shop:order", signed)
    if not can_cancel(order):
        if order.status == OrderStatus.SHIPPED:
            messages.info(request, "Your order has been shipped and can no longer be cancelled.")
        return redirect("shop:order", signed)
    money = read_money(order)
    context = {
        "order": order,
        "signed": signed,
        "email": mask_email(order.customer_email),
        "paid": money.charged,
        "is_charging": money.is_open,
    }
    return show(request, "cancel", context)
