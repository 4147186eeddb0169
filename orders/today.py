"""The numbers of today, in the project's time zone, beside those of yesterday at this time of day."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, Min, Q, Sum
from django.utils import timezone

from orders.models import Order, OutboxMessage
from orders.sentences import RUNNING
from payments.models import PaymentEvent


@dataclass(frozen=True, slots=True)
class Number:
    """A count or an amount of today, and the same of yesterday up to this time of day."""

    today: Any
    yesterday: Any


@dataclass(frozen=True, slots=True)
class OrderNumbers:
    """`undone` is how many of the orders accepted today have been or are being rolled back."""

    accepted: Number
    rollbacks: Number
    undone: int
    in_progress: int

    @property
    def undone_percent(self) -> int:
        """The share of today's orders that `undone` is."""
        return round(100 * self.undone / self.accepted.today) if self.accepted.today else 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What Temporal has still to be told: how many messages, and since when the oldest waits."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class _Days:
    today: datetime
    yesterday: datetime
    this_time_yesterday: datetime


def _read_days() -> _Days:
    now = timezone.localtime()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    day = timedelta(days=1)
    # Wall-clock arithmetic: a day with a change of clocks still begins at midnight.
    return _Days(today=midnight, yesterday=midnight - day, this_time_yesterday=now - day)


def count_orders() -> OrderNumbers:
    """Orders accepted and rollbacks begun today, and orders in progress. Reads two days, by index."""
    days = _read_days()
    accepted = Order.objects.filter(accepted_at__gte=days.yesterday).aggregate(
        today=Count("pk", filter=Q(accepted_at__gte=days.today)),
        yesterday=Count("pk", filter=Q(accepted_at__lt=days.this_time_yesterday)),
        undone=Count("pk", filter=Q(accepted_at__gte=days.today, rollback_started_at__isnull=False)),
    )
    rollbacks = Order.objects.filter(rollback_started_at__gte=days.yesterday).aggregate(
        today=Count("pk", filter=Q(rollback_started_at__gte=days.today)),
        yesterday=Count("pk", filter=Q(rollback_started_at__lt=days.this_time_yesterday)),
    )
    return OrderNumbers(
        accepted=Number(accepted["today"], accepted["yesterday"]),
        rollbacks=Number(rollbacks["today"], rollbacks["yesterday"]),
        undone=accepted["undone"],
        in_progress=Order.objects.filter(status__in=RUNNING).count(),
    )


def sum_money() -> Number:
    """The money taken today: what the payment ledger says was charged, less what was given back, whenever
    the order was placed."""
    days = _read_days()
    taken = PaymentEvent.objects.filter(at__gte=days.yesterday).aggregate(
        today=Sum("amount", filter=Q(at__gte=days.today), default=Decimal("0.00")),
        yesterday=Sum("amount", filter=Q(at__lt=days.this_time_yesterday), default=Decimal("0.00")),
    )
    return Number(taken["today"], taken["yesterday"])


def measure_backlog() -> Backlog:
    """What the outbox still holds."""
    held = OutboxMessage.objects.filter(delivered_at=None).aggregate(
        count=Count("pk"), oldest=Min("created_at")
    )
    return Backlog(held["count"], held["oldest"])
