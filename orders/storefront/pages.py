"""The frame of every page: what all of them show, and the headers of those about one customer."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect, render
from django.utils.cache import patch_cache_control

from orders.storefront.session import Shopping, read_shopping

View = Callable[..., HttpResponse]


def show(
    request: HttpRequest,
    template: str,
    context: dict[str, Any],
    *,
    status: int = 200,
    shopping: Shopping | None = None,
) -> HttpResponse:
    """A page of the shop. `shopping` is the session's content where the view has it already."""
    units = (shopping or read_shopping(request)).units
    frame = {"shop_name": settings.SHOP_NAME, "currency": settings.SHOP_CURRENCY, "units": units}
    return render(request, f"storefront/{template}.html", {**frame, **context}, status=status)


def keep_private(view: View) -> View:
    """Pages about one customer: kept by no cache, found by no search engine."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        patch_cache_control(response, private=True, no_store=True)
        response["X-Robots-Tag"] = "noindex"
        return response

    return answer


def post_only(view: View) -> View:
    """What a form is sent to. Whoever opens its address by hand is led to the cart."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "POST":
            return view(request, *args, **kwargs)
        return redirect("shop:cart") if request.method == "GET" else HttpResponseNotAllowed(["POST"])

    return answer
