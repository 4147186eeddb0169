"""A made-up past in the test database, for the tests of `seed_orders`."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from inventory.catalogue import seed_catalogue
from inventory.models import Product
from orders.management.commands import seed_orders

COUNT = 300


def seed(count: int = COUNT, **options: Any) -> dict[str, Any]:
    out = StringIO()
    call_command("seed_orders", count=count, **{"json": True}, stdout=out, **({"seed": 7} | options))
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def make_past(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """300 orders in several chunks, every deferred constraint checked. Returns the command's report."""
    monkeypatch.setattr(seed_orders, "CHUNK", 50)
    seed_catalogue()
    Product.objects.filter(sku="NOTE-A5").update(name='Notebook <A5> & "100%"')
    report = seed()
    connection.check_constraints()
    return report
