"""What needs a person, and what people did: flags, actions, and cancels that take two."""

from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models.order import Order

_CLEAR = """
    UPDATE orders_attentionflag SET cleared_at = statement_timestamp()
    WHERE order_id = %s AND subject = ANY(%s) AND cleared_at IS NULL
"""


class AttentionFlagManager(models.Manager["AttentionFlag"]):
    def raise_flag(self, order_id: UUID | str, subject: str, reason: str) -> None:
        """Raise the flag and tell the order's client, or bring the open one with this subject up to date."""
        # Here, because clients, whose webhooks these are, point at orders.
        from orders.models.webhooks import WebhookDelivery, WebhookEvent

        mine = self.filter(order_id=order_id, subject=subject, cleared_at=None)
        if mine.update(reason=reason):
            return
        flag = AttentionFlag(order_id=order_id, subject=subject, reason=reason)
        self.bulk_create([flag], ignore_conflicts=True)
        # Whoever raised it at the same moment publishes the same event, which is written once.
        for flag_id in mine.values_list("pk", flat=True):
            WebhookDelivery.objects.publish(order_id, WebhookEvent.NEEDS_ATTENTION, occurrence=str(flag_id))

    def clear_flag(self, order_id: UUID | str, *subjects: str) -> None:
        """Clear the open flags with these subjects."""
        with connection.cursor() as cursor:
            cursor.execute(_CLEAR, [order_id, list(subjects)])


class AttentionFlag(models.Model):
    """A reason why a person should look at an order. Stands beside the status and is cleared, not deleted."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="attention_flags")
    # What the flag is about: a step or undo by name, or a finding such as `refunded_twice`.
    subject = models.CharField(max_length=60)
    reason = models.TextField()
    raised_at = models.DateTimeField(db_default=Now())
    cleared_at = models.DateTimeField(null=True, blank=True)

    objects = AttentionFlagManager()

    class Meta:
        ordering = ["raised_at"]
        constraints = [
            models.UniqueConstraint(
                name="attention_open_once", fields=["order", "subject"], condition=Q(cleared_at=None)
            ),
            models.CheckConstraint(name="attention_has_a_reason", condition=~Q(reason="")),
        ]

    def __str__(self) -> str:
        return self.reason


# Whoever orders and cancels in the shop. No user is named so: user names have no spaces.
CUSTOMER = "the customer"


class ActionKind(models.TextChoices):
    PLACE = "place_order"
    CANCEL = "cancel_order"
    REQUEST_CANCEL = "request_cancel"
    APPROVE_CANCEL = "approve_cancel"
    REJECT_CANCEL = "reject_cancel"
    WITHDRAW_CANCEL = "withdraw_cancel"
    SHIP = "ship_order"
    RETRY_UNDO = "retry_undo"
    RESOLVE_UNDO = "resolve_undo"
    RESEND_EMAIL = "resend_email"
    ACKNOWLEDGE = "acknowledge"
    REDELIVER_WEBHOOK = "redeliver_webhook"


class OrderAction(models.Model):
    """Who did what to an order, and why. Append-only: the database refuses changes."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="actions")
    kind = models.CharField(max_length=20, choices=ActionKind)
    actor = models.CharField(max_length=200)
    reason = models.TextField(blank=True, default="")
    undo = models.CharField(max_length=60, blank=True, default="")
    # Where the outside settlement can be found: a bank transfer, a voucher.
    reference = models.CharField(max_length=200, blank=True, default="")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                name="action_resolve_is_explained",
                condition=~Q(kind="resolve_undo") | (~Q(reason="") & ~Q(reference="")),
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.actor}"


class CancelRequestState(models.TextChoices):
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    # The order was cancelled another way before anybody decided.
    LAPSED = "lapsed"


class CancelRequest(models.Model):
    """A staff cancel whose refund is above the limit: nothing is undone until a second person approves.

    At most one per order is open. The database refuses an approval by the person who asked.
    """

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="cancel_requests")
    state = models.CharField(
        max_length=20, choices=CancelRequestState, default=CancelRequestState.AWAITING_APPROVAL
    )
    # What the cancel would give back to the customer, when it was asked for.
    refund = models.DecimalField(max_digits=12, decimal_places=2)
    reason = models.TextField()
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(db_default=Now())
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", null=True, blank=True
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    note = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                name="cancel_request_open_once",
                fields=["order"],
                condition=Q(state="awaiting_approval"),
            ),
            models.CheckConstraint(
                name="cancel_request_state_known", condition=Q(state__in=CancelRequestState.values)
            ),
            models.CheckConstraint(
                name="cancel_request_decided_unless_open",
                condition=Q(state="awaiting_approval", decided_at=None)
                | ~Q(state="awaiting_approval") & Q(decided_at__isnull=False),
            ),
            models.CheckConstraint(
                name="cancel_request_takes_two_people",
                condition=~Q(state="approved")
                | Q(decided_by__isnull=False) & ~Q(decided_by=models.F("requested_by")),
            ),
        ]

    def __str__(self) -> str:
        return f"cancel of {self.order_id}: {self.get_state_display().lower()}"
