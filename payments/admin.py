"""Admin: payments and their ledger, to be read."""

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from payments.models import Payment, PaymentEvent


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = ["order", "amount", "currency", "state", "charge_id"]
    list_filter = ["state"]
    list_select_related = ["order"]
    search_fields = ["=order__number", "order__customer_email", "=charge_id"]
    search_help_text = "Order number, customer's e-mail or the gateway's charge id"
    ordering = ["-pk"]
    exclude = ["token"]


@admin.register(PaymentEvent)
class PaymentEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "order", "kind", "amount", "reference", "note"]
    list_filter = ["kind"]
    list_select_related = ["payment__order"]
    search_fields = ["=payment__order__number", "=reference"]
    search_help_text = "Order number or reference"
    date_hierarchy = "at"
    ordering = ["-pk"]

    @admin.display(ordering="payment__order__number")
    def order(self, event: PaymentEvent) -> str:
        return str(event.payment.order)
