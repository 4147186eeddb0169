"""The list of orders and the list of those rolled back."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from config.admin import ReadOnlyAdmin
from orders import selectors
from orders.models import STEPS, Order, OrderQuerySet, OrderStatus


class AttentionFilter(admin.SimpleListFilter):
    title = "needs attention"
    parameter_name = "attention"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Yes"), ("0", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in ("0", "1"):
            return queryset.filter(attention=self.value() == "1")
        return queryset


class RollbackFilter(admin.SimpleListFilter):
    title = "rollback"
    parameter_name = "rollback"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(OrderStatus.CANCELLING, "Incomplete"), (OrderStatus.CANCELLED, "Complete")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class FailedStepFilter(admin.SimpleListFilter):
    title = "failed step"
    parameter_name = "failed_step"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(step, step) for step in STEPS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(failed_step=self.value()) if self.value() else queryset


class OrderListAdmin(ReadOnlyAdmin):
    """Columns, filters and search that both lists share."""

    title = "Orders"
    list_filter = ["status", AttentionFilter]
    empty_value_display = ""
    search_fields = ["=number", "customer_email", "lines__sku", "=id"]
    search_help_text = "Order number, customer's e-mail, SKU or id"
    ordering = ["-accepted_at", "-number"]
    list_per_page = 50

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        try:
            for chosen in request.POST.getlist("_selected_action"):
                UUID(chosen)
        except ValueError:
            messages.error(request, "Select the orders first.")
            return HttpResponseRedirect(request.path)
        return super().changelist_view(request, {"title": self.title, **(extra_context or {})})

    @admin.display(description="total", ordering="total")
    def total_with_currency(self, order: Order) -> str:
        return f"{order.total} {order.currency}"

    @admin.display(description="status", ordering="status")
    def status_badge(self, order: Any) -> SafeString:
        badge = format_html('<span class="od-badge od-{}">{}</span>', order.status, order.status)
        if not order.attention:
            return badge
        return format_html('{} <strong class="od-attention">{}</strong>', badge, "needs attention")

    @admin.display(description="accepted", ordering="accepted_at")
    def accepted(self, order: Order) -> str:
        return date_format(localtime(order.accepted_at), "j M Y, H:i")


class RolledBackOrderAdmin(OrderListAdmin):
    """Orders whose rollback has begun, and why; a list inside OrderAdmin, not registered by itself."""

    title = "Rolled-back orders"
    list_display = [
        "number",
        "status_badge",
        "cause",
        "reason",
        "total_with_currency",
        "refunded_amount",
        "began",
    ]
    list_filter = [RollbackFilter, AttentionFilter, FailedStepFilter, "failure_type"]
    ordering = ["-rollback_started_at"]
    date_hierarchy = "rollback_started_at"
    actions = None
    change_list_template = "admin/orders/order/rolled_back_list.html"

    def get_queryset(self, request: HttpRequest) -> OrderQuerySet:
        return selectors.list_rolled_back_orders()

    @admin.display(description="cause", ordering="failed_step")
    def cause(self, order: Order) -> SafeString:
        return format_html_join("", "<div>{}</div>", [(order.failed_step,), (order.failure_type,)])

    @admin.display(description="began", ordering="rollback_started_at")
    def began(self, order: Order) -> str:
        return date_format(localtime(order.rollback_started_at), "j M Y, H:i")

    @admin.display
    def reason(self, order: Any) -> str:
        if order.cancelled_by:
            return f"{order.cancelled_by}: {order.cancel_reason}"
        return str(order.failure)

    @admin.display(description="refunded", ordering="refunded")
    def refunded_amount(self, order: Any) -> str:
        return f"{order.refunded} {order.currency}" if order.refunded else ""
