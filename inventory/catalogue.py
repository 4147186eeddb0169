"""The demo catalogue: a believable small shop, with items that make orders of 400.00 and 2700.00 natural."""

from decimal import Decimal
from typing import NamedTuple

from django.db import transaction

from inventory.models import Product
from inventory.services import top_up_stock


class CatalogueItem(NamedTuple):
    """A product and the units that should be available after seeding."""

    sku: str
    name: str
    price: Decimal
    stock: int
    description: str


CATALOGUE = [
    CatalogueItem("TEE-M", "Organic T-shirt, M", Decimal("20.40"), 200, "Heavy organic cotton, regular fit."),
    CatalogueItem("TEE-L", "Organic T-shirt, L", Decimal("20.40"), 200, "Heavy organic cotton, regular fit."),
    CatalogueItem("MUG-STONE", "Stoneware mug", Decimal("14.50"), 150, "350 ml, glazed by hand."),
    CatalogueItem("NOTE-A5", "Notebook A5, dotted", Decimal("9.90"), 300, "192 pages of 100 g paper."),
    CatalogueItem("PEN-BRASS", "Brass ballpoint pen", Decimal("32.00"), 120, "Refillable, ages well."),
    CatalogueItem("LAMP-DESK", "Desk lamp", Decimal("89.00"), 60, "Dimmable, warm to neutral white."),
    CatalogueItem("BAG-ROLL", "Roll-top backpack", Decimal("120.00"), 80, "Waterproof, 22 litres."),
    CatalogueItem("HEAD-ANC", "Noise-cancelling headphones", Decimal("200.00"), 100, "30 hours of battery."),
    CatalogueItem("KEYB-75", "Mechanical keyboard, 75 %", Decimal("159.00"), 70, "Hot-swappable switches."),
    CatalogueItem("CHAIR-ERGO", "Ergonomic office chair", Decimal("480.00"), 40, "Adjustable in eight ways."),
    CatalogueItem("DESK-OAK", "Standing desk, oak", Decimal("900.00"), 60, "Electric, 160 x 80 cm."),
    CatalogueItem(
        "LAPTOP-14", "Laptop, 14 inch", Decimal("1350.00"), 60, "32 GB of memory, 1 TB of storage."
    ),
]


@transaction.atomic
def seed_catalogue() -> tuple[int, int]:
    """Make the products that are missing and top their stock up. Returns (products made, units received).

    Prices and names that staff have changed stay as they are. Repeating it only tops the stock up.
    """
    products = Product.objects.filter(sku__in=[item.sku for item in CATALOGUE])
    known = set(products.values_list("sku", flat=True))
    missing = [
        Product(sku=item.sku, name=item.name, price=item.price, description=item.description)
        for item in CATALOGUE
        if item.sku not in known
    ]
    Product.objects.bulk_create(missing, ignore_conflicts=True)
    ids = dict(products.values_list("sku", "pk"))
    targets = [(ids[item.sku], item.stock) for item in CATALOGUE]
    return len(missing), top_up_stock(targets=targets, note="seed_catalogue")
