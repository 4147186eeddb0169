"""Webhooks of machine clients: where they are sent, what is sent, and every attempt at it."""

import json
import uuid
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from orders.models.clients import ApiClient
from orders.models.order import Order


class WebhookEvent(models.TextChoices):
    """What a client can be told of: a closed list."""

    COMPLETED = "order.completed", "order completed"
    CANCELLED = "order.cancelled", "order cancelled"
    NEEDS_ATTENTION = "order.needs_attention", "order needs attention"


class DisabledBy(models.TextChoices):
    """Who ended it. What the client has deleted is gone for the API, and is not enabled again."""

    CLIENT = "client", "the client"
    RECEIVER = "receiver", "the receiver"
    STAFF = "staff", "a member of staff"


class WebhookEndpoint(models.Model):
    """An address of a client's own that is told what becomes of the client's orders."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    client = models.ForeignKey(ApiClient, on_delete=models.PROTECT, related_name="webhook_endpoints")
    url = models.CharField("URL", max_length=500)
    events = ArrayField(models.CharField(max_length=30, choices=WebhookEvent))
    # Signing needs the secret itself, so a hash would not do. It is shown once, when it is made.
    secret = models.CharField(max_length=100, editable=False)
    # Those before a rotation, the newest first, as [secret, until when it signs beside the new one].
    old_secrets = models.JSONField(default=list, db_default=[], editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    # The first failure since anything arrived there; empty while all is well.
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_at = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_by = models.CharField(
        max_length=10, choices=DisabledBy, blank=True, default="", db_default="", editable=False
    )
    disabled_because = models.CharField(max_length=300, blank=True, default="", db_default="", editable=False)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                name="webhook_events_known",
                condition=Q(events__contained_by=WebhookEvent.values, events__len__gt=0),
            ),
            models.CheckConstraint(
                name="webhook_disabled_by_somebody",
                condition=Q(disabled_at=None, disabled_by="")
                | Q(disabled_at__isnull=False, disabled_by__in=DisabledBy.values),
            ),
            # Two of one address would tell it everything twice. Serves the search for a client's own, too.
            models.UniqueConstraint(
                name="webhook_live_once", fields=["client", "url"], condition=Q(disabled_at=None)
            ),
        ]

    def __str__(self) -> str:
        return self.url

    def list_old_secrets(self, at: datetime) -> list[tuple[str, datetime]]:
        """The secrets before rotations that still sign at that moment, and until when, the newest first."""
        found = [(secret, datetime.fromisoformat(until)) for secret, until in self.old_secrets]
        return [(secret, until) for secret, until in found if at < until]


class DeliveryState(models.TextChoices):
    """States of a delivery: a closed list."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    # Nobody is to be told any more: the endpoint was deleted or disabled before it was.
    WITHDRAWN = "withdrawn"


# Asked by every worker process twice a second, mostly for nothing, as OutboxMessage's.
_IS_DUE = """
    SELECT EXISTS (SELECT FROM orders_webhookdelivery WHERE state = 'waiting' AND next_attempt_at <= %s)
"""


class WebhookDeliveryManager(models.Manager["WebhookDelivery"]):
    def is_due(self, now: datetime) -> bool:
        """Whether any delivery waits whose time has come, in a lease or not."""
        with connection.cursor() as cursor:
            cursor.execute(_IS_DUE, [now])
            return bool(cursor.fetchone()[0])

    def publish(self, order_id: UUID | str, event: WebhookEvent, *, occurrence: str = "") -> None:
        """Write the deliveries of what has just happened to the order, in the caller's transaction.

        One read, and one insert if the order's client has asked for the event. The event's id follows from
        order, event and `occurrence` (for events an order can have several of), so that publishing it
        again adds nothing.
        """
        endpoint = "client__webhook_endpoints"
        asked = {f"{endpoint}__disabled_at": None, f"{endpoint}__events__contains": [event]}
        found = list(Order.objects.filter(pk=order_id, **asked).order_by().values_list(endpoint, *_TOLD))
        if not found:
            return
        now = timezone.now()
        body = _write_body(event, now, dict(zip(_TOLD, found[0][1:], strict=True)))
        event_id = uuid.uuid5(UUID(str(order_id)), f"{event}:{occurrence}")
        self.bulk_create(
            [
                WebhookDelivery(
                    endpoint_id=endpoint_id,
                    order_id=order_id,
                    event_id=event_id,
                    event=event,
                    body=body,
                )
                for endpoint_id, *_ in found
            ],
            ignore_conflicts=True,
        )


