"""Admin of orders: the order pages, the lists of what happened, the API's clients, and the people."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.text import Truncator

from config.admin import ReadOnlyAdmin, link_order, show_state
from orders.admin import staff as staff
from orders.admin.audits import AuditAdmin
from orders.admin.clients import ClientAdmin
from orders.admin.deliveries import DeliveryAdmin
from orders.admin.endpoints import EndpointAdmin
from orders.admin.order import OrderAdmin
from orders.admin.rollbacks import RollbackAdmin
from orders.models import (
    STEP_OF_UNDO,
    STEPS,
    ApiClient,
    AuditRun,
    CancelRequest,
    Order,
    OrderAction,
    OutboxMessage,
    Rollback,
    TrailEntry,
    WebhookDelivery,
    WebhookEndpoint,
)

admin.site.register(Order, OrderAdmin)
admin.site.register(Rollback, RollbackAdmin)
admin.site.register(AuditRun, AuditAdmin)
admin.site.register(ApiClient, ClientAdmin)
admin.site.register(WebhookEndpoint, EndpointAdmin)
# An endpoint's page leads to its deliveries.
admin.site.register(WebhookDelivery, DeliveryAdmin, linked_lookups=("endpoint__id__exact",))


class StepFilter(admin.SimpleListFilter):
    """Steps and undos as the plan has them: asking the trail for its names would read all of it."""

    title = "step or undo"
    parameter_name = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in (*STEPS, *STEP_OF_UNDO)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(name=self.value()) if self.value() else queryset


@admin.register(TrailEntry)
class TrailEntryAdmin(ReadOnlyAdmin):
    list_display = ["started_at", link_order, "name", show_state, "attempts", "took", "error_type", "worker"]
    list_filter = ["state", StepFilter, "started_at"]
    list_select_related = ["order"]
    number_path = "order__number"
    search_fields = ["error_type__exact", "worker__exact"]
    search_help_text = "Order number; or a type of error or a worker, in full"
    ordering = ["-pk"]

    @admin.display(description="took", ordering="ms")
    def took(self, entry: TrailEntry) -> str | None:
        return None if entry.ms is None else f"{entry.ms}\N{NO-BREAK SPACE}ms"


@admin.register(OrderAction)
class OrderActionAdmin(ReadOnlyAdmin):
    list_display = ["at", link_order, "kind", "actor", "undo", "reason", "reference"]
    list_filter = ["kind", "at"]
    list_select_related = ["order"]
    number_path = "order__number"
    search_fields = ["actor", "reference"]
    search_help_text = "Order number, person or reference"
    ordering = ["-pk"]


@admin.register(CancelRequest)
class CancelRequestAdmin(ReadOnlyAdmin):
    """Cancels whose refund needs a second person: who asked, who decided. Decided on the order's page."""

    list_display = [
        "requested_at",
        link_order,
        show_state,
        "refund_with_currency",
        "requested_by",
        "decided_by",
        "decided_at",
        "reason",
    ]
    list_filter = ["state", "requested_at"]
    list_select_related = ["order", "requested_by", "decided_by"]
    number_path = "order__number"
    search_fields = ["requested_by__username", "decided_by__username"]
    search_help_text = "Order number, or who asked or decided"
    ordering = ["-pk"]

    @admin.display(description="refund", ordering="refund")
    def refund_with_currency(self, request: CancelRequest) -> str:
        return f"{request.refund} {request.order.currency}"


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    list_display = ["created_at", link_order, "kind", "name", "attempts", "delivered_at", "last_failure"]
    list_filter = [("delivered_at", admin.EmptyFieldListFilter), "kind"]
    list_select_related = ["order"]
    number_path = "order__number"
    search_fields = ["workflow_id__exact"]
    search_help_text = "Order number or workflow id"
    ordering = ["-pk"]

    @admin.display(description="last error", ordering="last_error")
    def last_failure(self, message: Any) -> str:
        return Truncator(message.last_error).chars(120)
