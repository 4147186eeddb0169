"""Admin: products to edit, stock to book, holds and the stock ledger to read."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from config.admin import ReadOnlyAdmin, lay_out
from inventory import selectors, services
from inventory.models import Hold, Product, StockItem, StockMovement
from orders.refusals import StateConflict

MAX_BOOKING = 1_000_000


class StockForm(forms.Form):
    change = forms.IntegerField(
        label="Units",
        min_value=-MAX_BOOKING,
        max_value=MAX_BOOKING,
        help_text="Positive for units that came in or were found, negative for units that are missing.",
    )
    note = forms.CharField(
        max_length=200, help_text="Why, for example the delivery note's number or a count of the shelf."
    )

    def clean_change(self) -> int:
        change: int = self.cleaned_data["change"]
        if change == 0:
            raise forms.ValidationError("Zero units change nothing.")
        return change


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Name, description, price and whether it is sold are edited; stock moves only by bookings."""

    list_display = ["sku", "name", "price", "is_active", "on_hand", "held", "available"]
    list_filter = ["is_active"]
    list_select_related = ["stock"]
    search_fields = ["sku", "name"]
    ordering = ["sku"]
    show_full_result_count = False
    change_form_template = "admin/inventory/product/change_form.html"

    def get_fieldsets(self, request: HttpRequest, obj: Product | None = None) -> Any:
        fieldsets: list[Any] = [(None, {"fields": ["sku", "name", "description", "price", "is_active"]})]
        if obj:
            fieldsets.append(("Stock", {"fields": ["on_hand", "held", "available"]}))
        return fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Product | None = None) -> list[str]:
        # Orders name what they bought by its SKU.
        return ["on_hand", "held", "available", *(["sku"] if obj else [])]

    def has_delete_permission(self, request: HttpRequest, obj: Product | None = None) -> bool:
        """A product is withdrawn by no longer selling it: orders and the ledger point at it."""
        return False

    def save_model(self, request: HttpRequest, obj: Product, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            services.create_product(product=obj)

    @admin.display(description="on hand", ordering="stock__on_hand")
    def on_hand(self, product: Product) -> int:
        return _get_stock(product).on_hand

    @admin.display(ordering="stock__reserved")
    def held(self, product: Product) -> int:
        return _get_stock(product).reserved

    @admin.display(ordering="stock__available")
    def available(self, product: Product) -> int:
        stock = _get_stock(product)
        return stock.on_hand - stock.reserved

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.stock_view)
        return [path("<int:product_id>/stock/", view, name="inventory_product_stock"), *super().get_urls()]

    def stock_view(self, request: HttpRequest, product_id: int) -> HttpResponse:
        """Book units in or correct the count, with a note."""
        product = selectors.find_product(product_id)
        if product is None:
            raise Http404
        if not self.has_change_permission(request, product):
            raise PermissionDenied
        form = StockForm(request.POST or None)
        if form.is_valid():
            try:
                services.book_stock(product_id=product_id, **form.cleaned_data)
            except StateConflict as conflict:
                form.add_error("change", str(conflict))
            else:
                booked = f"Booked {form.cleaned_data['change']:+d} units"
                self.log_change(request, product, f"{booked}: {form.cleaned_data['note']}")
                messages.success(request, f"{booked} of {product}.")
                return HttpResponseRedirect(reverse("admin:inventory_product_change", args=[product_id]))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Book stock of {product.sku}",
            "subtitle": None,
            "opts": self.opts,
            "product": product,
            "stock": _get_stock(product),
            "form": form,
            "adminform": lay_out(form),
            "media": self.media,
        }
        return TemplateResponse(request, "admin/inventory/product/stock.html", context)


def _get_stock(product: Product) -> StockItem:
    """The product's stock; none of it when nothing was ever booked."""
    stock: StockItem = getattr(product, "stock", None) or StockItem(product=product)
    return stock


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ["order", "product", "quantity", "state"]
    list_filter = ["state"]
    list_select_related = ["order", "product"]
    search_fields = ["=order__number", "product__sku"]
    search_help_text = "Order number or SKU"
    ordering = ["-pk"]


@admin.register(StockMovement)
class StockMovementAdmin(ReadOnlyAdmin):
    list_display = ["at", "product", "kind", "on_hand_change", "reserved_change", "order", "note"]
    list_filter = ["kind"]
    list_select_related = ["order", "product"]
    search_fields = ["=order__number", "product__sku"]
    search_help_text = "Order number or SKU"
    date_hierarchy = "at"
    ordering = ["-pk"]
