"""What the machine works on: a small shop with a gateway, a mail server and an event loop of its own."""

import asyncio
import email
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from inventory import services as inventory_services
from inventory.models import Product, StockItem
from orders.audit.rule import Scope, ask_rule, name_tables
from orders.audit.rules import BOOK_RULES, RULES
from payments.gateways.sandbox import SandboxGateway
from tests.faults import serving
from tests.gateway import Server, run_server
from tests.properties.attempts import set_gates
from tests.properties.model import FULL, GONE

# Few units, so that orders compete. Two lamps take two people to refund, two chairs too much for the bank.
STOCK = {"CHAIR": (Decimal("600.00"), 4), "LAMP": (Decimal("280.00"), 6), "MUG": (Decimal("12.50"), 9)}
REFUND_LIMIT = Decimal("500.00")


@dataclass
class Mailbox:
    """A mail server: refuses some recipients, takes the rest, and remembers each mail by its Message-ID."""

    received: list[str] = field(default_factory=list)
    turned_away: set[str] = field(default_factory=set)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address.startswith(GONE):
            return "550 No such mailbox"
        if address.startswith(FULL) and address not in self.turned_away:
            self.turned_away.add(address)
            return "452 Mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.received.append(email.message_from_bytes(envelope.content)["Message-ID"])
        return "250 OK"


@dataclass
class SmallShop:
    """The shop of one machine after the other: each run begins with `clear`."""

    runner: asyncio.Runner
    bank: Server
    mailbox: Mailbox
    staff: User
    second: User
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def clear(self) -> None:
        """Forget all orders and stock the shop anew."""
        with connection.cursor() as cursor:
            cursor.execute(
                "TRUNCATE orders_order, inventory_product, inventory_stockitem, inventory_stockmovement "
                "CASCADE"
            )
        for sku, (price, units) in STOCK.items():
            product = Product(sku=sku, name=sku.title(), price=price)
            inventory_services.create_product(product=product)
            inventory_services.receive_stock(product_id=product.pk, quantity=units)
        self.mailbox.received.clear()

    def prepare_audit(self) -> None:
        """Have the database plan all of the auditor's rules about our books once, instead of at each step."""
        asked = " UNION ALL ".join(
            f"SELECT '{rule.name}' AS rule FROM ({rule.sql}) broken HAVING count(*) > 0"
            for rule in BOOK_RULES
        )
        names = name_tables(Scope())
        with connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            cursor.execute("SET jit = off")
            no_time: Any = timedelta(0)
            cursor.execute(f"PREPARE audit AS {asked.format(**names)}", {"quiet": no_time})

    def audit(self) -> list[str]:
        """What the auditor finds in our books, in its sentences."""
        with connection.cursor() as cursor:
            cursor.execute("EXECUTE audit")
            broken = [rule for (rule,) in cursor.fetchall()]
        return [v.sentence for rule in broken for v in ask_rule(RULES[rule], Scope())[1]]

    def list_money(self, order_id: str) -> list[tuple[str, int]]:
        """(kind, minor units) of what the gateway's own ledger has of an order."""
        return [
            (entry["kind"], entry["amount_minor"] or 0) for entry in self.bank.entries(f"order-{order_id}")
        ]

    def read_stock(self) -> dict[str, tuple[int, int]]:
        """(on hand, held) of each SKU."""
        rows = StockItem.objects.values_list("product__sku", "on_hand", "reserved")
        return {sku: (on_hand, reserved) for sku, on_hand, reserved in rows}


@contextmanager
def open_shop(folder: Path, settings: Any) -> Iterator[SmallShop]:
    """A shop with gates before every effect of its sagas."""
    mailbox = Mailbox()
    with (
        run_server(folder / "ledger.sqlite") as bank,
        serving(mailbox) as port,
        asyncio.Runner() as runner,
        pytest.MonkeyPatch.context() as patch,
    ):
        gateway = SandboxGateway(bank.url, timeout=10)
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
        settings.SAGA_ATTENTION_AFTER = 3
        settings.REFUND_APPROVAL_ABOVE = REFUND_LIMIT
        set_gates(patch, gateway)
        staff = User.objects.create_superuser("ada")
        second = User.objects.create_superuser("ben")
        # Thousands of lines that say what the steps of a failed run say better.
        logging.disable(logging.WARNING)
        try:
            shop = SmallShop(runner=runner, bank=bank, mailbox=mailbox, staff=staff, second=second)
            shop.prepare_audit()
            yield shop
        finally:
            logging.disable(logging.NOTSET)
            connection.close()
        runner.run(gateway.aclose())
