"""How the crash tests shop: over real HTTP, with a key and an Idempotency-Key, as a machine client does."""

import os
from functools import lru_cache
from typing import Any
from uuid import UUID

import httpx
import pytest

from orders.clients import create_key
from orders.models import ApiClient, Order, Scope
from tests.own_services import PATIENCE

API = "/api/v1"


@pytest.fixture
def secret(shop: None) -> str:
    """A machine client's key with every scope."""
    return make_key()


def make_key() -> str:
    """The key of a client that no rate limit of the tests' own stands in the way of."""
    client = ApiClient.objects.create(name="shop", requests_per_minute=100_000)
    return create_key(client=client, name="test", scopes=Scope.values).secret


def ask(address: str, secret: str, path: str) -> httpx.Response:
    """GET an address of the API."""
    return httpx.get(f"{address}{API}{path}", headers={"Authorization": f"Bearer {secret}"}, timeout=PATIENCE)


def post_order(
    address: str, secret: str, *, key: str, email: str = "ada@example.com", sku: str = "NOTE-A5"
) -> httpx.Response:
    """Order one piece. The same key is the same order."""
    return httpx.post(
        f"{address}{API}/orders/",
        headers={"Authorization": f"Bearer {secret}", "Idempotency-Key": key},
        json={"customer_email": email, "items": [{"sku": sku, "quantity": 1}]},
        timeout=PATIENCE,
    )


def post_cancel(address: str, secret: str, order_id: str) -> httpx.Response:
    return httpx.post(
        f"{address}{API}/orders/{order_id}/cancel/",
        headers={"Authorization": f"Bearer {secret}", "Idempotency-Key": f"cancel {order_id}"},
        json={"reason": "changed my mind"},
        timeout=PATIENCE,
    )


@lru_cache(maxsize=1)
def open_http() -> httpx.Client:
    """Kept for all look-ups: a new client loads every certificate of the machine, 35 ms each time."""
    return httpx.Client(timeout=PATIENCE, trust_env=False)


def read_mails(email: str) -> list[str]:
    """The Message-IDs of what the sink has got for this address, repeats included."""
    answer = open_http().get(f"{os.environ['MAIL_SINK_URL']}/messages.json", params={"to": email})
    return [message["message_id"].strip("<>") for message in answer.json()]


def read_gateway(order_id: UUID | str) -> list[str]:
    """What the gateway's own ledger holds for the order."""
    answer = open_http().get(
        f"{os.environ['PAYMENT_GATEWAY_URL']}/ledger", params={"key_prefix": f"order-{order_id}:"}
    )
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return [entry["kind"] for entry in entries]


def status_of(order_id: UUID | str) -> str:
    return Order.objects.values_list("status", flat=True).get(pk=order_id)
