"""Orders for the tests of the lists: written as rows, as their sagas would have left them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.utils import timezone

from orders.models import STEP_OF_UNDO, STEPS, Order, OrderLine, TrailEntry

UNDOS = ["refund_payment", "release_inventory", "cancel_order", "send_cancellation_email"]


def build_order(status: str = "pending", *, accepted_at: datetime | None = None, **fields: Any) -> Order:
    """An order that fulfils what the database asks of its status; not saved."""
    accepted_at = accepted_at or timezone.now()
    if status in ("cancelling", "cancelled"):
        fields = {"rollback_started_at": accepted_at + timedelta(seconds=1), **fields}
    if status == "cancelled":
        fields = {"rolled_back_at": fields["rollback_started_at"] + timedelta(seconds=2), **fields}
    defaults = {"customer_email": "ada@example.com", "currency": "EUR", "total": Decimal("100.00")}
    return Order(id=uuid4(), status=status, accepted_at=accepted_at, **{**defaults, **fields})


def save_orders(orders: Sequence[Order]) -> None:
    """Save orders, each with one line."""
    Order.objects.bulk_create(orders)
    OrderLine.objects.bulk_create(
        [
            OrderLine(order=order, sku="MUG-STONE", name="Mug", unit_price=order.total, quantity=1)
            for order in orders
        ]
    )


def add_order(status: str = "pending", **fields: Any) -> Order:
    """Save one order and read it back, number and all."""
    order = build_order(status, **fields)
    save_orders([order])
    return Order.objects.get(pk=order.pk)


def add_trail(order: Order, *names: str, state: str = "done", ended_at: datetime | None = None) -> None:
    """Save a row of the order's trail for each of the steps or undos."""
    ended_at = ended_at or timezone.now()
    TrailEntry.objects.bulk_create(
        [
            TrailEntry(
                order=order,
                name=name,
                kind="undo" if name in STEP_OF_UNDO else "step",
                state=state,
                started_at=ended_at,
                finished_at=ended_at,
            )
            for name in names
        ]
    )


def add_rolled_back(*, took: timedelta = timedelta(seconds=3), **fields: Any) -> Order:
    """An order of which everything has been undone, the last of it `took` after the rollback began."""
    order = add_order("cancelled", **fields)
    assert order.rollback_started_at is not None
    add_trail(order, *UNDOS[:-1], ended_at=order.rollback_started_at + took / 2)
    add_trail(order, UNDOS[-1], ended_at=order.rollback_started_at + took)
    return order


def add_many(count: int) -> None:
    """`count` orders in every state in turn, with trails."""
    states = ["pending", "created", "completed", "shipped", "cancelling", "cancelled"]
    orders = [build_order(states[index % len(states)]) for index in range(count)]
    save_orders(orders)
    now = timezone.now()
    TrailEntry.objects.bulk_create(
        [
            TrailEntry(order=order, name=name, kind="step", state="done", started_at=now, finished_at=now)
            for order in orders
            for name in STEPS
        ]
    )
