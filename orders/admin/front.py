"""The admin's front page: what needs a person, the numbers of today, the state of workers and Temporal."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.formats import date_format
from django.utils.http import quote_etag, urlencode
from django.utils.timezone import localdate, localtime

from orders import attention, health, today
from orders.sentences import WorkItem, WorkKind

# The look of each kind's badge: the state classes of orders/admin.css.
TONES: dict[WorkKind, str] = {
    WorkKind.AUDIT: "failed",
    WorkKind.UNDO: "failed",
    WorkKind.STEP: "failed",
    WorkKind.UNTOLD: "failed",
    WorkKind.WAITING: "cancelling",
    WorkKind.FINDING: "cancelling",
    WorkKind.APPROVAL: "running",
    WorkKind.MAIL: "cancelling",
    WorkKind.STOCK: "idle",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time for a page: in words, in the project's time zone, and for machines."""

    text: str
    iso: str


def show_front_page(request: HttpRequest) -> HttpResponse:
    """The whole page, with the stock admin's list of apps below."""
    return admin.site.index(request, {"live": render_live_part(request)})


def show_live_part(request: HttpRequest) -> HttpResponse:
    """The part that changes, with an ETag: 304 while it says the same."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    html = render_live_part(request)
    etag = quote_etag(hashlib.sha256(html.encode()).hexdigest())
    answer = HttpResponse(html, headers={"ETag": etag})
    return cast("HttpResponse", get_conditional_response(request, etag=etag, response=answer))


def render_live_part(request: HttpRequest) -> str:
    """Queue, numbers and engine, as far as this person may see them. Says nothing that depends on the second
    it is asked, so that it stays the same while nothing happens."""
    user = cast("User", request.user)
    sees_orders = user.has_perm("orders.view_order")
    sees_stock = user.has_perm("inventory.view_product")
    if not sees_orders and not sees_stock:
        return ""
    queue = attention.list_work(user)
    context: dict[str, Any] = {
        "sees_orders": sees_orders,
        "sees_stock": sees_stock,
        "total": queue.total,
        "totals": [{"kind": kind, "count": n, "tone": TONES[kind]} for kind, n in queue.totals.items()],
        "items": [_show_item(item) for item in queue.items],
        "left_out": [
            {"kind": kind, "count": n, "url": _link_list(kind)} for kind, n in queue.left_out.items()
        ],
        "currency": settings.SHOP_CURRENCY,
    }
    if sees_orders:
        engine = health.ask_engine()
        backlog = today.measure_backlog()
        context |= {
            "numbers": today.count_orders(),
            "engine": engine,
            "workers": [
                {"sign": worker, "polled": say_when(worker.last_poll, "H:i:s")} for worker in engine.workers
            ],
            "backlog": backlog,
            "oldest": say_when(backlog.oldest) if backlog.oldest else None,
            "temporal_ui": settings.TEMPORAL_UI_URL,
            "money": today.sum_money() if user.has_perm("payments.view_payment") else None,
        }
    return render_to_string("admin/front/live.html", context, request)


def _show_item(item: WorkItem) -> dict[str, Any]:
    """An item with its links."""
    if item.order_id:
        url = reverse("admin:orders_order_change", args=[item.order_id])
    elif item.audit_id:
        url = reverse("admin:orders_auditrun_change", args=[item.audit_id])
    else:
        url = reverse("admin:inventory_product_change", args=[item.product_id])
    actions = []
    for action in item.actions:
        if action.slug == "stock":
            target = reverse("admin:inventory_product_stock", args=[item.product_id])
        else:
            query = urlencode({"order": str(item.order_id), **action.arguments})
            target = f"{reverse('admin:orders_order_act', args=[action.slug])}?{query}"
        actions.append({"label": action.label, "url": target})
    return {
        "item": item,
        "tone": TONES[item.kind],
        "url": url,
        "since": say_when(item.since) if item.since else None,
        "actions": actions,
    }


def _link_list(kind: WorkKind) -> str:
    """The list that has all items of a kind, or the nearest to it that there is."""
    if kind == WorkKind.STOCK:
        return reverse("admin:inventory_product_changelist")
    orders = reverse("admin:orders_order_changelist")
    match kind:
        case WorkKind.WAITING:
            return f"{orders}?saga=in_progress"
        case WorkKind.APPROVAL:
            return f"{orders}?saga=awaiting_approval"
        case _:
            return f"{orders}?attention=1"


def say_when(moment: datetime, today_as: str = "H:i") -> Moment:
    """The time of day, with the date before it unless it is today's."""
    local = localtime(moment)
    text = date_format(local, today_as if local.date() == localdate() else f"j M, {today_as}")
    return Moment(text=text, iso=local.isoformat(timespec="seconds"))
