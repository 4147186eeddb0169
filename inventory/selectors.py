"""All reads of products and stock."""

from collections.abc import Collection

from django.db.models import QuerySet, Sum

from inventory.models import Product, StockItem, StockMovement


def list_products() -> QuerySet[Product]:
    """What the shop sells now, with stock, by SKU."""
    return Product.objects.filter(is_active=True).select_related("stock").order_by("sku")


def find_sold_products(skus: Collection[str]) -> dict[str, Product]:
    """The sold products among `skus`, by SKU; unknown and withdrawn ones are missing."""
    return {product.sku: product for product in Product.objects.filter(sku__in=skus, is_active=True)}


def find_product(product_id: int) -> Product | None:
    """The product with its stock, sold or not."""
    return Product.objects.select_related("stock").filter(pk=product_id).first()


def count_held() -> dict[str, int]:
    """Units held per SKU."""
    return dict(StockItem.objects.values_list("product__sku", "reserved"))


def sum_movements(product_id: int) -> tuple[int, int]:
    """(on hand, reserved) of a product as its ledger says."""
    sums = StockMovement.objects.filter(product_id=product_id).aggregate(
        on_hand=Sum("on_hand_change", default=0), reserved=Sum("reserved_change", default=0)
    )
    return sums["on_hand"], sums["reserved"]
