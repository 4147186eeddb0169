"""The log of webhooks is deleted when it has served its time, and nothing of it before."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from orders.housekeeping import clean_up, list_old_deliveries
from orders.models import Order, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from tests.webhooks import make_client, make_endpoint, place_for

pytestmark = pytest.mark.usefixtures("hasty_webhooks")

DAY = timedelta(days=1)


def add_delivery(*, age: timedelta, tried: timedelta | None = None, state: str = "delivered") -> int:
    """A delivery that was written that long ago, and tried last at that age."""
    now = timezone.now()
    endpoint = WebhookEndpoint.objects.first() or make_endpoint("http://127.0.0.1:9/")
    delivery = WebhookDelivery.objects.create(
        endpoint=endpoint,
        order=Order.objects.first() or place_for(make_client()),
        event_id=uuid4(),
        event="order.completed",
        body="{}",
        state=state,
        created_at=now - age,
        next_attempt_at=now - (age if tried is None else tried),
        delivered_at=now - age if state == "delivered" else None,
    )
    for at in (age, age if tried is None else tried):
        WebhookAttempt.objects.create(delivery=delivery, at=now - at, ms=1, worker="test")
    return delivery.pk


def test_deliveries_that_have_ended_are_deleted_with_their_attempts(settings: Any) -> None:
    for state in ("delivered", "failed", "withdrawn"):
        add_delivery(age=91 * DAY, state=state)
    kept = [
        add_delivery(age=91 * DAY, state="waiting"),
        add_delivery(age=91 * DAY, tried=89 * DAY),
        add_delivery(age=89 * DAY),
    ]
    assert asyncio.run(clean_up(asyncio.Event()))["webhook deliveries"] == 3
    assert sorted(WebhookDelivery.objects.values_list("pk", flat=True)) == kept
    assert WebhookAttempt.objects.count() == 2 * len(kept)
    settings.WEBHOOK_KEEP = 7
    assert asyncio.run(clean_up(asyncio.Event()))["webhook deliveries"] == 2
    assert WebhookDelivery.objects.get().state == "waiting"


@pytest.mark.parametrize(
    ("age", "state"), [(91 * DAY, "waiting"), (DAY / 2, "delivered"), (DAY / 2, "failed")]
)
def test_database_refuses_to_delete_what_waits_or_is_new(age: timedelta, state: str) -> None:
    add_delivery(age=age, tried=timedelta(), state=state)
    for table in ("orders_webhookattempt", "orders_webhookdelivery"):
        with (
            pytest.raises(DatabaseError, match="never deleted"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(f"DELETE FROM {table} WHERE true")


def test_the_old_are_found_by_an_index() -> None:
    add_delivery(age=timedelta())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders_webhookdelivery"
            " (endpoint_id, order_id, event_id, event, body, state, next_attempt_at, delivered_at)"
            " SELECT endpoint_id, order_id, gen_random_uuid(), event, body, state,"
            " now() - n * interval '6 minutes', now() FROM orders_webhookdelivery,"
            " generate_series(1, 22000) n"
        )
        cursor.execute("ANALYZE orders_webhookdelivery")
    with transaction.atomic():
        plan = list_old_deliveries().select_for_update(skip_locked=True)[:1000].explain()
    assert "Index Scan using webhook_ended" in plan, plan
    assert "Seq Scan" not in plan
