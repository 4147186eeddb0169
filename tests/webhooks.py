"""What the tests of webhooks share: endpoints, orders of a client, and couriers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from config.temporal import run_in_db
from orders import desk
from orders.models import ApiClient, Order, WebhookDelivery, WebhookEndpoint, WebhookEvent
from orders.services import Item
from orders.webhooks.courier import Load, claim_due, record_outcome, run_courier
from orders.webhooks.registry import register_endpoint
from orders.webhooks.sending import Outcome
from tests.conftest import until

PENS = [Item("PEN-BRASS", 1)]  # 32.00
# For real workers: `start(1, **HASTY)`.
HASTY = {
    "WEBHOOK_ALLOW_PRIVATE": "1",
    "WEBHOOK_TIMEOUT": "1",
    "WEBHOOK_RETRY_INITIAL": "0.1",
    "WEBHOOK_RETRY_MAXIMUM": "0.5",
}


def make_client(name: str = "shop") -> ApiClient:
    """A machine client, the same for the same name."""
    return ApiClient.objects.get_or_create(name=name)[0]


def make_endpoint(
    url: str, *, client: ApiClient | None = None, events: list[str] | None = None
) -> WebhookEndpoint:
    """An endpoint of the client "shop", for every event unless some are named."""
    return register_endpoint(client=client or make_client(), url=url, events=events or WebhookEvent.values)


def place_for(client: ApiClient | None, items: list[Item] | None = None, *, token: str = "tok_ok") -> Order:
    """An order of the client's, as the API places it."""
    return desk.place_order(
        customer_email="ada@example.com",
        items=items or PENS,
        actor="test",
        client=client,
        payment_token=token,
    ).order


def publish(order: Order, event: WebhookEvent = WebhookEvent.COMPLETED, *, occurrence: str = "") -> None:
    """Write the deliveries of an event, as the order's services do."""
    WebhookDelivery.objects.publish(order.pk, event, occurrence=occurrence)


def read_states(**about: Any) -> list[str]:
    """The states of the deliveries, in the order they were written."""
    return list(WebhookDelivery.objects.filter(**about).order_by("pk").values_list("state", flat=True))


def read_log(delivery_id: int | None = None) -> list[tuple[int | None, str]]:
    """(status, error) of each attempt, at the only delivery unless one is named."""
    delivery = WebhookDelivery.objects.get(**({"pk": delivery_id} if delivery_id else {}))
    return list(delivery.log.order_by("pk").values_list("status", "error"))


def make_due(**about: Any) -> None:
    """Let what waits be tried now, by whoever."""
    WebhookDelivery.objects.filter(**about).update(next_attempt_at=timezone.now(), leased_until=None)


def claim(load: Load | None = None) -> list[int]:
    """Claim what is due, as a courier does; gives the ids."""
    with transaction.atomic():
        return sorted(delivery.pk for delivery in claim_due(load=load or Load()))


def take() -> WebhookDelivery:
    """Claim the only delivery, as a courier does."""
    with transaction.atomic():
        [delivery] = claim_due(load=Load())
    return delivery


def lapse() -> None:
    """Let every lease run out, and the time until the next attempt."""
    past = timezone.now() - timedelta(seconds=1)
    WebhookDelivery.objects.update(leased_until=past, next_attempt_at=past)


def record(delivery: WebhookDelivery, *, status: int | None = 500, error: str = "It answered 500.") -> None:
    """Record what came of an attempt: a failure unless told otherwise."""
    record_outcome(delivery=delivery, outcome=Outcome(status, error), at=timezone.now(), ms=5, worker="test")


def find_endpoint(pk: UUID) -> WebhookEndpoint:
    return WebhookEndpoint.objects.get(pk=pk)


def begin(url: str, *, client: str = "shop", count: int = 1) -> Order:
    """An order with `count` deliveries due at an endpoint of that client's."""
    owner = make_client(client)
    make_endpoint(url, client=owner)
    order = place_for(owner)
    for number in range(count):
        publish(order, WebhookEvent.NEEDS_ATTENTION, occurrence=str(number))
    return order


async def has_states(*states: str, **about: Any) -> bool:
    return await run_in_db(read_states, **about) == list(states)


async def until_states(*states: str, within: float = 20.0, **about: Any) -> None:
    await until(lambda: has_states(*states, **about), within=within, what=f"the states are {states}")


async def until_log(length: int) -> list[tuple[int | None, str]]:
    """The log of the only delivery, once it has that many attempts."""

    async def read() -> list[tuple[int | None, str]]:
        found = await run_in_db(read_log)
        return found if len(found) >= length else []

    found: list[tuple[int | None, str]] = await until(read, what=f"{length} attempts")
    return found


@asynccontextmanager
async def delivering(count: int = 1) -> AsyncIterator[None]:
    """Couriers at work, as each worker process has one."""
    stop = asyncio.Event()
    couriers = [asyncio.create_task(run_courier(stop, worker=f"courier-{number}")) for number in range(count)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*couriers)
