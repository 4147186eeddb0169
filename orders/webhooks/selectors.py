"""Reads about webhooks: those of the back office's pages, and the clock that leases go by."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import OuterRef, QuerySet, Subquery

from orders.models import ApiClient, DeliveryState, WebhookAttempt, WebhookDelivery, WebhookEndpoint


def read_clock() -> datetime:
    """The database's time, which all workers share; clocks of their own may disagree."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        found: datetime = cursor.fetchone()[0]
        return found


def list_deliveries() -> "QuerySet[WebhookDelivery]":
    """Deliveries with their order, endpoint and client, and what the last attempt brought: `last_status`,
    `last_error`."""
    last = WebhookAttempt.objects.filter(delivery=OuterRef("pk")).order_by("-pk")
    return WebhookDelivery.objects.select_related("order", "endpoint__client").annotate(
        last_status=Subquery(last.values("status")[:1]), last_error=Subquery(last.values("error")[:1])
    )


def find_deliveries(ids: Collection[int]) -> list[WebhookDelivery]:
    """The deliveries with these ids, the oldest first."""
    return list(list_deliveries().filter(pk__in=ids).order_by("pk"))


def list_attempts(delivery: WebhookDelivery) -> "QuerySet[WebhookAttempt]":
    """Every attempt at it, the first one first."""
    return delivery.log.order_by("pk")


def list_same_event(delivery: WebhookDelivery) -> "QuerySet[WebhookDelivery]":
    """The event's other deliveries to the same endpoint: what a person had delivered again."""
    same = WebhookDelivery.objects.filter(endpoint=delivery.endpoint_id, event_id=delivery.event_id)
    return same.exclude(pk=delivery.pk).order_by("redelivery")


def list_last_deliveries(endpoint: WebhookEndpoint, *, limit: int) -> list[WebhookDelivery]:
    """What was sent to the endpoint of late, or is to be, the newest first."""
    return list(list_deliveries().filter(endpoint=endpoint).order_by("-pk")[:limit])


def count_waiting(endpoint_id: UUID) -> int:
    """How many deliveries wait for the endpoint."""
    return WebhookDelivery.objects.filter(endpoint=endpoint_id, state=DeliveryState.WAITING).count()


def list_told_clients() -> "QuerySet[ApiClient]":
    """Clients that have or had an endpoint."""
    return ApiClient.objects.filter(pk__in=WebhookEndpoint.objects.values("client")).order_by("name")
