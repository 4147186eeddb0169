"""What the tests of the shop share: filling a cart, the checkout's form, reading the pages."""

import re
from html import unescape
from typing import Any
from uuid import UUID

from django.test import Client as Browser

from inventory.models import Product, StockItem
from orders import desk
from orders.links import sign_order
from orders.models import CUSTOMER, Order
from payments.models import EventKind, Payment, PaymentEvent

EMAIL = "ada@example.com"
MASKED = "a…@example.com"


def fill_cart(browser: Browser, *lines: tuple[str, int]) -> None:
    """Put products into the cart, as the catalogue's forms do."""
    for sku, quantity in lines or [("MUG-STONE", 2)]:
        answer = browser.post("/cart/add/", {"sku": sku, "quantity": quantity}, follow=True)
        assert "put in your cart" in read(answer), read(answer)


def read(answer: Any) -> str:
    """What stands on the page, as text with even white space."""
    main = re.search(r"<main.*?</main>", answer.content.decode(), re.S)
    assert main is not None, answer.content
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main[0])).split())


def open_form(browser: Browser, **changes: str) -> dict[str, str]:
    """The checkout's form as the page gives it, filled in."""
    page = browser.get("/checkout/").content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="(order_id|seen)" value="([^"]*)">', page))
    assert set(hidden) == {"order_id", "seen"}, page
    return {**hidden, "email": EMAIL, "payment": "pays", **changes}


def order(browser: Browser, *lines: tuple[str, int], **changes: str) -> Order:
    """Put into the cart and order it."""
    fill_cart(browser, *lines)
    form = open_form(browser, **changes)
    answer = browser.post("/checkout/", form)
    placed = Order.objects.get(pk=form["order_id"])
    assert answer["Location"] == page_of(placed)
    return placed


def page_of(placed: Order | UUID) -> str:
    """The address of the order's page in the shop."""
    return f"/order/{sign_order(placed.pk if isinstance(placed, Order) else placed)}/"


def cart_of(browser: Browser) -> dict[str, int]:
    """What is in the cart, read from the session."""
    items = browser.session.get("shop", {}).get("items", {})
    return {sku: item["quantity"] for sku, item in items.items()}


def set_available(sku: str, available: int) -> None:
    """Leave so many units of the product."""
    item = StockItem.objects.get(product__sku=sku)
    StockItem.objects.filter(pk=item.pk).update(on_hand=item.reserved + available)


def set_price(sku: str, price: str) -> None:
    Product.objects.filter(sku=sku).update(price=price)


def add_products(count: int) -> None:
    """So many more products, in stock."""
    products = Product.objects.bulk_create(
        Product(sku=f"BULK-{n:05}", name=f"Bulk product {n:05}", description="Plain.", price="3.00")
        for n in range(count)
    )
    StockItem.objects.bulk_create(StockItem(product=product, on_hand=7) for product in products)


def ask_to_cancel(placed: Order, actor: str = CUSTOMER) -> None:
    """Ask for a cancel, as its page does."""
    desk.cancel_order(order_id=placed.pk, actor=actor, reason="customer cancelled")


def see(browser: Browser, placed: Order) -> str:
    answer = browser.get(page_of(placed))
    assert answer.status_code == 200
    return read(answer)


def refund(payment: Payment, kind: str = EventKind.REFUNDED) -> None:
    PaymentEvent.objects.create(payment=payment, kind=kind, amount=-payment.amount)


STEPS_DONE = [("create_order", "done"), ("reserve_inventory", "done")]
PAID = [*STEPS_DONE, ("process_payment", "done")]
COMPLETE = [*PAID, ("send_confirmation_email", "done"), ("complete_order", "done")]
