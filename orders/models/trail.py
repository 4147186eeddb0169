"""The plan of the saga, and the trail of what ran of it: steps, undos, their keys and tombstones."""

from uuid import UUID

from django.db import models
from django.db.models import Q
from django.utils import timezone

from orders.models.order import Order
from orders.refusals import AlreadyUndone


class StepKind(models.TextChoices):
    STEP = "step"
    UNDO = "undo"
    # What befell the saga itself.
    SAGA = "saga"


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

# The trail's line, and the flag, of a saga that Temporal has lost.
SAGA_LOST = "saga_lost"

FINISHED_STATES = (StepState.DONE, StepState.NOTHING_TO_UNDO, StepState.RESOLVED)


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
