"""What a machine client is told of its orders: lists, one order with all that belongs to it, its progress."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import F, Prefetch

from notifications.models import EmailMessage
from orders import selectors
from orders.models import ApiClient, Order, OrderLine, OrderQuerySet, TrailEntry
from orders.refusals import CancelRequested
from orders.selectors import TrailStep
from payments.models import Payment

# Answers that are meant for the customer. All other errors are written for the shop's staff: they name hosts,
# accounts and people.
TOLD = {"EmailRefused", "OrderNotSellable", "OutOfStock", "PaymentRefused"}
CANCELLED = "A cancel was requested."
TROUBLE = "A technical problem on our side."
# The columns of an order and of a trail row that progress is told from.
OWN = ("number", "status", "cancel_requested_at", "failed_step", "failure_type", "failure")
ENTRY = ("id", "name", "kind", "state", "attempts", "ms", "error_type", "error", "started_at")


@dataclass(frozen=True, slots=True)
class Step:
    """One step or undo with all its attempts; `ms` is how long the last one took."""

    name: str
    kind: str
    state: str
    attempts: int
    ms: int | None
    error: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an order's saga is. `is_settled`: it has nothing left to do."""

    order_id: UUID
    number: int
    status: str
    cancel_requested: bool
    is_settled: bool
    failed_step: str
    failure: str
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class OrderReport:
    """An order with everything a client is told of it."""

    order: Order
    needs_attention: bool
    lines: Iterable[OrderLine]
    payment: Payment | None
    mails: Iterable[EmailMessage]
    progress: Progress


def list_client_orders(client: ApiClient) -> OrderQuerySet:
    """The orders this client has placed, the newest first, with `attention`."""
    return Order.objects.with_attention().filter(client=client).order_by("-number")


def get_report(*, client: ApiClient, order_id: UUID) -> OrderReport:
    """One order of the client. Raises Order.DoesNotExist, also for another client's."""
    order = (
        list_client_orders(client)
        .select_related("payment")
        .prefetch_related("lines", "emails", Prefetch("trail", TrailEntry.objects.order_by("id")))
        .get(pk=order_id)
    )
    return OrderReport(
        order=order,
        needs_attention=order.attention,  # type: ignore[attr-defined]
        lines=order.lines.all(),
        payment=getattr(order, "payment", None),
        mails=order.emails.all(),
        progress=describe_progress(order, list(order.trail.all())),
    )


def report_accepted(order: Order) -> OrderReport:
    """An order that has just been accepted, as `get_report` would read it: nothing has happened to it."""
    return OrderReport(
        order=order,
        needs_attention=False,
        lines=order.lines.all(),
        payment=None,
        mails=[],
        progress=describe_progress(order, []),
    )


def find_progress(*, client: ApiClient, order_id: UUID) -> Progress | None:
    """How far the client's order is, by one query; None when it has no such order."""
    found = list(
        Order.objects.filter(client=client, pk=order_id)
        .order_by("trail__id")
        .values(*OWN, **{f"entry_{name}": F(f"trail__{name}") for name in ENTRY})
    )
    if not found:
        return None
    entries = [
        TrailEntry(**{name: row[f"entry_{name}"] for name in ENTRY})
        for row in found
        if row["entry_id"] is not None
    ]
    order = Order(pk=order_id, **{name: found[0][name] for name in OWN})
    return describe_progress(order, entries)


def describe_progress(order: Order, entries: Sequence[TrailEntry]) -> Progress:
    """The order's progress from its trail, in the order it was written."""
    steps = selectors.summarise_trail(entries)
    return Progress(
        order_id=order.pk,
        number=order.number,
        status=order.status,
        cancel_requested=order.cancel_requested_at is not None,
        is_settled=selectors.is_settled(order, steps),
        failed_step=order.failed_step,
        failure=tell_error(order.failure_type, order.failure),
        steps=[_describe_step(step) for step in steps],
    )


def _describe_step(step: TrailStep) -> Step:
    """The step without what is for staff: the worker, and errors that are no answer to the customer."""
    error_type, _, text = step.error.partition(": ")
    return Step(
        name=step.name,
        kind=step.kind,
        state=step.status,
        attempts=step.attempts,
        ms=step.ms,
        error=tell_error(error_type, text),
        started_at=step.started_at,
    )


def tell_error(error_type: str, text: str) -> str:
    """What went wrong, in the words a client is told; empty when nothing did."""
    if error_type in TOLD:
        return text
    if error_type == CancelRequested.__name__:
        return CANCELLED
    return TROUBLE if error_type or text else ""
