"""What Temporal must be told, and when it is next asked which sagas it has lost."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models.order import Order

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OutboxKind(models.TextChoices):
    START = "start"
    SIGNAL = "signal"
    # The start of a rollback in the place of a saga that was lost.
    REPAIR = "repair"


# The kinds that start a workflow.
STARTS = (OutboxKind.START, OutboxKind.REPAIR)


# Asked by every worker process twice a second, mostly for nothing; the ORM takes longer to build it than
# PostgreSQL to answer.
_IS_DUE = """
    SELECT EXISTS (SELECT FROM orders_outboxmessage WHERE delivered_at IS NULL AND next_attempt_at <= %s)
"""

# At its commit PostgreSQL tells the workers that listen (orders.listening).
OUTBOX_CHANNEL = "order_desk_outbox"
_ADD = """
    INSERT INTO orders_outboxmessage
        (order_id, kind, name, workflow_id, argument, request_id, next_attempt_at, attempts, last_error)
    VALUES (%s, %s, %s, %s, %s, %s, %s, 0, '')
    RETURNING id, created_at, CASE WHEN %s THEN pg_notify(%s, json_build_object(
        'id', id, 'order_id', order_id, 'kind', kind, 'name', name, 'workflow_id', workflow_id,
        'argument', argument, 'request_id', request_id
    )::text) END
"""


class OutboxManager(models.Manager["OutboxMessage"]):
    def is_due(self, now: datetime) -> bool:
        """Whether any message is undelivered and in nobody's lease."""
        with connection.cursor() as cursor:
            cursor.execute(_IS_DUE, [now])
            return bool(cursor.fetchone()[0])

    def add(self, message: "OutboxMessage") -> None:
        """Insert a new message. With OUTBOX_FAST_PATH the workers hear of it when it is committed."""
        values: list[Any] = [
            message.order_id,
            str(message.kind),
            message.name,
            message.workflow_id,
            message.argument,
            message.request_id,
            message.next_attempt_at,
            settings.OUTBOX_FAST_PATH,
            OUTBOX_CHANNEL,
        ]
        with connection.cursor() as cursor:
            cursor.execute(_ADD, values)
            message.pk, message.created_at, _ = cursor.fetchone()
        # As after save(): it is a stored one from here on.
        message._state.adding, message._state.db = False, self.db

    def overdue(self) -> "models.QuerySet[OutboxMessage]":
        """Messages that have stayed undelivered for so long that their orders need attention."""
        return self.filter(
            delivered_at=None, created_at__lt=Now() - timedelta(seconds=settings.OUTBOX_ATTENTION_AFTER)
        )


class OutboxMessage(models.Model):
    """Something Temporal must be told, written in the transaction that decided it."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="outbox")
    kind = models.CharField(max_length=6, choices=OutboxKind)
    # The workflow type to start, or the signal to send.
    name = models.CharField(max_length=60)
    workflow_id = models.CharField(max_length=60)
    argument = models.CharField(max_length=60, blank=True, default="")
    # The X-Request-ID of the request that decided it, for the workflow's memo; empty outside of requests.
    request_id = models.CharField(max_length=100, blank=True, default="", db_default="")
    created_at = models.DateTimeField(db_default=Now())
    # Nobody else takes the message before this moment: a lease, and the back-off after a failure.
    next_attempt_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True, default="")
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = OutboxManager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(name="outbox_kind_known", condition=Q(kind__in=OutboxKind.values))
        ]
        indexes = [
            models.Index(fields=["next_attempt_at"], name="outbox_due", condition=Q(delivered_at=None)),
            models.Index(fields=["order"], name="outbox_undelivered", condition=Q(delivered_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} to {self.workflow_id}"


class RepairRoundManager(models.Manager["RepairRound"]):
    def claim(self) -> bool:
        """Whether the caller is the one who looks for lost sagas now. The next round is due REPAIR_INTERVAL
        seconds later, for whoever asks first. One conditional UPDATE decides."""
        self.bulk_create([RepairRound(pk=1, due_at=EPOCH)], ignore_conflicts=True)
        interval = timedelta(seconds=settings.REPAIR_INTERVAL)
        return bool(self.filter(pk=1, due_at__lte=Now()).update(due_at=Now() + interval))


class RepairRound(models.Model):
    """When sagas that Temporal has lost are looked for next: one row, for all worker processes."""

    due_at = models.DateTimeField()

    objects = RepairRoundManager()

    def __str__(self) -> str:
        return f"due {self.due_at:%Y-%m-%d %H:%M:%S}"
