"""Admin of holds and stock movements: lists to be read, which lead to the orders and products behind them."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin
from inventory import selectors
from inventory.admin.cells import (
    KINDS_IN_WORDS,
    STATES_IN_WORDS,
    link_order,
    link_product,
    show_badge,
    show_kind,
    show_moment,
    show_signed,
    show_state,
)
from inventory.models import Hold, Product, StockMovement


class ProductFilter(admin.SimpleListFilter):
    """One product, by its SKU. Offers only the one that is chosen: a catalogue has thousands."""

    title = "product"
    parameter_name = "sku"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        # The key and not the SKU goes into the list's query: the planner then knows how much to expect.
        sku = request.GET.get("sku")
        self.product = Product.objects.filter(sku=sku).first() if sku else None
        return [(self.product.sku, self.product.name)] if self.product else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        return queryset.filter(product_id=self.product.pk) if self.product else queryset.none()

    def has_output(self) -> bool:
        return bool(self.value())


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(STATES_IN_WORDS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() else queryset


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(KINDS_IN_WORDS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class DateFilter(admin.DateFieldListFilter):
    """The stock filter by date, under a title that is a word."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "date"


class HoldAdmin(ReadOnlyAdmin):
    """Who holds what, and what became of it."""

    list_filter = [StateFilter, ProductFilter]
    list_display_links = None
    list_per_page = 50
    # Counting every choice would read the whole table once per choice.
    show_facets = admin.ShowFacets.NEVER
    # The newest first, and nothing else: any other order would sort the whole table for every page.
    sortable_by = ()
    empty_value_display = ""
    search_fields = ["order__number", "product__sku"]
    search_help_text = "Order number or SKU"
    ordering = ["-pk"]
    fields = ["order", "product", "quantity", "state"]

    class Media:
        css = {"all": ["inventory/inventory.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hold]:
        return selectors.list_holds()

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"title": "Holds", **(extra_context or {})})

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """As the search says. The stock search would turn every order's number into text."""
        term = search_term.strip()
        return (queryset.filter(selectors.match_order_or_sku(term)) if term else queryset), False

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """The columns. Customers are shown to those who may see orders."""

        @admin.display(description="order")
        def order(hold: Hold) -> Any:
            return link_order(request, hold.order)

        sees_orders = request.user.has_perm("orders.view_order")
        customer = ["customer_email", "status_badge"] if sees_orders else []
        return [order, "product_link", "quantity", "state_badge", "since", *customer]

    @admin.display(description="product")
    def product_link(self, hold: Hold) -> SafeString:
        return link_product(hold.product)

    @admin.display(description="hold")
    def state_badge(self, hold: Hold) -> SafeString:
        return show_state(hold.state)

    @admin.display(description="since")
    def since(self, hold: Hold) -> str:
        return show_moment(selectors.get_held_since(hold))

    @admin.display(description="customer")
    def customer_email(self, hold: Hold) -> str:
        return hold.order.customer_email

    @admin.display(description="order is")
    def status_badge(self, hold: Hold) -> SafeString:
        return show_badge(hold.order.status, hold.order.status)


class StockMovementAdmin(ReadOnlyAdmin):
    """The ledger: every change of stock, with its sign, and why."""

    list_filter = [KindFilter, ProductFilter, ("at", DateFilter)]
    list_display_links = None
    list_select_related = ["order", "product"]
    list_per_page = 50
    # Counting every choice would read the whole table once per choice.
    show_facets = admin.ShowFacets.NEVER
    # The newest first, and nothing else: any other order would sort the whole table for every page.
    sortable_by = ()
    empty_value_display = ""
    search_fields = ["order__number", "product__sku", "note"]
    search_help_text = "Order number, SKU or note"
    ordering = ["-pk"]

    class Media:
        css = {"all": ["inventory/inventory.css"]}

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"title": "Stock ledger", **(extra_context or {})})

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """As the search says. The stock search would turn every order's number into text."""
        term = search_term.strip()
        found = selectors.match_order_or_sku(term) | Q(note__icontains=term)
        return (queryset.filter(found) if term else queryset), False

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """The columns."""

        @admin.display(description="order")
        def order(movement: StockMovement) -> Any:
            return link_order(request, movement.order)

        return [
            "moment",
            "product_link",
            "kind_badge",
            "on_hand_signed",
            "held_signed",
            order,
            "actor",
            "note",
        ]

    @admin.display(description="when")
    def moment(self, movement: StockMovement) -> str:
        return show_moment(movement.at)

    @admin.display(description="product")
    def product_link(self, movement: StockMovement) -> SafeString:
        return link_product(movement.product)

    @admin.display(description="what")
    def kind_badge(self, movement: StockMovement) -> SafeString:
        return show_kind(movement.kind)

    @admin.display(description="on hand")
    def on_hand_signed(self, movement: StockMovement) -> str:
        return show_signed(movement.on_hand_change)

    @admin.display(description="held")
    def held_signed(self, movement: StockMovement) -> str:
        return show_signed(movement.reserved_change)
