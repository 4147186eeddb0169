"""Admin of webhook deliveries: the log of what was sent, and having it delivered again."""

import json
import logging
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from config.admin import ReadOnlyAdmin, lay_out, link_order, show_state
from orders.admin.lists import PastDateFilter, show_moment
from orders.models import DeliveryState, WebhookDelivery
from orders.permissions import REDELIVER, SEE_ATTEMPTS
from orders.refusals import StateConflict
from orders.webhooks import registry, selectors

logger = logging.getLogger("orders.admin")

MAX_SELECTED = 100
MAX_ID = 2**63
LIST = "admin:orders_webhookdelivery_changelist"
PAGE = "admin:orders_webhookdelivery_change"


class ClientFilter(admin.SimpleListFilter):
    title = "client"
    parameter_name = "client"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(client.pk), client.name) for client in selectors.list_told_clients()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(endpoint__client=self.value()) if self.value() else queryset


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label="Why",
        max_length=300,
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 2}),
        help_text="Kept with the order, with your name.",
    )


class DeliveryAdmin(ReadOnlyAdmin):
    """What was sent to whom, every attempt at it, and the button that has it delivered again."""

    list_display = ["created_at", link_order, "happened", "receiver", show_state, "attempts", "last_answer"]
    list_filter = ["state", "event", ClientFilter, ("created_at", PastDateFilter)]
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    number_path = "order__number"
    search_fields = ["endpoint__url"]
    search_help_text = "Order number, webhook-id, or part of the URL"
    ordering = ["-pk"]
    actions = ["redeliver_selected"]
    readonly_fields = ["client", "webhook_id", "badge", "next_attempt"]
    change_form_template = "admin/orders/webhookdelivery/change_form.html"

    class Media:
        css = {"all": ["orders/webhooks.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookDelivery]:
        return selectors.list_deliveries()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            return queryset.filter(event_id=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What there is to say of it in its state."""
        fields = ["order", "event", "endpoint", "client", "webhook_id", "badge", "attempts", "created_at"]
        more = {DeliveryState.WAITING: ["next_attempt"], DeliveryState.DELIVERED: ["delivered_at"]}
        return fields + more.get(obj.state, []) if obj else fields

    @admin.display(description="event", ordering="event")
    def happened(self, delivery: WebhookDelivery) -> str:
        return delivery.event.removeprefix("order.").replace("_", " ")

    @admin.display(description="to", ordering="endpoint__url")
    def receiver(self, delivery: WebhookDelivery) -> SafeString:
        host = urlsplit(delivery.endpoint.url).netloc
        return format_html(
            '<div>{}<br><span class="hook-detail">{}</span></div>', delivery.endpoint.client.name, host
        )

    @admin.display(description="last answer")
    def last_answer(self, delivery: Any) -> SafeString:
        answer = Truncator(delivery.last_error or str(delivery.last_status or "")).chars(120)
        if delivery.state != DeliveryState.WAITING:
            return format_html("{}", answer)
        when = self.next_attempt(delivery)
        return format_html('<div>{} <span class="hook-detail hook-next">next: {}</span></div>', answer, when)

    @admin.display(description="client")
    def client(self, delivery: WebhookDelivery) -> str:
        return delivery.endpoint.client.name

    @admin.display(description="webhook-id")
    def webhook_id(self, delivery: WebhookDelivery) -> str:
        return str(delivery.event_id)

    @admin.display(description="next attempt")
    def next_attempt(self, delivery: WebhookDelivery) -> str:
        if delivery.leased_until is not None and delivery.leased_until > timezone.now():
            return "being sent"
        return show_moment(delivery.next_attempt_at)

    @admin.display(description="state")
    def badge(self, delivery: WebhookDelivery) -> SafeString:
        return show_state(delivery)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(partial(confirm_redelivery, self))
        return [path("redeliver/", view, name="orders_webhookdelivery_redeliver"), *super().get_urls()]

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(REDELIVER)

    @admin.action(description="Redeliver…", permissions=["redeliver"])
    def redeliver_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        chosen = list(queryset.values_list("pk", flat=True)[: MAX_SELECTED + 1])
        if len(chosen) > MAX_SELECTED:
            messages.error(request, f"Select at most {MAX_SELECTED} deliveries at a time.")
            return None
        return ask(self, request, selectors.find_deliveries(chosen))

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **options: Any
    ) -> HttpResponse:
        """The stock page, with the body, every attempt, and the event's other deliveries."""
        if (delivery := options.get("obj")) is not None:
            sees = request.user.has_perm(SEE_ATTEMPTS)
            context |= {
                "title": f"{delivery.event} of {delivery.order}",
                "subtitle": None,
                "delivery": delivery,
                "body": _lay_out_body(delivery.body),
                "sees_attempts": sees,
                "attempts": selectors.list_attempts(delivery) if sees else [],
                "others": selectors.list_same_event(delivery),
                "redelivers": self.has_redeliver_permission(request),
            }
        return super().render_change_form(request, context, *args, **options)


def _lay_out_body(body: str) -> str:
    """The body as people read it: what was signed has no blanks."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body


# --- having it delivered again -----------------------------------------------------------------------------


def confirm_redelivery(admin: DeliveryAdmin, request: HttpRequest) -> HttpResponse:
    """Show what would be sent again (GET); have it delivered, row by row (POST)."""
    if not (admin.has_view_permission(request) and admin.has_redeliver_permission(request)):
        raise PermissionDenied
    given = request.POST if request.method == "POST" else request.GET
    deliveries = selectors.find_deliveries(_read_ids(given.getlist("delivery")))
    form = ReasonForm(request.POST if request.method == "POST" else None)
    if not deliveries or not form.is_valid():
        return ask(admin, request, deliveries, form)
    for delivery in deliveries:
        _redeliver(admin, request, delivery, form.cleaned_data["reason"])
    if len(deliveries) == 1:
        return HttpResponseRedirect(reverse(PAGE, args=[deliveries[0].pk]))
    return HttpResponseRedirect(reverse(LIST))


def _read_ids(values: list[str]) -> list[int]:
    """The ids among the values; what is none is left out."""
    found = [int(value) for value in values[:MAX_SELECTED] if value.isascii() and value.isdecimal()]
    return [pk for pk in found if pk < MAX_ID]


def ask(
    admin: DeliveryAdmin,
    request: HttpRequest,
    deliveries: list[WebhookDelivery],
    form: ReasonForm | None = None,
) -> HttpResponse:
    """The page that says what will be sent again. Without anything it leads back to the list."""
    if not deliveries:
        messages.error(request, "Select the deliveries first.")
        return HttpResponseRedirect(reverse(LIST))
    rows = [(delivery, *_preview(delivery)) for delivery in deliveries]
    form = form or ReasonForm()
    context = {
        **admin.admin_site.each_context(request),
        "title": "Redeliver" if len(rows) == 1 else f"Redeliver {len(rows)} webhooks",
        "subtitle": None,
        "opts": admin.opts,
        "media": admin.media,
        "rows": rows,
        "only": deliveries[0] if len(rows) == 1 else None,
        "possible": sum(is_possible for _, is_possible, _ in rows),
        "adminform": lay_out(form),
        "errors": form.errors,
    }
    return TemplateResponse(request, "admin/orders/webhookdelivery/redeliver.html", context)


def _preview(delivery: WebhookDelivery) -> tuple[bool, str]:
    """Whether it can be delivered again, and what that does, or why not."""
    if delivery.endpoint.disabled_at is not None:
        return False, "Its endpoint is disabled."
    if delivery.state == DeliveryState.WAITING:
        return True, "It still waits for its next attempt, and is tried now instead."
    if delivery.state == DeliveryState.DELIVERED:
        return True, "It is sent once more. The receiver has had it, and knows it by its webhook-id."
    return True, "It is sent again, with the same webhook-id and body."


def _redeliver(admin: DeliveryAdmin, request: HttpRequest, delivery: WebhookDelivery, reason: str) -> None:
    """Have one delivered again, and tell the person what came of it."""
    name = f"{delivery.event} of {delivery.order}"
    try:
        with transaction.atomic():
            again = registry.redeliver(
                delivery_id=delivery.pk, actor=request.user.get_username(), reason=reason
            )
            admin.log_change(request, delivery, f"Had it delivered again. {reason}".strip())
    except StateConflict as conflict:
        messages.error(request, f"{name}: {conflict}")
        return
    except OperationalError as error:  # such as a lock that somebody holds for too long
        logger.warning("redelivery of %s failed: %s", delivery.pk, error)
        messages.error(request, f"{name}: the database was busy, so nothing was done. Try again.")
        return
    link = format_html('<a href="{}">{}</a>', reverse(PAGE, args=[again.pk]), name)
    messages.success(request, format_html("{} is on its way again.", link))