# What is told of an order: nothing personal, and none of our own errors.
_TOLD = ["id", "number", "status", "total", "currency", "accepted_at", "completed_at", "rolled_back_at"]


def _write_body(event: WebhookEvent, at: datetime, order: dict[str, Any]) -> str:
    """The event as JSON: times as RFC 3339 in UTC, the total as a decimal string."""

    def show(value: Any) -> Any:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%dT%H:%M:%S.%fZ}"
        return value if value is None or isinstance(value, int) else str(value)

    told = {name: show(value) for name, value in order.items()}
    body = {"type": str(event), "timestamp": show(at), "data": {"order": told}}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


class WebhookDelivery(models.Model):
    """One event on its way to one endpoint. What is told is frozen: the database refuses to change it, and to
    delete what still waits or is younger than a day."""

    endpoint = models.ForeignKey(
        WebhookEndpoint,
        on_delete=models.PROTECT,
        related_name="deliveries",
        db_index=False,  # webhook_by_endpoint serves
    )
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="webhook_deliveries")
    # Receivers tell repetitions by it: the same for every endpoint, attempt and redelivery.
    event_id = models.UUIDField()
    # Counts up when a person has the event delivered again.
    redelivery = models.PositiveIntegerField(default=0, db_default=0)
    event = models.CharField(max_length=30, choices=WebhookEvent)
    body = models.TextField()
    state = models.CharField(
        max_length=10,
        choices=DeliveryState,
        default=DeliveryState.WAITING,
        db_default=DeliveryState.WAITING,
    )
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now())
    # Until then a worker has it in hand, and nobody else takes it.
    leased_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = WebhookDeliveryManager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "webhook deliveries"
        constraints = [
            models.UniqueConstraint(
                name="webhook_delivery_once", fields=["event_id", "endpoint", "redelivery"]
            ),
            models.CheckConstraint(name="webhook_event_known", condition=Q(event__in=WebhookEvent.values)),
            models.CheckConstraint(name="webhook_state_known", condition=Q(state__in=DeliveryState.values)),
            models.CheckConstraint(
                name="webhook_delivered_has_a_time",
                condition=Q(state="delivered", delivered_at__isnull=False)
                | ~Q(state="delivered") & Q(delivered_at=None),
            ),
        ]
        indexes = [
            models.Index(fields=["next_attempt_at"], name="webhook_due", condition=Q(state="waiting")),
            models.Index(fields=["state", "-id"], name="webhook_by_state"),
            models.Index(fields=["endpoint", "-id"], name="webhook_by_endpoint"),
            models.Index(fields=["next_attempt_at"], name="webhook_ended", condition=~Q(state="waiting")),
        ]
        permissions = [("redeliver_webhook", "Can have a webhook delivered again")]

    def __str__(self) -> str:
        return f"{self.event} {self.event_id}"


class WebhookAttempt(models.Model):
    """One try at a delivery, and what came of it. The database refuses to change it, and to delete it within
    a day."""

    # Housekeeping deletes both together.
    delivery = models.ForeignKey(WebhookDelivery, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField()
    ms = models.PositiveIntegerField()
    # What the receiver answered; empty when it did not answer, or was not asked.
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    error = models.TextField(blank=True, default="", db_default="")
    worker = models.CharField(max_length=120)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.status or ''} {self.error}".strip()
