"""All reads of orders and their trails."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Prefetch

from orders.models import (
    FINISHED_STATES,
    STARTS,
    AttentionFlag,
    CancelRequest,
    Order,
    OrderQuerySet,
    OrderStatus,
    OutboxMessage,
    TrailEntry,
)


@dataclass(frozen=True, slots=True)
class TrailStep:
    """One step or undo with all its attempts: what a trail shows as one line. `ms` is the last attempt's."""

    name: str
    kind: str
    status: str
    attempts: int
    ms: int | None
    error: str
    worker: str
    started_at: datetime


def summarise_trail(entries: Iterable[TrailEntry]) -> list[TrailStep]:
    """The entries, in the order they were written, as one line per step or undo, in the order they began."""
    by_name: dict[str, list[TrailEntry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    return [
        TrailStep(
            name=name,
            kind=rows[-1].kind,
            status=rows[-1].state,
            attempts=sum(row.attempts for row in rows),
            ms=rows[-1].ms,
            error=f"{rows[-1].error_type}: {rows[-1].error}" if rows[-1].error_type else "",
            worker=rows[-1].worker,
            started_at=rows[0].started_at,
        )
        for name, rows in by_name.items()
    ]


def is_settled(order: Order, steps: Iterable[TrailStep]) -> bool:
    """Whether the order's saga has nothing left to do: completed, or rolled back and the customer told."""
    if order.status == OrderStatus.CANCELLED:
        return any(
            step.name == "send_cancellation_email" and step.status in FINISHED_STATES for step in steps
        )
    return order.status in (OrderStatus.COMPLETED, OrderStatus.SHIPPED)


def list_orders() -> OrderQuerySet:
    """All orders, newest first, with `attention` and everything a trail or a line list needs."""
    return Order.objects.with_attention().prefetch_related(
        "lines", Prefetch("trail", TrailEntry.objects.order_by("id"))
    )


def get_order(order_id: UUID | str) -> Order:
    """One order as `list_orders` gives it. Raises Order.DoesNotExist."""
    return list_orders().get(pk=order_id)


def find_order(order_id: UUID) -> Order | None:
    """One order as `list_orders` gives it; None if there is none."""
    return list_orders().filter(pk=order_id).first()


def find_order_of_customer(order_id: UUID) -> Order | None:
    """One order with all that its customer's page shows; None if there is none."""
    orders = list_orders().select_related("payment")
    return orders.prefetch_related("payment__events", "emails", "actions").filter(pk=order_id).first()


def is_same_order(order: Order, *, customer_email: str, quantities: dict[str, int]) -> bool:
    """Whether the order is the one described: for a form or a request that was sent twice."""
    placed = {line.sku: line.quantity for line in order.lines.all()}
    return (order.customer_email, placed) == (customer_email, quantities)


def get_order_record(order_id: UUID | str) -> Order:
    """One order with everything that ever happened to it. Raises Order.DoesNotExist."""
    return (
        list_orders()
        .select_related("payment", "placed_by", "client")
        .prefetch_related(
            "holds__product",
            "payment__events",
            "emails",
            "actions",
            "attention_flags",
            Prefetch("cancel_requests", CancelRequest.objects.select_related("requested_by", "decided_by")),
        )
        .get(pk=order_id)
    )


def list_rolled_back_orders() -> OrderQuerySet:
    """Orders whose rollback has begun, the newest first."""
    return Order.objects.filter(rollback_started_at__isnull=False).order_by("-rollback_started_at", "-number")


def list_workflow_ids(order: Order) -> list[str]:
    """The ids of the order's sagas in Temporal, the first one first."""
    started = OutboxMessage.objects.filter(order=order, kind__in=STARTS)
    return list(dict.fromkeys(started.values_list("workflow_id", flat=True)))


def list_open_flags(order: Order) -> list[AttentionFlag]:
    """The order's open attention flags, oldest first."""
    return [flag for flag in order.attention_flags.all() if flag.cleared_at is None]


def list_attention_reasons(order: Order) -> list[str]:
    """Why the order needs a person, in sentences; empty when it does not."""
    reasons = [flag.reason for flag in list_open_flags(order)]
    overdue = describe_overdue(order)
    return [*reasons, overdue] if overdue else reasons


def describe_overdue(order: Order) -> str:
    """That Temporal has not been told what this order needs, in a sentence; empty when it has."""
    if not OutboxMessage.objects.overdue().filter(order=order).exists():
        return ""
    return (
        f"Temporal has not been told for more than {settings.OUTBOX_ATTENTION_AFTER:.0f} s; "
        "is it running, and is a worker?"
    )
