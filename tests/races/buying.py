"""Many buyers at once, over real HTTP, of products with few units; and what has become of their orders."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID

import httpx
from django.db import transaction

from inventory.models import Product, StockItem
from inventory.services import create_product, receive_stock
from orders.models import Order, OrderStatus
from orders.refusals import OutOfStock
from orders.services import Item
from tests.crash.shopping import API, read_gateway
from tests.desk import read_books
from tests.processes import Crew, wait_until

SHORT_OF_STOCK = "short-of-stock"
# Seconds for all orders of a race, on a machine that has much else to do.
PATIENCE = 400.0


@transaction.atomic
def stock(sku: str, units: int) -> int:
    """A new product with so many units on the shelf; gives its key."""
    product = Product(sku=sku, name=f"Race {sku}", price=Decimal("12.00"))
    create_product(product=product)
    receive_stock(product_id=product.pk, quantity=units)
    return product.pk


def buy_at_once(address: str, secret: str, baskets: Sequence[Sequence[Item]]) -> list[UUID]:
    """One request for each basket, all at the same moment; gives the orders that were accepted.

    Every other request was told that there is too little in stock.
    """
    together = threading.Barrier(len(baskets))
    headers = {"Authorization": f"Bearer {secret}"}

    def buy(number: int) -> httpx.Response:
        items = [{"sku": item.sku, "quantity": item.quantity} for item in baskets[number]]
        body = {"customer_email": f"buyer-{number}@example.com", "items": items}
        key = {"Idempotency-Key": f"{baskets[number][0].sku} {number}"}
        together.wait(30)
        return http.post(f"{API}/orders/", json=body, headers=key)

    def look(_: Sequence[Item]) -> int:
        return http.get(f"{API}/products/").status_code

    # No connection is kept: gunicorn closes one that waits for its turn in a crowd for more than 2 s.
    limits = httpx.Limits(max_connections=len(baskets), max_keepalive_connections=0)
    with (
        ThreadPoolExecutor(len(baskets)) as threads,
        httpx.Client(base_url=address, headers=headers, timeout=60, limits=limits) as http,
    ):
        # Every web thread has its connection to the database before it counts.
        wait_until(
            lambda: set(threads.map(look, baskets)) == {200}, "the shop answers everybody", within=PATIENCE
        )
        answers = list(threads.map(buy, range(len(baskets))))
    assert {answer.status_code for answer in answers} <= {202, 409}, [answer.text for answer in answers]
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["type"].endswith(f":{SHORT_OF_STOCK}"), answer.text
    return [UUID(answer.json()["id"]) for answer in answers if answer.status_code == 202]


def wait_for_all(crew: Crew) -> None:
    """Until every order is completed or cancelled."""

    def are_final() -> bool:
        return not Order.objects.exclude(status__in=[OrderStatus.COMPLETED, OrderStatus.CANCELLED]).exists()

    wait_until(are_final, "every order is final", within=PATIENCE)


def check_refused(order_ids: Sequence[UUID]) -> None:
    """Those who got nothing were cancelled for want of stock, and nobody has touched their money."""
    for order in Order.objects.filter(pk__in=order_ids):
        assert (order.failed_step, order.failure_type) == ("reserve_inventory", OutOfStock.__name__)
        books = read_books(order.pk)
        assert (books.held, books.events, read_gateway(order.pk)) == (0, [], [])


def check_bought(order_ids: Sequence[UUID]) -> None:
    """Those who got something have paid for it, once."""
    for order_id in order_ids:
        assert read_gateway(order_id) == ["charge"]
        assert read_books(order_id).events == ["charged"]


def find_completed(order_ids: Sequence[UUID]) -> list[UUID]:
    completed = Order.objects.filter(pk__in=order_ids, status=OrderStatus.COMPLETED)
    return list(completed.values_list("pk", flat=True))


def read_reserved(sku: str) -> int:
    return StockItem.objects.get(product__sku=sku).reserved
