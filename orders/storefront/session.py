"""What a customer's session holds: the cart with the id its order will have, and what was ordered.

Tabs share a session. Each change locks the session's row first, so that none overwrites another's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from config.sessions import SessionStore

KEY = "shop"
# How many of the latest orders a session knows: enough for any tab somebody has left open.
MAX_PLACED = 20


@dataclass(slots=True)
class Item:
    """A product in the cart, with its name and the price as the customer last saw them."""

    quantity: int
    name: str
    price: Decimal


@dataclass(slots=True)
class Shopping:
    """The cart by SKU, the id of the order it will become, the orders it became, and a checkout begun."""

    items: dict[str, Item] = field(default_factory=dict)
    order_id: UUID | None = None
    placed: list[UUID] = field(default_factory=list)
    draft: dict[str, str] = field(default_factory=dict)

    @property
    def units(self) -> int:
        return sum(item.quantity for item in self.items.values())

    def put(self, sku: str, item: Item) -> None:
        """Put the product in, or bring it up to date. The first one gives the cart its order's id."""
        self.items[sku] = item
        self.order_id = self.order_id or uuid4()

    def take_out(self, sku: str) -> None:
        """Take the product out."""
        self.items.pop(sku, None)

    def note_placed(self, order_id: UUID) -> None:
        """The cart's order is there: what is in the cart from now on is another order."""
        self.placed = [*(known for known in self.placed if known != order_id), order_id][-MAX_PLACED:]
        self.order_id = uuid4() if self.items else None

    def empty(self) -> None:
        """Empty the cart after its order was placed."""
        self.items = {}
        self.order_id = None
        self.draft = {}


def read_shopping(request: HttpRequest) -> Shopping:
    """The session's content, to look at. Starts no session."""
    return _unpack(request.session.get(KEY))


@contextmanager
def change_shopping(request: HttpRequest) -> Iterator[Shopping]:
    """The session's content, to change: one transaction that locks the session's row to its end.

    A session that does not exist yet has no row, and nobody else can know of it.
    """
    with transaction.atomic():
        session = _lock(request)
        shopping = _unpack(session.get(KEY))
        before = _pack(shopping)
        yield shopping
        if _pack(shopping) == before:
            return
        session[KEY] = _pack(shopping)
        if session is not request.session:
            session.keep()
            request.session = session


def _lock(request: HttpRequest) -> SessionStore:
    """The session as it is in the database, its row locked; the request's own if it has no row."""
    key = request.session.session_key
    if key is None or not lock_row(key):
        return cast("SessionStore", request.session)
    return SessionStore(key)


def lock_row(key: str) -> bool:
    """Lock the session's row until the transaction ends. False if there is none, or its time has run out."""
    rows = Session.objects.filter(session_key=key, expire_date__gt=timezone.now())
    return bool(rows.select_for_update().values_list("pk"))


def _pack(shopping: Shopping) -> dict[str, Any]:
    return {
        "items": {
            sku: {"quantity": item.quantity, "name": item.name, "price": str(item.price)}
            for sku, item in shopping.items.items()
        },
        "order_id": str(shopping.order_id) if shopping.order_id else None,
        "placed": [str(order_id) for order_id in shopping.placed],
        "draft": shopping.draft,
    }


def _unpack(stored: dict[str, Any] | None) -> Shopping:
    if not stored:
        return Shopping()
    return Shopping(
        items={
            sku: Item(item["quantity"], item["name"], Decimal(item["price"]))
            for sku, item in stored["items"].items()
        },
        order_id=UUID(stored["order_id"]) if stored["order_id"] else None,
        placed=[UUID(order_id) for order_id in stored["placed"]],
        draft=stored["draft"],
    )
