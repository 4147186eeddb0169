"""What became of a run's orders, from the database's own timestamps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

from orders.management.load.plan import Plan
from orders.models import FINISHED_STATES

# The database's clock is this machine's, but the order's row is older than what we note after it.
SLACK = timedelta(seconds=1)
TOLD = [str(state) for state in FINISHED_STATES]

# An order has ended when it is completed, or rolled back and its customer told: the last undo.
ENDED = """
SELECT o.id FROM orders_order o
WHERE o.id = ANY(%(ids)s) AND (o.status IN ('completed', 'shipped') OR o.status = 'cancelled' AND EXISTS (
    SELECT FROM orders_trailentry t
    WHERE t.order_id = o.id AND t.name = 'send_cancellation_email' AND t.state = ANY(%(told)s)))
"""
RUN = "SELECT id FROM orders_order WHERE accepted_at >= %(since)s AND customer_email = %(email)s"
TIMES = """
SELECT o.id, o.status, o.accepted_at, o.completed_at, told.at, declined.at
FROM orders_order o
LEFT JOIN LATERAL (
    SELECT max(t.finished_at) AS at FROM orders_trailentry t
    WHERE t.order_id = o.id AND t.name = 'send_cancellation_email' AND t.state = ANY(%(told)s)
) told ON true
LEFT JOIN LATERAL (
    SELECT max(t.finished_at) AS at FROM orders_trailentry t
    WHERE t.order_id = o.id AND t.name = 'process_payment' AND t.state = 'failed'
) declined ON true
WHERE o.accepted_at >= %(since)s AND o.customer_email = %(email)s
"""


@dataclass(slots=True)
class Outcome:
    """A run's orders as they ended. Times in milliseconds."""

    completed: int = 0
    cancelled: int = 0
    unfinished: int = 0
    # From accepted to completed.
    latencies: list[float] = field(default_factory=list)
    # From declined to fully rolled back: the cancellation mail, the last undo, is sent.
    rollbacks: list[float] = field(default_factory=list)
    # From accepted to fully rolled back.
    cancel_latencies: list[float] = field(default_factory=list)
    last_end: datetime | None = None

    @property
    def ended(self) -> int:
        return self.completed + self.cancelled


def find_ended(order_ids: Collection[UUID]) -> set[UUID]:
    """Those of the orders whose sagas have nothing left to do."""
    with connection.cursor() as cursor:
        cursor.execute(ENDED, {"ids": list(order_ids), "told": TOLD})
        return {row[0] for row in cursor.fetchall()}


def find_run(plan: Plan, *, since: datetime) -> set[UUID]:
    """All orders of the plan's run, those included whose acceptance nobody was told."""
    with connection.cursor() as cursor:
        cursor.execute(RUN, {"since": since - SLACK, "email": plan.email})
        return {row[0] for row in cursor.fetchall()}


def read_outcome(plan: Plan, *, since: datetime, accepted_at: Mapping[UUID, datetime]) -> Outcome:
    """How the run's orders, placed since then, have ended. `accepted_at` is when their clients were told; an
    order's own timestamp, when its placing began, stands in where none was."""
    outcome = Outcome()
    with connection.cursor() as cursor:
        cursor.execute(TIMES, {"since": since - SLACK, "email": plan.email, "told": TOLD})
        rows = cursor.fetchall()
    for order_id, status, placed_at, completed_at, told_at, declined_at in rows:
        began_at = accepted_at.get(order_id, placed_at)
        if status in ("completed", "shipped"):
            ended_at = completed_at
            outcome.completed += 1
            outcome.latencies.append(_count_ms(began_at, completed_at))
        elif status == "cancelled" and told_at is not None:
            ended_at = told_at
            outcome.cancelled += 1
            outcome.cancel_latencies.append(_count_ms(began_at, told_at))
            if declined_at is not None:
                outcome.rollbacks.append(_count_ms(declined_at, told_at))
        else:
            outcome.unfinished += 1
            continue
        outcome.last_end = max(outcome.last_end or ended_at, ended_at)
    return outcome


def _count_ms(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1000
