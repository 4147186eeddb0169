"""Admin: payments and their ledger, to be read."""

from django.contrib import admin
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin, format_order, link_order, show_state
from payments.models import Payment, PaymentEvent


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = [link_order, "amount_with_currency", show_state, "charge_id"]
    list_display_links = ["amount_with_currency"]
    list_filter = ["state"]
    list_select_related = ["order"]
    number_path = "order__number"
    search_fields = ["order__customer_email", "charge_id__exact"]
    search_help_text = "Order number, customer's e-mail or the gateway's charge id"
    ordering = ["-pk"]
    exclude = ["token"]

    @admin.display(description="amount", ordering="amount")
    def amount_with_currency(self, payment: Payment) -> str:
        return f"{payment.amount} {payment.currency}"


@admin.register(PaymentEvent)
class PaymentEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "order", "kind", "amount_with_currency", "reference", "note"]
    list_filter = ["kind", "at"]
    list_select_related = ["payment__order"]
    number_path = "payment__order__number"
    search_fields = ["reference__exact"]
    search_help_text = "Order number, or a reference in full"
    ordering = ["-pk"]

    @admin.display(ordering="payment__order__number")
    def order(self, event: PaymentEvent) -> SafeString:
        return format_order(event.payment.order)

    @admin.display(description="amount", ordering="amount")
    def amount_with_currency(self, event: PaymentEvent) -> str:
        return f"{event.amount} {event.payment.currency}"
