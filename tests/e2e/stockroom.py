"""What the tests of the inventory pages share: products, bookings, holds."""

import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from html import unescape
from typing import Any

from django.db import DatabaseError, connections
from django.test import Client as Browser

from inventory import services
from inventory.models import Product, StockItem
from orders.models import Order
from orders.services import Item
from tests.desk import place
from tests.faults import is_blocked, pausing

PRODUCTS = "/admin/inventory/product/"

HOLDS = "/admin/inventory/hold/"

LEDGER = "/admin/inventory/stockmovement/"


def get_product(sku: str = "MUG-STONE") -> Product:
    return Product.objects.get(sku=sku)


def page_of_product(product: Product) -> str:
    return f"{PRODUCTS}{product.pk}/change/"


def stock_page(product: Product) -> str:
    return f"{PRODUCTS}{product.pk}/stock/"


def read_stock(product: Product) -> tuple[int, int]:
    item = StockItem.objects.get(product=product)
    return item.on_hand, item.reserved


def hold(sku: str, quantity: int, **options: Any) -> Order:
    """An order that holds units."""
    order = place([Item(sku, quantity)], **options)
    services.reserve_inventory(order_id=order.pk)
    return order


def booking(kind: str, units: object, note: str = "delivery 4711", **more: object) -> dict[str, Any]:
    """What the form posts, and with `on_hand` what the confirmation posts."""
    return {"booking": kind, "units": units, "note": note, **more, **({"confirm": "1"} if more else {})}


def book(browser: Browser, product: Product, kind: str, units: int, note: str = "delivery 4711") -> Any:
    """Go through the form and the confirmation, as a person does."""
    asked = browser.post(stock_page(product), booking(kind, units, note))
    assert asked.status_code == 200
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.content.decode())
    answers = {name: unescape(value) for name, value in fields if name != "csrfmiddlewaretoken"}
    return browser.post(stock_page(product), {**answers, "confirm": "Book"}, follow=True)


def list_results(browser: Browser, address: str) -> list[Any]:
    response = browser.get(address)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


def product_form(**changes: Any) -> dict[str, Any]:
    form = {"sku": "VASE", "name": "Vase", "description": "", "price": "12.00", "low_stock_at": "3"}
    return {**form, "is_active": "on", **changes}


def book_without_the_lock(product: Product) -> None:
    """What the row lock and the conditional UPDATE replace: look first, then write what was seen."""
    item = StockItem.objects.get(product=product)
    assert item.available >= 150
    StockItem.objects.filter(pk=item.pk).update(on_hand=item.on_hand - 150)


def race_a_hold(product: Product, work: Any, *, waits_for: str) -> tuple[Any, Any]:
    """Begin `work` while an order is about to hold one unit; gives what both came to."""

    def run(task: Any) -> Any:
        try:
            return task()
        except DatabaseError as error:
            return error
        finally:
            connections.close_all()

    order = place([Item(product.sku, 1)])

    def hold_one() -> str:
        services.reserve_inventory(order_id=order.pk)
        return "held"

    with (
        ThreadPoolExecutor(2) as threads,
        pausing("inventory_stockitem", "UPDATE", when="NEW.reserved > OLD.reserved") as pause,
    ):
        holding: Future[Any] = threads.submit(run, hold_one)
        wait_until(pause.is_reached)
        working = threads.submit(run, work)
        wait_until(lambda: is_blocked(waits_for))
        pause.release()
        return holding.result(20), working.result(20)


def wait_until(condition: Any) -> None:
    """Poll until the condition is true. Fails at the deadline."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
