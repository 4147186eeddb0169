"""What a storm's stack needs before the first order: schema, goods, an API key, and people who can log in."""

import secrets
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import Group, User
from django.core.management import call_command

from inventory.catalogue import seed_catalogue
from inventory.models import Product
from inventory.services import top_up_stock
from orders.clients import create_key, open_client
from orders.models import Scope

PLENTY = 5000
FEW = 2
STAFF = ("warehouse", "support")


def supply(*, scarce: int) -> dict[str, Any]:
    """Stock up, with `scarce` products of two units each. Gives the key, the passwords and the scarce SKUs.

    May be called again for the next storm on the same stack.
    """
    call_command("migrate", verbosity=0, interactive=False)
    seed_catalogue()
    few: list[Product] = []
    for number in range(scarce):
        product, _ = Product.objects.get_or_create(
            sku=f"LAST-{number:03}", defaults={"name": f"Last pieces {number}", "price": Decimal("49.00")}
        )
        few.append(product)
    rare = {product.pk for product in few}
    plenty = list(Product.objects.exclude(sku__startswith="LAST-").values_list("pk", flat=True))
    targets = [*((pk, PLENTY) for pk in plenty), *((pk, FEW) for pk in rare)]
    top_up_stock(targets=targets, note="storm")
    client = open_client(name="storm")
    return {
        "key": create_key(client=client, name="storm", scopes=Scope.values).secret,
        "scarce": [product.sku for product in few],
        "staff": {role: make_staff(role) for role in STAFF},
    }


def make_staff(role: str) -> str:
    """Somebody with that role, under a new password, which is returned."""
    password = secrets.token_urlsafe(16)
    user, _ = User.objects.get_or_create(username=f"storm-{role}", defaults={"is_staff": True})
    user.set_password(password)
    user.save()
    user.groups.set(Group.objects.filter(name=role))
    return password
