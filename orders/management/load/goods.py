"""The products of a load: made, topped up and on sale while it lasts, off sale afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

from django.db import transaction

from inventory.models import Product
from inventory.services import top_up_stock
from orders.management.load.plan import SKUS, Plan

# So many lines of it stay below what the sandbox's bank pays.
PRICE = Decimal("5.00")


@contextmanager
def stocked(units: int) -> Iterator[None]:
    """The products are on sale with at least `units` of each; at the end the shop no longer shows them."""
    stock_up(units)
    try:
        yield
    finally:
        Product.objects.filter(sku__in=SKUS).update(is_active=False)


def count_units(plan: Plan) -> int:
    """The most units of one product that the plan's orders ask for."""
    return plan.orders if plan.is_hot else plan.orders * plan.lines // len(SKUS) + plan.lines


@transaction.atomic
def stock_up(units: int) -> None:
    """Make the products that are missing, put all on sale, and receive what is missing of `units`."""
    Product.objects.bulk_create(
        [Product(sku=sku, name=f"Load test {sku}", price=PRICE) for sku in SKUS], ignore_conflicts=True
    )
    products = Product.objects.filter(sku__in=SKUS)
    products.update(is_active=True)
    top_up_stock(
        targets=[(pk, units) for pk in products.values_list("pk", flat=True)],
        note="load test",
    )
