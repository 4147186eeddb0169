"""Admin of products: the list, and the page with what a product is, what is in stock and who holds it."""

from decimal import Decimal
from functools import partial
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.validators import MinValueValidator, RegexValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin
from inventory import selectors, services
from inventory.admin import stock
from inventory.admin.cells import link_order, show_badge, show_kind, show_level, show_moment, show_signed
from inventory.models import Product

MAX_ROWS = 50


class ProductForm(forms.ModelForm):  # type: ignore[type-arg]
    """Says what the database and the desk would refuse: a SKU with a blank could never be ordered."""

    sku = forms.CharField(
        label="SKU",
        max_length=40,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Letters, digits and signs without blanks, for example TEE-M. It cannot be changed later.",
        validators=[
            RegexValidator(
                r"\A[!-~]+\Z",
                "A SKU has only letters A to Z, digits and signs such as - _ . / and no blanks: "
                "it must be possible to type and to scan it.",
            )
        ],
    )
    price = forms.DecimalField(
        max_digits=10,
        decimal_places=2,
        validators=[MinValueValidator(Decimal(0), "A price is 0 or more.")],
        help_text=f"In {settings.SHOP_CURRENCY}. Orders that are placed already keep their price.",
    )

    class Meta:
        widgets = {"description": AdminTextareaWidget(attrs={"rows": 3})}


class OnSaleFilter(admin.SimpleListFilter):
    title = "on sale"
    parameter_name = "on_sale"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Yes"), ("0", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(is_active=self.value() == "1") if self.value() in ("0", "1") else queryset


class StockFilter(admin.SimpleListFilter):
    title = "stock"
    parameter_name = "stock"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("low", "Low or sold out"), ("out", "Sold out"), ("enough", "Enough")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "low":
                return queryset.filter(selectors.LOW)
            case "out":
                return queryset.filter(selectors.SOLD_OUT)
            case "enough":
                return queryset.exclude(selectors.LOW)
        return queryset


class ProductAdmin(ReadOnlyAdmin):
    """Name, description, price and whether it is sold are edited; stock moves only by bookings.

    A product is withdrawn by no longer selling it: orders and the ledger point at it.
    """

    form = ProductForm
    list_display = ["sku", "name", "price", "on_sale", "on_hand", "held", "available", "level"]
    list_filter = [OnSaleFilter, StockFilter]
    list_select_related = ["stock"]
    list_per_page = 50
    search_fields = ["sku", "name"]
    search_help_text = "SKU or name"
    ordering = ["sku"]
    empty_value_display = ""
    change_form_template = "admin/inventory/product/change_form.html"

    class Media:
        css = {"all": ["inventory/inventory.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("inventory.add_product")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("inventory.change_product")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["sku", "name", "description", "price", "is_active", "low_stock_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # Orders name what they bought by its SKU.
        return ["sku"] if obj else []

    def save_model(self, request: HttpRequest, obj: Product, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            services.create_product(product=obj)

    @admin.display(description="on sale", ordering="is_active")
    def on_sale(self, product: Product) -> SafeString:
        return (
            show_badge("on sale", "stock-sale") if product.is_active else show_badge("withdrawn", "stock-off")
        )

    @admin.display(description="on hand", ordering="stock__on_hand")
    def on_hand(self, product: Product) -> int:
        return selectors.get_stock(product).on_hand

    @admin.display(ordering="stock__reserved")
    def held(self, product: Product) -> int:
        return selectors.get_stock(product).reserved

    @admin.display(ordering="stock__available")
    def available(self, product: Product) -> int:
        stock = selectors.get_stock(product)
        return stock.on_hand - stock.reserved

    @admin.display(description="level")
    def level(self, product: Product) -> SafeString | str:
        return show_level(product)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(partial(stock.book_stock, self))
        return [path("<int:product_id>/stock/", view, name="inventory_product_stock"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"title": "Products", **(extra_context or {})})

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **options: Any
    ) -> HttpResponse:
        """The stock form, with the stock, the open holds and the last movements around it."""
        if (product := options.get("obj")) is not None:
            context |= describe_product(request, product)
        return super().render_change_form(request, context, *args, **options)


def describe_product(request: HttpRequest, product: Product) -> dict[str, Any]:
    """What the page shows of a product beside its fields."""
    item = selectors.get_stock(product)
    holds = selectors.list_open_holds(product.pk, limit=MAX_ROWS + 1)
    movements = selectors.list_last_movements(product.pk, limit=MAX_ROWS + 1)
    return {
        "title": product.name,
        "subtitle": None,
        "stock": item,
        "available": item.on_hand - item.reserved,
        "level": show_level(product),
        "sees_orders": request.user.has_perm("orders.view_order"),
        "holds": [
            {
                "order": link_order(request, hold.order),
                "quantity": hold.quantity,
                "customer": hold.order.customer_email,
                "since": show_moment(selectors.get_held_since(hold)),
                "status": show_badge(hold.order.status, hold.order.status),
            }
            for hold in holds[:MAX_ROWS]
        ],
        "more_holds": len(holds) > MAX_ROWS,
        "movements": [
            {
                "at": show_moment(row.movement.at),
                "kind": show_kind(row.movement.kind),
                "on_hand_change": show_signed(row.movement.on_hand_change),
                "held_change": show_signed(row.movement.reserved_change),
                "on_hand": row.on_hand,
                "held": row.held,
                "available": row.available,
                "order": link_order(request, row.movement.order),
                "note": row.movement.note,
                "actor": row.movement.actor,
            }
            for row in movements[:MAX_ROWS]
        ],
        "more_movements": len(movements) > MAX_ROWS,
        "max_rows": MAX_ROWS,
    }
