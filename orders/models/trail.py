"""The plan of the saga, and the trail of what ran of it: steps, undos, their keys and tombstones."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, models
from django.db.models import Q
from django.utils import timezone

from orders.models.order import Order, OrderStatus
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


# Makes the key and locks it, as FOR UPDATE would: `step` is part of what identifies the row. Whoever waited
# for another holder gets the row as that one has left it. A tombstone that is there already stays.
_LOCK = """
    INSERT INTO orders_stepkey AS key (order_id, step, undone_at)
    VALUES (%(order_id)s, %(step)s, %(undone_at)s)
    ON CONFLICT (order_id, step) DO UPDATE
        SET step = EXCLUDED.step, undone_at = COALESCE(key.undone_at, EXCLUDED.undone_at)
    RETURNING id, order_id, step, undone_at, resolved_at
"""
_LOCKED = ["id", "order_id", "step", "undone_at", "resolved_at"]


def under_key(rest: str) -> str:
    """A statement that locks the key of %(step)s, as `lock` and `lock_undo` do, and goes on with it as `key`.

    Only `key`, and rows that it updates or locks itself, are as the key's last holder has left them. All else
    it sees as it was before it waited: what must not be done twice, a unique constraint has to stop.
    """
    return f"WITH key AS ({_LOCK}){rest}"


class StepKeyManager(models.Manager["StepKey"]):
    def lock(self, order_id: UUID | str, step: str) -> "StepKey":
        """The key of (order, step), made if missing and locked until the transaction ends."""
        return self._lock(order_id, step, undone_at=None)

    def lock_step(self, order_id: UUID | str, step: str) -> "StepKey":
        """Lock the key for the step itself. Raises AlreadyUndone once its undo has begun."""
        key = self.lock(order_id, step)
        self.refuse_undone(step, key.undone_at)
        return key

    def refuse_undone(self, step: str, undone_at: datetime | None, status: str = "") -> None:
        """Raise AlreadyUndone if the step, whose key the caller has locked, was undone, or if its order has
        turned back: the rollback may not know of the step then. What the locking statement has written is
        rolled back with it."""
        if undone_at is not None:
            raise AlreadyUndone(f"{step} came too late: it was undone at {undone_at:%Y-%m-%d %H:%M:%S}")
        if status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED):
            raise AlreadyUndone(f"{step} came too late: the order is {status}")

    def lock_undo(self, order_id: UUID | str, step: str) -> "StepKey":
        """Lock the key for the step's undo and write the tombstone."""
        return self._lock(order_id, step, undone_at=timezone.now())

    def _lock(self, order_id: UUID | str, step: str, *, undone_at: datetime | None) -> "StepKey":
        with connection.cursor() as cursor:
            cursor.execute(_LOCK, {"order_id": order_id, "step": step, "undone_at": undone_at})
            return StepKey.from_db(self.db, _LOCKED, cursor.fetchone())


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


_BEGIN = """
    INSERT INTO orders_trailentry
        (order_id, name, kind, state, attempts, started_at, error_type, error, worker)
    SELECT %(order_id)s::uuid, %(name)s::text, %(kind)s::text, 'running', 1, %(started_at)s::timestamptz,
           '', '', %(worker)s::text
    WHERE NOT EXISTS (
        SELECT FROM orders_trailentry WHERE order_id = %(order_id)s::uuid AND name = %(name)s::text
    )
    RETURNING id
"""
_ADD_FINISHED = """
    INSERT INTO orders_trailentry
        (order_id, name, kind, state, attempts, started_at, finished_at, ms, error_type, error, worker)
    VALUES (%s, %s, %s, %s, 1, %s, %s, %s, '', '', %s)
    ON CONFLICT DO NOTHING
"""
_FINISH = """
    UPDATE orders_trailentry
    SET state = %(state)s, finished_at = %(finished_at)s, ms = %(ms)s, worker = %(worker)s, retry_at = NULL
    WHERE id = %(id)s AND state = 'running'
"""
_FINISH_AND_CLEAR = """
    WITH cleared AS (
        UPDATE orders_attentionflag SET cleared_at = statement_timestamp()
        WHERE order_id = %(order_id)s AND subject = %(name)s AND cleared_at IS NULL
    )
    UPDATE orders_trailentry
    SET state = %(state)s, finished_at = %(finished_at)s, ms = %(ms)s, worker = %(worker)s, retry_at = NULL
    WHERE id = %(id)s AND state = 'running'
"""
_FAIL = """
    UPDATE orders_trailentry
    SET state = 'failed', finished_at = %(finished_at)s, ms = %(ms)s, worker = %(worker)s,
        error_type = %(error_type)s, error = %(error)s, retry_at = %(retry_at)s
    WHERE id = %(id)s AND state = 'running'
"""
# An attempt that has ended, where nothing was written before; success clears the flag.
_ADD_FIRST = """
    WITH first AS (
        INSERT INTO orders_trailentry
            (order_id, name, kind, state, attempts, started_at, finished_at, ms, error_type, error, worker,
             retry_at)
        SELECT %(order_id)s::uuid, %(name)s::text, %(kind)s::text, %(state)s::text, 1,
               %(started_at)s::timestamptz, %(finished_at)s::timestamptz, %(ms)s::integer,
               %(error_type)s::text, %(error)s::text, %(worker)s::text, %(retry_at)s::timestamptz
        WHERE NOT EXISTS (
            SELECT FROM orders_trailentry WHERE order_id = %(order_id)s::uuid AND name = %(name)s::text
        )
        ON CONFLICT DO NOTHING
        RETURNING id
    ), cleared AS (
        UPDATE orders_attentionflag SET cleared_at = statement_timestamp()
        WHERE order_id = %(order_id)s::uuid AND subject = %(name)s::text AND cleared_at IS NULL
          AND %(state)s::text <> 'failed' AND EXISTS (SELECT FROM first)
    )
    SELECT id FROM first
"""


