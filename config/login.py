"""The log-in limit's own parts: whose name and address count, and the page shown while a log-in is locked."""

import math
from ipaddress import ip_address
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.db.models import Max
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

# Whoever has no address (a server on a socket file, without a proxy's header) counts as one client.
NO_ADDRESS = "0.0.0.0"  # noqa: S104 (not an address to listen on)
MAX_NAME = 150


def find_client_address(request: HttpRequest) -> str:
    """The address wrong passwords are counted for, and the API's requests without a valid key.

    Behind a proxy it is the last hop of X-Forwarded-For, which the proxy itself has written: what stands
    before it is the client's word.
    """
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if settings.BEHIND_PROXY else []
    for candidate in (*hops[-1:], request.META.get("REMOTE_ADDR") or ""):
        try:
            # Without the zone of a link-local address, which PostgreSQL does not know.
            return str(ip_address(candidate.strip().partition("%")[0]))
        except ValueError:
            continue
    return NO_ADDRESS


def find_user_name(request: HttpRequest, credentials: dict[str, Any] | None) -> str:
    """The name wrong passwords are counted for. Cut where no user's name can go on; the form does not."""
    name = (credentials or request.POST).get("username") or ""
    return str(name)[:MAX_NAME]


def refuse_log_in(
    request: HttpRequest, original_response: HttpResponse | None, credentials: dict[str, Any] | None
) -> HttpResponse:
    """The page of a locked log-in: the same whether or not there is such a user."""
    newest = AccessAttempt.objects.filter(
        username=find_user_name(request, credentials), ip_address=find_client_address(request)
    ).aggregate(newest=Max("attempt_time"))["newest"]
    # None when a superuser has just unlocked it: the next try is let in.
    ends_at = newest + settings.AXES_COOLOFF_TIME if newest else timezone.now()
    seconds = max(1, math.ceil((ends_at - timezone.now()).total_seconds()))
    context = {**admin.site.each_context(request), "title": "Log-in locked", "ends_at": ends_at}
    response = render(request, "admin/log_in_locked.html", context, status=429)
    response["Retry-After"] = str(seconds)
    return response
