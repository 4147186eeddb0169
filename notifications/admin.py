"""Admin: every mail as it was sent, to be read."""

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from notifications.models import EmailMessage


@admin.register(EmailMessage)
class EmailMessageAdmin(ReadOnlyAdmin):
    list_display = ["subject", "recipient", "order", "kind", "state", "sent_at"]
    list_filter = ["kind", "state"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "recipient", "=message_id"]
    search_help_text = "Order number, recipient or Message-ID"
    date_hierarchy = "created_at"
    ordering = ["-pk"]
    fields = ["order", "kind", "state", "recipient", "subject", "text", "message_id", "created_at", "sent_at"]
