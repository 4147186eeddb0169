"""All reads of products and stock."""

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection
from django.db.models import Case, F, IntegerField, Prefetch, Q, QuerySet, Sum, When
from django.db.models.functions import Coalesce

from inventory.models import Hold, HoldState, MovementKind, Product, StockItem, StockMovement
from orders.models import Order


class Offer(NamedTuple):
    """What somebody who places an order must know of a product."""

    sku: str
    name: str
    price: Decimal
    available: int


class SoldProduct(NamedTuple):
    """What an order freezes of a product."""

    sku: str
    name: str
    price: Decimal


def list_products() -> QuerySet[Product]:
    """What the shop sells now, with stock, by SKU."""
    return Product.objects.filter(is_active=True).select_related("stock").order_by("sku")


_FIND_SOLD = "SELECT sku, name, price FROM inventory_product WHERE sku = ANY(%s) AND is_active"


def find_sold_products(skus: Collection[str]) -> dict[str, SoldProduct]:
    """The sold products among `skus`, by SKU; unknown and withdrawn ones are missing."""
    with connection.cursor() as cursor:
        cursor.execute(_FIND_SOLD, [list(skus)])
        return {row[0]: SoldProduct(*row) for row in cursor.fetchall()}


def search_offers(term: str, *, page: int, size: int) -> tuple[list[Offer], bool]:
    """One page (the first is 1) of what is sold and has every word of `term` in its SKU or its name, and
    whether there is more. A SKU that is the term, or begins with it, comes first."""
    start = (page - 1) * size
    products = _filter_sold(term).order_by(_rank(term), "sku")
    offers = _read_offers(products[start : start + size + 1])
    return offers[:size], len(offers) > size


def search_products(term: str) -> QuerySet[Product]:
    """What is sold and has every word of `term` in its SKU or its name, with its stock, by name; what
    `search_offers` puts first comes first."""
    products = _filter_sold(term).select_related("stock")
    return products.order_by(_rank(term), "name", "sku") if term else products.order_by("name", "sku")


def _filter_sold(term: str) -> QuerySet[Product]:
    products = Product.objects.filter(is_active=True)
    for word in term.split():
        products = products.filter(Q(sku__icontains=word) | Q(name__icontains=word))
    return products


def _rank(term: str) -> Case:
    return Case(
        When(sku=term, then=0),
        When(sku__iexact=term, then=1),
        When(sku__istartswith=term, then=2),
        default=3,
        output_field=IntegerField(),
    )


def find_offers(skus: Collection[str]) -> dict[str, Offer]:
    """The sold products among `skus` as offers, by SKU."""
    return {offer.sku: offer for offer in _read_offers(Product.objects.filter(sku__in=skus, is_active=True))}


def find_shortages(quantities: Mapping[str, int]) -> dict[str, int]:
    """How many units are available of each SKU that there are fewer of than asked for; none if all are there.

    Advice, not a promise: the saga reserves.
    """
    available = {offer.sku: offer.available for offer in find_offers(quantities).values()}
    return {sku: available[sku] for sku, wanted in quantities.items() if available.get(sku, wanted) < wanted}


def _read_offers(products: QuerySet[Product]) -> list[Offer]:
    rows = products.values_list("sku", "name", "price", Coalesce("stock__available", 0))
    return [Offer(*row) for row in rows]


def find_product(product_id: int) -> Product | None:
    """The product with its stock, sold or not."""
    return Product.objects.select_related("stock").filter(pk=product_id).first()


def get_stock(product: Product) -> StockItem:
    """The product's stock; none of it when nothing was ever booked."""
    stock: StockItem = getattr(product, "stock", None) or StockItem(product=product)
    return stock


def get_available(product: Product) -> int:
    """How many units can be ordered; none when nothing was ever booked."""
    stock: StockItem | None = getattr(product, "stock", None)
    return stock.available if stock else 0


# Availability that makes a product low, and sold out; one without a stock row has none.
LOW = Q(stock=None) | Q(stock__available__lte=F("low_stock_at"))
SOLD_OUT = Q(stock=None) | Q(stock__available__lte=0)


def list_holds() -> QuerySet[Hold]:
    """All holds with their order, their product, and what `get_held_since` needs."""
    # Read for the holds of a page only: as a subquery it would run for every row that is skipped as well.
    reserved = StockMovement.objects.filter(kind=MovementKind.RESERVED)
    return Hold.objects.select_related("order", "product").prefetch_related(
        Prefetch("order__stock_movements", reserved, to_attr="reservations")
    )


def get_held_since(hold: Hold) -> datetime | None:
    """When the units of a hold, as `list_holds` gives it, were reserved."""
    movements: list[StockMovement] = hold.order.reservations  # type: ignore[attr-defined]
    return next((row.at for row in movements if row.product_id == hold.product_id), None)


def match_order_or_sku(term: str) -> Q:
    """Holds and movements of the order with this number, and of products with this in their SKU."""
    found = Q(product__in=Product.objects.filter(sku__icontains=term))
    if term.isdecimal() and len(term) <= 18:
        found |= Q(order__in=Order.objects.filter(number=int(term)))
    return found


def list_open_holds(product_id: int, *, limit: int) -> list[Hold]:
    """The oldest holds that keep units of the product, as `list_holds` gives them."""
    return list(list_holds().filter(product_id=product_id, state=HoldState.HELD).order_by("pk")[:limit])


class LedgerRow(NamedTuple):
    """A movement, and the stock as it was right after it."""

    movement: StockMovement
    on_hand: int
    held: int
    available: int


def list_last_movements(product_id: int, *, limit: int) -> list[LedgerRow]:
    """The product's last movements, the newest first, each with the stock it left behind.

    Reckoned back from the stock as it is. One statement reads both, so that they belong together.
    """
    movements = (
        StockMovement.objects.filter(product_id=product_id)
        .select_related("order", "product__stock")
        .order_by("-pk")[:limit]
    )
    rows: list[LedgerRow] = []
    on_hand = held = 0
    for movement in movements:
        if not rows:
            stock = get_stock(movement.product)
            on_hand, held = stock.on_hand, stock.reserved
        rows.append(LedgerRow(movement, on_hand, held, on_hand - held))
        on_hand -= movement.on_hand_change
        held -= movement.reserved_change
    return rows


def count_held() -> dict[str, int]:
    """Units held per SKU."""
    return dict(StockItem.objects.values_list("product__sku", "reserved"))


def sum_movements(product_id: int) -> tuple[int, int]:
    """(on hand, reserved) of a product as its ledger says."""
    sums = StockMovement.objects.filter(product_id=product_id).aggregate(
        on_hand=Sum("on_hand_change", default=0), reserved=Sum("reserved_change", default=0)
    )
    return sums["on_hand"], sums["reserved"]