class TrailEntryManager(models.Manager["TrailEntry"]):
    """What nearly every attempt writes, in plain SQL: the ORM needs longer to build such a statement than
    PostgreSQL to carry it out."""

    def begin(
        self, *, order_id: UUID | str, name: str, kind: StepKind, started_at: datetime, worker: str
    ) -> int | None:
        """Write the first row of this step or undo as running, and return its id. None, and nothing written,
        where there is a row already. The caller holds the step key, so that nobody writes one meanwhile."""
        values = {
            "order_id": order_id,
            "name": name,
            "kind": kind.value,
            "started_at": started_at,
            "worker": worker,
        }
        with connection.cursor() as cursor:
            cursor.execute(_BEGIN, values)
            row = cursor.fetchone()
        return None if row is None else row[0]

    def add_finished(
        self,
        *,
        order_id: UUID | str,
        name: str,
        kind: StepKind,
        state: StepState,
        started_at: datetime,
        finished_at: datetime,
        ms: int,
        worker: str,
    ) -> None:
        """Write an attempt that has ended well. Nothing is written where a row says so already."""
        values = [order_id, name, kind.value, state.value, started_at, finished_at, ms, worker]
        with connection.cursor() as cursor:
            cursor.execute(_ADD_FINISHED, values)

    def add_first(
        self,
        *,
        order_id: UUID | str,
        name: str,
        kind: StepKind,
        state: StepState,
        started_at: datetime,
        finished_at: datetime,
        ms: int,
        worker: str,
        error_type: str = "",
        error: str = "",
        retry_at: datetime | None = None,
    ) -> bool:
        """Write the first row of this step or undo as ended, and clear its flag if it has ended well. False,
        and nothing written or cleared, where there is a row already."""
        values = {
            "order_id": order_id,
            "name": name,
            "kind": kind.value,
            "state": state.value,
            "started_at": started_at,
            "finished_at": finished_at,
            "ms": ms,
            "worker": worker,
            "error_type": error_type,
            "error": error,
            "retry_at": retry_at,
        }
        with connection.cursor() as cursor:
            cursor.execute(_ADD_FIRST, values)
            return cursor.fetchone() is not None

    def finish(
        self,
        entry_id: int,
        *,
        state: StepState,
        finished_at: datetime,
        ms: int,
        worker: str,
        clears_flag_of: tuple[UUID | str, str] | None = None,
    ) -> None:
        """Write how a running attempt has ended, and clear the flag of this order and name. A row that is no
        longer running stays as it is."""
        values: dict[str, Any] = {
            "id": entry_id,
            "state": state.value,
            "finished_at": finished_at,
            "ms": ms,
            "worker": worker,
        }
        with connection.cursor() as cursor:
            if clears_flag_of is None:
                cursor.execute(_FINISH, values)
            else:
                order_id, name = clears_flag_of
                cursor.execute(_FINISH_AND_CLEAR, {**values, "order_id": order_id, "name": name})

    def fail(
        self,
        entry_id: int,
        *,
        finished_at: datetime,
        ms: int,
        worker: str,
        error_type: str,
        error: str,
        retry_at: datetime | None,
    ) -> bool:
        """Write that a running attempt has failed. Returns whether it was running: otherwise its row stays as
        it is."""
        values: dict[str, Any] = {
            "id": entry_id,
            "finished_at": finished_at,
            "ms": ms,
            "worker": worker,
            "error_type": error_type,
            "error": error,
            "retry_at": retry_at,
        }
        with connection.cursor() as cursor:
            cursor.execute(_FAIL, values)
            return bool(cursor.rowcount)


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

    objects = TrailEntryManager()

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
