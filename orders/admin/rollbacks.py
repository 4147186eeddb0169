"""The history of everything undone: which orders were rolled back, why, by whom, and how long it took."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import now

from orders import listing, selectors
from orders.admin import charts
from orders.admin.lists import (
    AttentionFilter,
    FailedStepFilter,
    OrderListAdmin,
    PastDateFilter,
    format_age,
    format_duration,
    make_filter,
    show_moment,
)
from orders.models import Order, OrderQuerySet
from orders.permissions import SEE_DEEDS, SEE_PAYMENTS, SEE_REQUESTS


class PeriodChoice(admin.SimpleListFilter):
    """Takes the charts' period out of the parameters, so that it lives beside the filters."""

    title = "period of the charts"
    parameter_name = charts.PERIOD_PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset


class RollbackAdmin(OrderListAdmin):
    """Orders whose rollback has begun, and why."""

    title = "Rollbacks"
    list_display = [
        "number",
        "rollback_badge",
        "began",
        "failed_with",
        "cause",
        "triggered_by",
        "given_back",
    ]
    list_filter = [
        make_filter("rollback", "rollback", listing.choose_rollback),
        AttentionFilter,
        FailedStepFilter,
        make_filter("type of error", "failure_type", listing.choose_error_type),
        make_filter("who began it", "by", listing.choose_trigger),
        ("rollback_started_at", PastDateFilter),
        PeriodChoice,
    ]
    ordering = ["-rollback_started_at", "-number"]
    sortable_by = ["began", "failed_with"]
    date_hierarchy = "rollback_started_at"
    change_list_template = "admin/orders/order/rollbacks.html"

    def get_queryset(self, request: HttpRequest) -> OrderQuerySet:
        return selectors.list_rolled_back_orders()

    def list_rows(self, request: HttpRequest, page: QuerySet[Any]) -> QuerySet[Any]:
        return listing.list_rollback_rows(
            page,
            sees_money=request.user.has_perm(SEE_PAYMENTS),
            sees_deeds=request.user.has_perms([SEE_DEEDS, SEE_REQUESTS]),
        )

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # They are orders: whoever may see those may see what became of them.
        return request.user.has_perm("orders.view_order")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        days = charts.read_period(request.GET.get(charts.PERIOD_PARAMETER, ""))
        return super().changelist_view(
            request, {"draw_charts": partial(charts.draw_charts, days), **(extra_context or {})}
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """An order has one page."""
        return HttpResponseRedirect(reverse("admin:orders_order_change", args=[object_id]))

    @admin.display(description="rollback")
    def rollback_badge(self, order: Any) -> SafeString:
        badge = self.saga(order)
        if not order.attention:
            return badge
        return format_html('{} <span class="od-attention">{}</span>', badge, "needs attention")

    @admin.display(description="began", ordering="rollback_started_at")
    def began(self, order: Any) -> SafeString:
        began = order.rollback_started_at
        if end := listing.find_rollback_end(order):
            took = show_moment(end, f"took {format_duration(end - began)}")
        else:
            took = show_moment(began, f"still open since {format_age(now() - began)}")
        return show_lines(show_moment(began), took)

    @admin.display(description="failed step", ordering="failed_step")
    def failed_with(self, order: Order) -> SafeString:
        return show_lines(self.failure_at(order), order.failure_type)

    @admin.display(description="cause")
    def cause(self, order: Order) -> str:
        return order.failure

    @admin.display(description="began by")
    def triggered_by(self, order: Any) -> SafeString:
        return show_lines(*listing.describe_trigger(order))

    @admin.display(description="given back")
    def given_back(self, order: Any) -> SafeString:
        units = order.units_released
        return show_lines(
            f"{order.refunded} {order.currency}" if order.refunded else "",
            f"{units} unit{'' if units == 1 else 's'}" if units else "",
        )


def show_lines(first: str, second: str) -> SafeString:
    """Two facts of one cell below each other, the second one quieter; what is empty takes no line."""
    lines = [(css, text) for css, text in (("od-fact", first), ("od-detail", second)) if text]
    return (
        format_html("<div>{}</div>", format_html_join("", '<div class="{}">{}</div>', lines))
        if lines
        else SafeString()
    )
