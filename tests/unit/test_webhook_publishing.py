"""What is published: of which orders, to whom, how often, in whose transaction, and at what cost."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from orders import rollback, services
from orders.models import (
    AttentionFlag,
    DeliveryState,
    DisabledBy,
    Order,
    OrderStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from orders.webhooks.registry import disable_endpoint
from tests.e2e.doors import set_status
from tests.webhooks import make_client, make_endpoint, place_for, publish, read_states


@pytest.fixture(autouse=True)
def lax(shop: None, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True


def complete(order: Order) -> None:
    set_status(order, OrderStatus.CREATED)
    services.complete_order(order_id=order.pk)


def list_events(**about: Any) -> list[str]:
    return list(WebhookDelivery.objects.filter(**about).order_by("pk").values_list("event", flat=True))


def test_body_says_what_happened_and_nothing_personal() -> None:
    make_endpoint("http://127.0.0.1/", events=["order.completed"])
    order = place_for(make_client())
    complete(order)
    delivery = WebhookDelivery.objects.get()
    body = json.loads(delivery.body)
    order.refresh_from_db()
    assert set(body) == {"type", "timestamp", "data"}
    assert body["type"] == "order.completed"
    told = body["data"]["order"]
    assert (told["id"], told["number"], told["status"]) == (str(order.pk), order.number, "completed")
    assert (told["total"], told["currency"], told["rolled_back_at"]) == ("32.00", "EUR", None)
    assert told["completed_at"].endswith("Z")
    assert order.customer_email not in delivery.body


def test_each_event_reaches_those_who_asked_for_it() -> None:
    every = make_endpoint("http://127.0.0.1/every")
    some = make_endpoint("http://127.0.0.1/some", events=["order.cancelled"])
    make_endpoint("http://127.0.0.1/other", client=make_client("other"))
    order = place_for(make_client())
    complete(order)  # and its confirmation was never sent, which needs attention
    set_status(order, OrderStatus.CANCELLING)
    rollback.cancel_order(order_id=order.pk)
    assert list_events(endpoint=every) == [
        "order.completed",
        "order.needs_attention",
        "order.cancelled",
    ]
    assert list_events(endpoint=some) == ["order.cancelled"]
    assert WebhookDelivery.objects.count() == 4
    of_one_event = WebhookDelivery.objects.filter(event="order.cancelled").values_list("event_id", flat=True)
    assert len(set(of_one_event)) == 1


def test_activity_that_runs_again_publishes_nothing_more() -> None:
    make_endpoint("http://127.0.0.1/", events=["order.completed", "order.cancelled"])
    order = place_for(make_client())
    complete(order)
    services.complete_order(order_id=order.pk)
    set_status(order, OrderStatus.CANCELLING)
    for _ in range(3):
        rollback.cancel_order(order_id=order.pk)
    assert list_events() == ["order.completed", "order.cancelled"]


def test_flag_is_told_of_when_it_is_raised_and_not_when_its_reason_changes() -> None:
    make_endpoint("http://127.0.0.1/")
    order = place_for(make_client())
    for reason in ("failed 3 times", "failed 4 times"):
        AttentionFlag.objects.raise_flag(order.pk, "refund_payment", reason)
    assert list_events() == ["order.needs_attention"]
    AttentionFlag.objects.raise_flag(order.pk, "release_inventory", "failed 3 times")
    AttentionFlag.objects.clear_flag(order.pk, "refund_payment")
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "failed again")
    assert list_events() == ["order.needs_attention"] * 3
    assert WebhookDelivery.objects.values("event_id").distinct().count() == 3
    assert not WebhookDelivery.objects.filter(body__contains="failed").exists()


def test_flag_raised_twice_at_one_moment_is_told_of_once() -> None:
    make_endpoint("http://127.0.0.1/")
    order = place_for(make_client())
    both = threading.Barrier(2)

    def raise_flag() -> None:
        try:
            with transaction.atomic():
                AttentionFlag.objects.filter(order=order).exists()
                both.wait(10)
                AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "stuck")
        finally:
            connection.close()

    threads = [threading.Thread(target=raise_flag) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert AttentionFlag.objects.count() == 1
    assert list_events() == ["order.needs_attention"]


def test_event_is_written_with_its_change_or_not_at_all() -> None:
    make_endpoint("http://127.0.0.1/")
    order = place_for(make_client())
    with transaction.atomic():
        complete(order)
        set_status(order, OrderStatus.CANCELLING)
        rollback.cancel_order(order_id=order.pk)
        assert list_events() == ["order.completed", "order.needs_attention", "order.cancelled"]
        transaction.set_rollback(True)
    assert list_events() == []


def test_disabled_endpoint_is_told_of_nothing_and_what_waited_is_withdrawn() -> None:
    endpoint = make_endpoint("http://127.0.0.1/")
    order = place_for(make_client())
    publish(order)
    disable_endpoint(endpoint_id=endpoint.pk, by=DisabledBy.STAFF, because="it is broken")
    assert read_states() == [DeliveryState.WITHDRAWN]
    publish(order, WebhookEvent.CANCELLED)
    assert WebhookDelivery.objects.count() == 1


# --- what it costs --------------------------------------------------------------------------------------


@contextmanager
def counting() -> Iterator[list[str]]:
    """The statements about webhooks and clients within the block."""
    found: list[str] = []
    with CaptureQueriesContext(connection) as queries:
        yield found
    found += [query["sql"].split(" ", 1)[0] for query in queries if "orders_webhook" in query["sql"]]


@pytest.mark.parametrize(
    ("endpoints", "client", "statements"),
    [
        (0, None, []),
        (0, "shop", ["SELECT"]),
        (1, "shop", ["SELECT", "INSERT"]),
        (10, "shop", ["SELECT", "INSERT"]),
    ],
)
def test_event_costs_one_read_and_at_most_one_insert(
    endpoints: int, client: str | None, statements: list[str]
) -> None:
    for number in range(endpoints):
        make_endpoint(f"http://127.0.0.1/{number}")
    order = place_for(make_client(client) if client else None)
    set_status(order, OrderStatus.CANCELLING)
    with counting() as found:
        rollback.cancel_order(order_id=order.pk)
    assert found == statements
    with counting() as found:
        rollback.cancel_order(order_id=order.pk)
    assert found == []


# --- what the database refuses --------------------------------------------------------------------------


def refuse(statement: str, match: str) -> None:
    with pytest.raises(DatabaseError, match=match), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def test_what_was_told_and_tried_cannot_be_changed_or_deleted() -> None:
    make_endpoint("http://127.0.0.1/")
    publish(place_for(make_client()))
    delivery = WebhookDelivery.objects.get()
    WebhookAttempt.objects.create(delivery=delivery, at=delivery.created_at, ms=1, status=500, worker="w")
    for column in ("body", "event_id", "event", "order_id", "endpoint_id", "created_at", "redelivery"):
        refuse(f"UPDATE orders_webhookdelivery SET {column} = {column}", "append-only")
    refuse("UPDATE orders_webhookattempt SET status = 200", "append-only")
    refuse("DELETE FROM orders_webhookattempt", "never deleted")
    refuse("DELETE FROM orders_webhookdelivery", "never deleted")
    refuse("DELETE FROM orders_webhookendpoint", "never deleted")


def test_closed_lists_are_closed() -> None:
    endpoint = make_endpoint("http://127.0.0.1/")
    publish(place_for(make_client()))
    refuse("UPDATE orders_webhookdelivery SET state = 'lost'", "webhook_state_known")
    refuse("UPDATE orders_webhookdelivery SET state = 'delivered'", "webhook_delivered_has_a_time")
    refuse("UPDATE orders_webhookendpoint SET events = '{}'", "webhook_events_known")
    refuse("UPDATE orders_webhookendpoint SET events = '{order.lost}'", "webhook_events_known")
    refuse("UPDATE orders_webhookendpoint SET disabled_at = now()", "webhook_disabled_by_somebody")
    refuse("UPDATE orders_webhookendpoint SET disabled_by = 'staff'", "webhook_disabled_by_somebody")
    with pytest.raises(DatabaseError, match="webhook_live_once"), transaction.atomic():
        WebhookEndpoint.objects.create(
            client=endpoint.client, url=endpoint.url, events=["order.completed"], secret="x"
        )


def test_row_of_older_code_gets_its_defaults() -> None:
    endpoint = make_endpoint("http://127.0.0.1/")
    order = place_for(make_client())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders_webhookdelivery (endpoint_id, order_id, event_id, event, body) "
            "VALUES (%s, %s, gen_random_uuid(), 'order.completed', '{}')",
            [endpoint.pk, order.pk],
        )
    assert read_states() == [DeliveryState.WAITING]
