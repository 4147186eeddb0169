"""What Temporal must be told."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models.order import Order


class OutboxKind(models.TextChoices):
    START = "start"
    SIGNAL = "signal"


class OutboxManager(models.Manager["OutboxMessage"]):
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
