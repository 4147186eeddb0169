"""Webhooks for the tests of the admin: rows as couriers would have left them."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone

from orders.models import ApiClient, Order, WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookEvent
from orders.webhooks.signing import make_secret

LOG = "/admin/orders/webhookdelivery/"
ENDPOINTS = "/admin/orders/webhookendpoint/"


def add_endpoint(client: str = "shop", url: str = "https://hooks.example.com/orders") -> WebhookEndpoint:
    """A live endpoint for every event."""
    owner, _ = ApiClient.objects.get_or_create(name=client)
    return WebhookEndpoint.objects.create(
        client=owner, url=url, events=WebhookEvent.values, secret=make_secret()
    )


def add_delivery(
    order: Order, endpoint: WebhookEndpoint, state: str = "failed", *, attempts: int = 1, **fields: Any
) -> WebhookDelivery:
    """A delivery in that state, with attempts that say so."""
    now = timezone.now()
    delivery = WebhookDelivery.objects.create(
        endpoint=endpoint,
        order=order,
        event_id=uuid4(),
        event=WebhookEvent.COMPLETED,
        body=json.dumps({"type": "order.completed", "data": {"order": {"number": order.number}}}),
        state=state,
        attempts=attempts,
        next_attempt_at=now + timedelta(minutes=5),
        delivered_at=now if state == "delivered" else None,
        **fields,
    )
    WebhookAttempt.objects.bulk_create(
        WebhookAttempt(
            delivery=delivery,
            at=now,
            ms=12,
            status=204 if state == "delivered" else 500,
            error="" if state == "delivered" else "It answered 500: out of order",
            worker="worker-1@host:1",
        )
        for _ in range(attempts)
    )
    return delivery


def add_webhook(order: Order) -> dict[str, Any]:
    """A row of each of the models that have a page."""
    endpoint = add_endpoint()
    return {
        "orders_webhookendpoint": endpoint,
        "orders_webhookdelivery": add_delivery(order, endpoint),
    }
