"""The ends of a rollback, in our own database: the order turns back, and it is cancelled."""

from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from orders.models import (
    FINISHED_STATES,
    STEPS,
    AttentionFlag,
    Order,
    OrderStatus,
    StepKind,
    StepState,
    TrailEntry,
    WebhookDelivery,
    WebhookEvent,
    under_key,
)
from orders.services import close_running_steps, lapse_cancel_requests, list_sources

_TURN_BACK = """
    UPDATE orders_order
    SET status = 'cancelling', rollback_started_at = %(now)s, failed_step = %(failed_step)s,
        failure_type = %(failure_type)s, failure = %(failure)s
    WHERE id = %(order_id)s AND status = ANY(%(sources)s)
"""
# Which steps have begun, and what an order that turns back leaves to be seen to; mostly nothing.
_LOOK_AROUND = """
    SELECT
        ARRAY(SELECT step FROM orders_stepkey WHERE order_id = %(order_id)s),
        EXISTS (
            SELECT FROM orders_trailentry
            WHERE order_id = %(order_id)s AND kind = 'step' AND (state = 'running' OR retry_at IS NOT NULL)
        ),
        EXISTS (
            SELECT FROM orders_attentionflag
            WHERE order_id = %(order_id)s AND subject = ANY(%(flags)s) AND cleared_at IS NULL
        ),
        EXISTS (
            SELECT FROM orders_cancelrequest
            WHERE order_id = %(order_id)s AND state = 'awaiting_approval'
        )
"""
# No step takes effect after this: what had begun has its tombstone, the rest finds the order turned back. A
# create_order that was waited for has left no running row: it is not written ahead.
_CANCEL = under_key("""
    , lost AS (
        UPDATE orders_trailentry AS entry SET state = 'lost', finished_at = %(undone_at)s
        FROM key WHERE entry.order_id = key.order_id AND entry.kind = 'step' AND entry.state = 'running'
    )
    UPDATE orders_order AS "order" SET status = 'cancelled', rolled_back_at = %(undone_at)s
    FROM key WHERE "order".id = key.order_id AND "order".status = ANY(%(sources)s)
    RETURNING "order".client_id
""")
# The flags that a rollback settles.
_SETTLED = ["begin_rollback", *STEPS]


class Surroundings(NamedTuple):
    """What _LOOK_AROUND answers."""

    begun: list[str]
    is_open: bool
    is_flagged: bool
    is_requested: bool


@transaction.atomic(savepoint=False)
def begin_rollback(
    *, order_id: UUID | str, failed_step: str, failure_type: str, failure: str
) -> list[str] | None:
    """Move the order to `cancelling`, note why, and close what was still running. Locks the order's row.

    Returns the steps that have begun, in this saga or in an earlier one that Temporal has lost; None for an
    order that is shipped, or cancelled with its customer told: there is nothing to roll back.
    """
    cause = {"failed_step": failed_step, "failure_type": failure_type, "failure": failure}
    with connection.cursor() as cursor:
        move = {"order_id": order_id, "now": timezone.now(), "sources": list_sources(OrderStatus.CANCELLING)}
        cursor.execute(_TURN_BACK, {**move, **cause})
        is_moved = bool(cursor.rowcount)
    if not is_moved and _is_over(order_id):
        AttentionFlag.objects.clear_flag(order_id, *_SETTLED)
        return None
    found = _look_around(order_id)
    if found.is_open:
        close_running_steps(order_id)
        waiting = TrailEntry.objects.filter(order_id=order_id, kind=StepKind.STEP, retry_at__isnull=False)
        waiting.update(retry_at=None)
        # This may have waited for an attempt in flight, which has left a key.
        found = _look_around(order_id)
    if found.is_flagged:  # after the trail, as an attempt locks them
        AttentionFlag.objects.clear_flag(order_id, *_SETTLED)
    if found.is_requested:
        lapse_cancel_requests(order_id)
    return found.begun


def _is_over(order_id: UUID | str) -> bool:
    """Whether there is nothing to roll back. Locks the order's row."""
    order = Order.objects.select_for_update(no_key=True).get(pk=order_id)
    if order.status != OrderStatus.CANCELLED:
        return order.status == OrderStatus.SHIPPED
    told = TrailEntry.objects.filter(order=order, name="send_cancellation_email", state__in=FINISHED_STATES)
    return told.exists()


def _look_around(order_id: UUID | str) -> Surroundings:
    with connection.cursor() as cursor:
        cursor.execute(_LOOK_AROUND, {"order_id": order_id, "flags": _SETTLED})
        return Surroundings(*cursor.fetchone())


@transaction.atomic(savepoint=False)
def cancel_order(*, order_id: UUID | str) -> StepState:
    """Undo of `create_order`: move `cancelling -> cancelled`. Repeating it changes nothing.

    Writes the tombstone of `create_order` under its key.
    """
    key = {"order_id": order_id, "step": "create_order", "undone_at": timezone.now()}
    with connection.cursor() as cursor:
        cursor.execute(_CANCEL, {**key, "sources": list_sources(OrderStatus.CANCELLED)})
        row = cursor.fetchone()
    if row is not None and row[0] is not None:  # only a machine client can have asked to be told
        WebhookDelivery.objects.publish(order_id, WebhookEvent.CANCELLED)
    return StepState.DONE
