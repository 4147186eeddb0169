"""Orders, their lines, their trail, the outbox to Temporal, and what people did to them."""

import uuid
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from orders.refusals import AlreadyUndone


class OrderStatus(models.TextChoices):
    PENDING = "pending"
    CREATED = "created"
    COMPLETED = "completed"
    SHIPPED = "shipped"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


# The one table of allowed moves. Every move is a conditional UPDATE (orders.services.move_order).
ALLOWED_MOVES: dict[str, frozenset[str]] = {
    OrderStatus.PENDING: frozenset({OrderStatus.CREATED, OrderStatus.CANCELLING}),
    OrderStatus.CREATED: frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLING}),
    OrderStatus.COMPLETED: frozenset({OrderStatus.SHIPPED, OrderStatus.CANCELLING}),
    OrderStatus.CANCELLING: frozenset({OrderStatus.CANCELLED}),
    OrderStatus.SHIPPED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}


class StepKind(models.TextChoices):
    STEP = "step"
    UNDO = "undo"


class StepState(models.TextChoices):
    """States of a trail row: a closed list."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    NOTHING_TO_UNDO = "nothing_to_undo"
    RESOLVED = "resolved"


# Each step with its undo: the saga's plan, in order. `complete_order` has nothing to undo of its own.
STEPS: dict[str, str | None] = {
    "create_order": "cancel_order",
    "reserve_inventory": "release_inventory",
    "process_payment": "refund_payment",
    "send_confirmation_email": "send_cancellation_email",
    "complete_order": None,
}
STEP_OF_UNDO: dict[str, str] = {undo: step for step, undo in STEPS.items() if undo}

# What an activity answers when its order has left the saga's reach; it leaves no trail.
ALREADY_FINAL = "already_final"

NEXT_NUMBER = models.Func(
    models.Value("orders_order_number_seq"), function="nextval", output_field=models.BigIntegerField()
)

FINISHED_STATES = (StepState.DONE, StepState.NOTHING_TO_UNDO, StepState.RESOLVED)


class OrderQuerySet(models.QuerySet["Order"]):
    def with_attention(self) -> "OrderQuerySet":
        """Annotate `attention`: an open flag, or a message Temporal has not been told for too long."""
        overdue = OutboxMessage.objects.overdue().filter(order=models.OuterRef("pk"))
        raised = AttentionFlag.objects.filter(order=models.OuterRef("pk"), cleared_at=None)
        return self.annotate(attention=models.Exists(raised) | models.Exists(overdue))


class Order(models.Model):
    """What a customer buys. Prices and total are frozen when the order is accepted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.BigIntegerField(unique=True, editable=False, db_default=NEXT_NUMBER)
    customer_email = models.EmailField()
    status = models.CharField(max_length=10, choices=OrderStatus, default=OrderStatus.PENDING)
    currency = models.CharField(max_length=3)
    total = models.DecimalField(max_digits=12, decimal_places=2)
    # A gateway's token for the card; card data itself never enters.
    payment_token = models.CharField(max_length=200)
    placed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    accepted_at = models.DateTimeField(db_default=Now(), editable=False)
    completed_at = models.DateTimeField(null=True, blank=True)
    shipped_at = models.DateTimeField(null=True, blank=True)
    # A cancel that `complete_order` must lose to; who and why stand in the action it points at.
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    # Why the rollback began; empty until then.
    rollback_started_at = models.DateTimeField(null=True, blank=True)
    rolled_back_at = models.DateTimeField(null=True, blank=True)
    failed_step = models.CharField(max_length=60, blank=True, default="")
    failure_type = models.CharField(max_length=60, blank=True, default="")
    failure = models.TextField(blank=True, default="")

    objects = OrderQuerySet.as_manager()

    class Meta:
        ordering = ["-accepted_at", "-number"]
        constraints = [
            models.CheckConstraint(name="order_total_not_negative", condition=Q(total__gte=0)),
            models.CheckConstraint(name="order_status_known", condition=Q(status__in=OrderStatus.values)),
            models.CheckConstraint(
                name="order_rollback_has_a_start",
                condition=~Q(status__in=["cancelling", "cancelled"]) | Q(rollback_started_at__isnull=False),
            ),
            models.CheckConstraint(
                name="order_cancelled_has_an_end",
                condition=~Q(status="cancelled") | Q(rolled_back_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(fields=["status", "accepted_at"], name="order_by_status"),
            models.Index(fields=["-accepted_at", "-number"], name="order_newest_first"),
            models.Index(fields=["total"], name="order_by_total"),
            models.Index(
                fields=["-rollback_started_at"],
                name="order_rollbacks",
                condition=Q(rollback_started_at__isnull=False),
            ),
        ]
        permissions = [
            ("cancel_order", "Can cancel an order"),
            ("refund_order", "Can cancel an order whose payment has been taken"),
            ("approve_refund", "Can approve a cancel whose refund is above the limit"),
            ("ship_order", "Can mark an order as shipped"),
            ("retry_undo", "Can retry a stuck undo and acknowledge what was found"),
            ("resolve_undo", "Can resolve a stuck undo by hand"),
            ("resend_email", "Can send a mail to the customer again"),
        ]

    def __str__(self) -> str:
        return f"Order {self.number}"


class OrderLine(models.Model):
    """One SKU times a quantity at a frozen unit price."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="lines")
    sku = models.CharField("SKU", max_length=40)
    name = models.CharField(max_length=200)
    unit_price = models.DecimalField(max_digits=10, decimal_places=2)
    quantity = models.PositiveIntegerField()

    class Meta:
        ordering = ["sku"]
        constraints = [
            models.UniqueConstraint(name="line_once_per_sku", fields=["order", "sku"]),
            models.CheckConstraint(name="line_quantity_positive", condition=Q(quantity__gt=0)),
            models.CheckConstraint(name="line_price_not_negative", condition=Q(unit_price__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku}"

    @property
    def amount(self) -> Decimal:
        """Unit price times quantity."""
        return self.unit_price * self.quantity


class StepKeyManager(models.Manager["StepKey"]):
    def lock(self, order_id: UUID | str, step: str) -> "StepKey":
        """The key of (order, step), made if missing and locked until the transaction ends."""
        self.bulk_create([StepKey(order_id=order_id, step=step)], ignore_conflicts=True)
        return self.select_for_update().get(order_id=order_id, step=step)

    def lock_step(self, order_id: UUID | str, step: str) -> "StepKey":
        """Lock the key for the step itself. Raises AlreadyUndone once its undo has begun."""
        key = self.lock(order_id, step)
        if key.undone_at is not None:
            raise AlreadyUndone(f"{step} came too late: it was undone at {key.undone_at:%Y-%m-%d %H:%M:%S}")
        return key

    def lock_undo(self, order_id: UUID | str, step: str) -> "StepKey":
        """Lock the key for the step's undo and write the tombstone."""
        key = self.lock(order_id, step)
        if key.undone_at is None:
            key.undone_at = timezone.now()
            key.save(update_fields=["undone_at"])
        return key


class StepKey(models.Model):
    """The lock and the tombstone of one step of one order.

    A step and its undo both lock this row before their effect. Once `undone_at` is set the step refuses,
    however late an attempt of it arrives. The key is (order, step): never a run, an attempt or a worker.
    """

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="step_keys")
    step = models.CharField(max_length=60)
    undone_at = models.DateTimeField(null=True, blank=True)
    # The undo was settled by a person outside the saga; later attempts of it stop.
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects = StepKeyManager()

    class Meta:
        constraints = [models.UniqueConstraint(name="step_key_once", fields=["order", "step"])]

    def __str__(self) -> str:
        return f"{self.step} of {self.order_id}"


class TrailEntry(models.Model):
    """One attempt of a step or an undo; like failures in a row share one entry and count their attempts."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="trail")
    name = models.CharField(max_length=60)
    kind = models.CharField(max_length=4, choices=StepKind)
    state = models.CharField(max_length=15, choices=StepState)
    attempts = models.PositiveIntegerField(default=1)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    ms = models.PositiveIntegerField(null=True, blank=True)
    error_type = models.CharField(max_length=60, blank=True, default="")
    error = models.TextField(blank=True, default="")
    worker = models.CharField(max_length=120, blank=True, default="")
    # When Temporal tries again after a failure; empty when it will not by itself.
    retry_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "trail entries"
        constraints = [
            models.CheckConstraint(name="trail_state_known", condition=Q(state__in=StepState.values)),
            models.CheckConstraint(name="trail_kind_known", condition=Q(kind__in=StepKind.values)),
            models.CheckConstraint(
                name="trail_ended_unless_running",
                condition=Q(state="running", finished_at=None)
                | ~Q(state="running") & Q(finished_at__isnull=False),
            ),
            models.UniqueConstraint(
                name="trail_finishes_once", fields=["order", "name"], condition=Q(state__in=FINISHED_STATES)
            ),
        ]
        indexes = [models.Index(fields=["order", "name"], name="trail_by_order")]

    def __str__(self) -> str:
        return f"{self.name} {self.state}"


class AttentionFlagManager(models.Manager["AttentionFlag"]):
    def raise_flag(self, order_id: UUID | str, subject: str, reason: str) -> None:
        """Raise the flag, or bring the reason of the open one with this subject up to date."""
        if not self.filter(order_id=order_id, subject=subject, cleared_at=None).update(reason=reason):
            flag = AttentionFlag(order_id=order_id, subject=subject, reason=reason)
            self.bulk_create([flag], ignore_conflicts=True)

    def clear_flag(self, order_id: UUID | str, *subjects: str) -> None:
        """Clear the open flags with these subjects."""
        self.filter(order_id=order_id, subject__in=subjects, cleared_at=None).update(cleared_at=Now())


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


class Rollback(Order):
    """An order whose rollback has begun: the history of everything undone, as a list of its own."""

    class Meta:
        proxy = True
        ordering = ["-rollback_started_at"]
