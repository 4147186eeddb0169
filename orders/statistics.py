"""Reads for the charts: rollbacks by day, in the project's time zone. Each is one aggregate query."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from django.db import connection
from django.db.models import Case, Count, F, Value, When
from django.db.models.functions import TruncDate
from django.utils.timezone import get_current_timezone_name, make_aware

from orders.models import Order
from orders.refusals import CancelRequested

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Share:
    """How many orders were accepted, and how many of those have been rolled back since."""

    accepted: int = 0
    rolled_back: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.rolled_back / self.accepted if self.accepted else 0.0


@dataclass(frozen=True, slots=True)
class Durations:
    """How long rollbacks took from their beginning to the end of the last undo: half of them, and 95 % of
    them, took no longer than this."""

    count: int = 0
    p50: timedelta = timedelta()
    p95: timedelta = timedelta()


# By day and over all days. The ORM has neither percentile_cont nor GROUPING SETS. A rollback has come to its
# end when its last undo has, and that is the mail.
MEASURE = """
    WITH ended AS (
        SELECT o.rollback_started_at AS began, max(t.finished_at) - o.rollback_started_at AS took
        FROM orders_order o
        JOIN orders_trailentry t ON t.order_id = o.id
        WHERE o.rollback_started_at >= %(since)s AND o.status = 'cancelled'
            AND t.kind = 'undo' AND t.state IN ('done', 'nothing_to_undo', 'resolved')
        GROUP BY o.id
        HAVING bool_or(t.name = 'send_cancellation_email')
    )
    SELECT (began AT TIME ZONE %(zone)s)::date AS day, count(*),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY took), percentile_cont(0.95) WITHIN GROUP (ORDER BY took)
    FROM ended
    GROUP BY GROUPING SETS ((day), ())
"""


def count_rollbacks(first_day: date) -> dict[date, dict[str, int]]:
    """The rollbacks begun on each day since `first_day`, by failed step; those a person asked for stand
    under CANCELLED."""
    series = Case(
        When(failure_type=CancelRequested.__name__, then=Value(CANCELLED)), default=F("failed_step")
    )
    rows = (
        Order.objects.filter(rollback_started_at__gte=_begin(first_day))
        .order_by()
        .values(day=TruncDate("rollback_started_at"), series=series)
        .values_list("day", "series", Count("pk"))
    )
    counts: dict[date, dict[str, int]] = defaultdict(dict)
    for day, name, count in rows:
        counts[day][name] = count
    return dict(counts)


def count_orders(first_day: date) -> dict[date, Share]:
    """The orders accepted on each day since `first_day`, and how many of those have been rolled back."""
    rows = (
        Order.objects.filter(accepted_at__gte=_begin(first_day))
        .order_by()
        .values(day=TruncDate("accepted_at"))
        .values_list("day", Count("pk"), Count("rollback_started_at"))
    )
    return {day: Share(accepted, rolled_back) for day, accepted, rolled_back in rows}


def measure_rollbacks(first_day: date) -> tuple[dict[date, Durations], Durations]:
    """How long the rollbacks took that began since `first_day` and have come to their end: by the day they
    began on, and all together."""
    with connection.cursor() as cursor:
        cursor.execute(MEASURE, {"since": _begin(first_day), "zone": get_current_timezone_name()})
        rows = cursor.fetchall()
    by_day = {day: Durations(count, p50, p95) for day, count, p50, p95 in rows if count}
    return by_day, by_day.pop(None, Durations())


def _begin(day: date) -> datetime:
    return make_aware(datetime.combine(day, time.min))
