"""What tests do at the desk: place orders, drive sagas, read the books."""

import asyncio
import os
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
from temporalio.client import Client, WorkflowHandle

from config.temporal import run_in_db
from inventory.models import Hold, Product, StockItem
from inventory.selectors import sum_movements
from notifications.models import EmailMessage
from orders import desk, selectors
from orders.dispatch import sweep
from orders.models import Order
from orders.services import Decision, Item
from payments.models import PaymentEvent

EMAIL = "ada@example.com"
HEADPHONES = [Item("HEAD-ANC", 2)]  # 400.00
LAPTOPS = [Item("LAPTOP-14", 2)]  # 2700.00, above what the sandbox gateway accepts

# Seconds a test waits for a witness that others ask, too.
PATIENCE = 30.0

STEPS = ["create_order", "reserve_inventory", "process_payment", "send_confirmation_email", "complete_order"]
UNDOS = ["refund_payment", "release_inventory", "cancel_order", "send_cancellation_email"]


def place(
    items: list[Item] | None = None,
    *,
    token: str = "tok_ok",
    email: str = EMAIL,
    order_id: UUID | None = None,
) -> Order:
    """Accept an order through the desk, as every door does."""
    return desk.place_order(
        customer_email=email,
        items=items or HEADPHONES,
        actor="test",
        payment_token=token,
        order_id=order_id,
    ).order


async def aplace(items: list[Item] | None = None, *, token: str = "tok_ok") -> Order:
    """`place` from a test's coroutine."""
    return await run_in_db(place, items=items, token=token)


async def call(decide: Any, **arguments: Any) -> Decision:
    """A call of the desk from a test's coroutine."""
    decision: Decision = await run_in_db(decide, **arguments)
    return decision


async def resolve(order: Order, undo: str, *, reason: str, reference: str) -> Decision:
    """Settle a stuck undo by hand."""
    return await call(
        desk.resolve_undo, order_id=order.pk, undo=undo, actor="ada", reason=reason, reference=reference
    )


async def hand_over(client: Client) -> None:
    """Deliver the outbox, as a worker's dispatcher does."""
    await sweep(client)


def saga_of(client: Client, order: Order, *, cancel: bool = False) -> WorkflowHandle[Any, str]:
    """The handle of the order's saga."""
    return client.get_workflow_handle(
        f"order-{order.pk}-cancel" if cancel else f"order-{order.pk}", result_type=str
    )


async def run_to_the_end(client: Client, order: Order, *, within: float = 30.0) -> Order:
    """Hand the order to Temporal, wait for its saga and return the order as it ended."""
    await hand_over(client)
    await asyncio.wait_for(saga_of(client, order).result(), within)
    return await fetch(order)


async def fetch(order: Order) -> Order:
    """The order as it is now, with its trail."""
    return await run_in_db(selectors.get_order, order_id=order.pk)


def read_trail(order: Order) -> list[tuple[str, str]]:
    """(name, state) of each step and undo, in order."""
    return [(step.name, step.status) for step in selectors.summarise_trail(order.trail.all())]


def undos_of(order: Order) -> list[tuple[str, str]]:
    """The undos among the trail."""
    return [(name, state) for name, state in read_trail(order) if name in UNDOS]


async def books_of(order: Order) -> "Books":
    """Stock, money and mail of an order."""
    return await run_in_db(read_books, order_id=order.pk)


class Books:
    """The ledgers of one order: units held, payment events, mails, and its flags."""

    def __init__(self, order_id: UUID) -> None:
        self.held = sum(
            Hold.objects.filter(order_id=order_id, state="held").values_list("quantity", flat=True)
        )
        self.holds = sorted(Hold.objects.filter(order_id=order_id).values_list("state", flat=True))
        self.events = list(
            PaymentEvent.objects.filter(payment__order_id=order_id).values_list("kind", flat=True)
        )
        self.net = sum(
            PaymentEvent.objects.filter(payment__order_id=order_id).values_list("amount", flat=True),
            Decimal(0),
        )
        self.mails = sorted(
            f"{kind} {state}"
            for kind, state in EmailMessage.objects.filter(order_id=order_id).values_list("kind", "state")
        )
        self.attention = selectors.list_attention_reasons(Order.objects.get(pk=order_id))


def read_books(order_id: UUID) -> Books:
    """`books_of`, for synchronous callers."""
    return Books(order_id)


def check_stock_sums() -> None:
    """Every stock row equals the sum of its movements, and what is held equals the open holds."""
    for item in StockItem.objects.all():
        assert (item.on_hand, item.reserved) == sum_movements(item.product_id)
        held = sum(
            Hold.objects.filter(product_id=item.product_id, state="held").values_list("quantity", flat=True)
        )
        assert item.reserved == held


async def acheck_stock_sums() -> None:
    """`check_stock_sums` from a test's coroutine."""
    await run_in_db(check_stock_sums)


async def gateway_ledger(order: Order) -> list[str]:
    """The kinds of what the gateway itself has on record for the order: the independent witness."""
    async with httpx.AsyncClient(base_url=os.environ["PAYMENT_GATEWAY_URL"], timeout=PATIENCE) as http:
        answer = await http.get("/ledger", params={"key_prefix": f"order-{order.pk}:"})
    answer.raise_for_status()
    return [entry["kind"] for entry in answer.json()["entries"]]


async def mails_in_sink(order: Order) -> list[str]:
    """Distinct Message-IDs the mail sink has received for the order."""
    async with httpx.AsyncClient(base_url=os.environ["MAIL_SINK_URL"], timeout=PATIENCE) as http:
        answer = await http.get("/messages.json", params={"to": EMAIL})
    answer.raise_for_status()
    found = {message["message_id"] for message in answer.json() if str(order.pk) in message["message_id"]}
    return sorted(found)


async def stock_of(sku: str) -> tuple[int, int]:
    """(on hand, reserved) of a product."""
    item = await run_in_db(StockItem.objects.get, product__sku=sku)
    return item.on_hand, item.reserved


def withdraw(sku: str) -> None:
    """Take a product off sale."""
    Product.objects.filter(sku=sku).update(is_active=False)
