"""The page of one order: everything that is known about it, live until its saga has ended."""

from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag

from orders import selectors
from orders.admin.offers import list_offers
from orders.admin.timeline import list_rows, list_stages, read_standing
from orders.admin.words import name_action, name_error, name_step
from orders.models import Order
from orders.permissions import SEE_FLAGS, SEE_OUTBOX
from orders.previews import find_open_request, has_copy_under_way, list_stuck_undos

if TYPE_CHECKING:
    from orders.admin.order import OrderAdmin


def show_order(admin: "OrderAdmin", request: HttpRequest, order_id: str) -> HttpResponse:
    """The whole page."""
    if request.method not in ("GET", "HEAD"):
        raise PermissionDenied
    order = find_order(admin, request, order_id)
    context = {"title": str(order), "original": order, **describe_order(request, order)}
    return admin.render_page(request, "page", context)


def show_live(admin: "OrderAdmin", request: HttpRequest, order_id: UUID) -> HttpResponse:
    """The sections of the page that change while the saga runs, with an ETag: 304 while nothing has.
    As every page of the admin it is private and asked for anew each time."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    context = describe_order(request, find_order(admin, request, order_id))
    content = render_to_string("admin/orders/order/live.html", context, request).encode()
    etag = quote_etag(sha256(content).hexdigest())
    response = HttpResponse(content, headers={"ETag": etag})
    return get_conditional_response(request, etag=etag, response=response) or response


def describe_order(request: HttpRequest, order: Order) -> dict[str, Any]:
    """What the sections of the page show. Nothing in it depends on the time of day: equal orders give equal
    pages, which the ETag relies on."""
    steps = selectors.summarise_trail(order.trail.all())
    flags = selectors.list_open_flags(order)
    overdue = selectors.describe_overdue(order)
    stuck = list_stuck_undos(order)
    standing = read_standing(order, steps, stuck)
    asked = find_open_request(order)
    ui = f"{settings.TEMPORAL_UI_URL}/namespaces/{settings.TEMPORAL_NAMESPACE}/workflows"
    return {
        "order": order,
        "standing": standing,
        "stages": list_stages(order, steps),
        "rows": list_rows(order),
        "offers": list_offers(request.user, order, flags=flags, stuck=stuck),
        "needs_attention": bool(flags or overdue),
        "reasons": [
            (name_step(flag.subject), flag.reason, flag.raised_at)
            for flag in flags
            if request.user.has_perm(SEE_FLAGS)
        ],
        "overdue": overdue if request.user.has_perm(SEE_OUTBOX) else "",
        "asked": asked,
        # What a person has set going goes on after the saga's end.
        "is_live": not standing.is_final or asked is not None or has_copy_under_way(order),
        "cause": (name_step(order.failed_step), name_error(order.failure_type)),
        "done": [
            (name_action(action.kind), name_step(action.undo), action) for action in order.actions.all()
        ],
        "workflows": [
            (workflow_id, f"{ui}/{workflow_id}" if settings.TEMPORAL_UI_URL else "")
            for workflow_id in selectors.list_workflow_ids(order)
        ],
    }


def find_order(admin: "OrderAdmin", request: HttpRequest, order_id: str | UUID) -> Order:
    """The order with its history. 404 if there is none, 403 if it may not be seen."""
    if not admin.has_view_permission(request):
        raise PermissionDenied
    try:
        return selectors.get_order_record(UUID(str(order_id)))
    except (ValueError, Order.DoesNotExist):
        raise Http404("There is no such order.") from None
