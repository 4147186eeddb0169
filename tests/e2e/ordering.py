"""Orders placed by API in tests: each with a key of its own unless one is given."""

import uuid
from typing import Any

from rest_framework.test import APIClient

from inventory.models import StockItem
from tests.e2e.api import ORDERS, order_body


def post_order(
    http: APIClient, body: Any = None, *, key: str | None = None, address: str = ORDERS, **extra: Any
) -> Any:
    """The answer to `body`, which is two mugs unless given."""
    return http.post(
        address,
        order_body() if body is None else body,
        format="json",
        HTTP_IDEMPOTENCY_KEY=str(uuid.uuid4()) if key is None else key,
        **extra,
    )


def post_raw(http: APIClient, content: bytes | str, *, key: str | None = None, **extra: Any) -> Any:
    """The answer to a body as it is."""
    return http.generic(
        "POST",
        ORDERS,
        content,  # type: ignore[arg-type]
        HTTP_IDEMPOTENCY_KEY=str(uuid.uuid4()) if key is None else key,
        **{"content_type": "application/json", **extra},
    )


def set_available(sku: str, units: int) -> None:
    """As if so many units were on hand, and none reserved."""
    StockItem.objects.filter(product__sku=sku).update(on_hand=units, reserved=0)
