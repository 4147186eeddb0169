"""Admin of orders: the order pages, and the lists of what happened, to be read."""

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from orders.admin.pages import OrderAdmin
from orders.models import Order, OrderAction, OutboxMessage, TrailEntry

admin.site.register(Order, OrderAdmin)


@admin.register(TrailEntry)
class TrailEntryAdmin(ReadOnlyAdmin):
    list_display = ["started_at", "order", "name", "kind", "state", "attempts", "ms", "error_type", "worker"]
    list_filter = ["state", "kind", "name"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "error_type", "worker"]
    search_help_text = "Order number, type of error or worker"
    date_hierarchy = "started_at"
    ordering = ["-pk"]


@admin.register(OrderAction)
class OrderActionAdmin(ReadOnlyAdmin):
    list_display = ["at", "order", "kind", "actor", "undo", "reason", "reference"]
    list_filter = ["kind"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "actor", "reference"]
    search_help_text = "Order number, person or reference"
    date_hierarchy = "at"
    ordering = ["-pk"]


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "order", "kind", "name", "attempts", "delivered_at", "last_error"]
    list_filter = [("delivered_at", admin.EmptyFieldListFilter), "kind"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "=workflow_id"]
    search_help_text = "Order number or workflow id"
    ordering = ["-pk"]
