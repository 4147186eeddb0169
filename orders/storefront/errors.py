"""Pages for what went wrong. The admin's and the API's own answers stay as they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.loader import render_to_string
from django.views import csrf, defaults

from config.outages import answer_outage

NOT_OURS = ("/admin/", "/api/")


class Trouble(NamedTuple):
    """What is said about an error."""

    title: str
    text: str


TROUBLES: dict[int, Trouble] = {
    400: Trouble(
        "We did not understand that",
        "Your browser sent something we cannot read. Nothing was changed. Go back and try again.",
    ),
    403: Trouble(
        "This is not open to you",
        "You may not see this page. If you followed a link of ours, it may be incomplete.",
    ),
    404: Trouble(
        "There is nothing here",
        "The link may be incomplete, or the page is gone. For a link from a mail: copy all of it.",
    ),
    500: Trouble(
        "Something went wrong on our side",
        "We have been told. If you were ordering, look at your cart first: an order that was placed is no "
        "longer in it, and ordering again from the same page never places a second one.",
    ),
}
FORM_EXPIRED = Trouble(
    "This page had been open for too long",
    "Or your browser keeps no cookies. Nothing was changed, and your cart is as it was. "
    "Open the page anew and try again.",
)


TOO_MANY = (
    "Too many orders at once",
    "More orders have come from your network than we take in a minute. Nothing was ordered, and your cart is "
    "as it was. Go back and order again in {wait} s.",
)


def _show(request: HttpRequest, status: int, trouble: Trouble | None = None) -> HttpResponse:
    # Neither the session nor the database is asked: they may be what is broken.
    context = {"trouble": trouble or TROUBLES[status], "shop_name": settings.SHOP_NAME, "units": None}
    response = HttpResponse(render_to_string("storefront/error.html", context), status=status)
    response["Cache-Control"] = "private, no-store"
    return response


def show_too_many(request: HttpRequest, wait: int) -> HttpResponse:
    """429, with the seconds after which the next order is let in."""
    title, text = TOO_MANY
    response = _show(request, 429, Trouble(title, text.format(wait=wait)))
    response["Retry-After"] = str(wait)
    return response


def _is_ours(request: HttpRequest) -> bool:
    return not request.path.startswith(NOT_OURS)


def show_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400, and 503 if that is because the database is away: a session that could not be saved comes here."""
    if outage := answer_outage():
        return outage
    return _show(request, 400) if _is_ours(request) else defaults.bad_request(request, exception)


def show_forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return _show(request, 403) if _is_ours(request) else defaults.permission_denied(request, exception)


def show_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return _show(request, 404) if _is_ours(request) else defaults.page_not_found(request, exception)


def show_server_error(request: HttpRequest) -> HttpResponse:
    """500, and 503 while the database is away."""
    if outage := answer_outage():
        return outage
    return _show(request, 500) if _is_ours(request) else defaults.server_error(request)


def show_csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 for a form without its token; 405 for what no form sends, and no page of the shop takes."""
    if _is_ours(request) and request.method != "POST":
        return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
    stock: Callable[..., Any] = csrf.csrf_failure
    return _show(request, 403, FORM_EXPIRED) if _is_ours(request) else stock(request, reason=reason)
