"""What needs a person now: the reads behind the front page's work queue.

Each source is one query, limited, which also counts what it leaves out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Case, Count, Exists, F, Max, OuterRef, Q, Subquery, Sum, Value, When, Window
from django.db.models.functions import Coalesce, Greatest, RowNumber
from django.utils import timezone

from inventory.models import Product
from notifications.models import EmailKind, EmailMessage
from orders.models import (
    FINISHED_STATES,
    STEP_OF_UNDO,
    STEPS,
    AttentionFlag,
    AuditRun,
    CancelRequest,
    CancelRequestState,
    Order,
    OrderStatus,
    OutboxMessage,
    TrailEntry,
)
from orders.permissions import SEE_AUDITS
from orders.sentences import (
    RUNNING,
    Background,
    WorkItem,
    WorkKind,
    describe_audit,
    describe_flag,
    describe_request,
    describe_stock,
    describe_untold,
    describe_waiting,
)
from payments.models import PaymentEvent

# How many of each kind are shown; the rest is counted.
LIMIT = 20
# For how long a cancelled order whose customer was not told is looked for; a flag stays for ever.
FORGOTTEN_FOR = timedelta(days=7)

# Work of one rank is done oldest first: books that are wrong, what stands still, what a person must decide,
# what can wait a little.
RANKS: dict[WorkKind, int] = {
    WorkKind.AUDIT: 0,
    WorkKind.UNDO: 1,
    WorkKind.STEP: 1,
    WorkKind.UNTOLD: 1,
    WorkKind.WAITING: 1,
    WorkKind.FINDING: 2,
    WorkKind.APPROVAL: 2,
    WorkKind.MAIL: 2,
    WorkKind.STOCK: 3,
}


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """The items, most urgent first, and how many there are of each kind, those not shown included."""

    items: list[WorkItem]
    totals: dict[WorkKind, int]

    @property
    def total(self) -> int:
        return sum(self.totals.values())

    @property
    def left_out(self) -> dict[WorkKind, int]:
        """How many of each kind are not among the items."""
        shown = {kind: sum(item.kind == kind for item in self.items) for kind in self.totals}
        return {kind: total - shown[kind] for kind, total in self.totals.items() if total > shown[kind]}


def list_work(user: User) -> WorkQueue:
    """Everything that needs a person, as far as `user` may see it, with the actions `user` may take."""
    items: list[WorkItem] = []
    totals: dict[WorkKind, int] = {}
    if user.has_perm("orders.view_order"):
        flags = list(_find_flags()) if user.has_perm("orders.view_attentionflag") else []
        waiting = list(_find_waiting())
        known = _read_background([*(flag.order for flag in flags), *waiting])
        _collect(flags, lambda flag: describe_flag(flag, known, user), items, totals)
        _collect(waiting, lambda order: describe_waiting(order, known, user), items, totals)
        if user.has_perm("orders.view_outboxmessage"):
            _collect(_find_untold(), describe_untold, items, totals)
        if user.has_perm("orders.view_cancelrequest"):
            _collect(_find_cancel_requests(), lambda asked: describe_request(asked, user), items, totals)
    if user.has_perm(SEE_AUDITS):
        _collect(_find_audit(), describe_audit, items, totals)
    if user.has_perm("inventory.view_product"):
        _collect(_find_low_stock(), lambda product: describe_stock(product, user), items, totals)
    items.sort(key=lambda item: (RANKS[item.kind], item.since.timestamp() if item.since else 0.0))
    return WorkQueue(items, {kind: totals[kind] for kind in WorkKind if kind in totals})


def _collect(
    rows: Iterable[Any],
    describe: Callable[[Any], WorkItem],
    items: list[WorkItem],
    totals: dict[WorkKind, int],
) -> None:
    """Add a source's rows as items, and how many there are in all: each row carries `of_kind`."""
    for row in rows:
        item = describe(row)
        items.append(item)
        totals[item.kind] = row.of_kind


# --- flags -----------------------------------------------------------------------------------------------


def _find_flags() -> Iterable[Any]:
    """The open flags, the oldest of each kind first, with their kind, `work`, and how many it has."""
    return (
        AttentionFlag.objects.filter(cleared_at=None)
        .select_related("order")
        .annotate(
            work=Case(
                When(subject="send_cancellation_email", then=Value(WorkKind.MAIL)),
                When(
                    subject="send_confirmation_email",
                    order__status__in=[OrderStatus.COMPLETED, OrderStatus.SHIPPED],
                    then=Value(WorkKind.MAIL),
                ),
                When(subject__in=list(STEP_OF_UNDO), then=Value(WorkKind.UNDO)),
                When(subject__in=[*STEPS, "begin_rollback"], then=Value(WorkKind.STEP)),
                default=Value(WorkKind.FINDING),
            )
        )
        .annotate(
            of_kind=Window(Count("pk"), partition_by=F("work")),
            place=Window(RowNumber(), partition_by=F("work"), order_by=["raised_at", "pk"]),
        )
        .filter(place__lte=LIMIT)
        .order_by("raised_at", "pk")
    )


def _read_background(orders: Iterable[Order]) -> Background:
    ids = {order.pk for order in orders}
    trail: dict[tuple[UUID, str], list[TrailEntry]] = {}
    for entry in TrailEntry.objects.filter(order__in=ids).order_by("id"):
        trail.setdefault((entry.order_id, entry.name), []).append(entry)
    charged = (
        PaymentEvent.objects.filter(payment__order__in=ids)
        .order_by()
        .values_list("payment__order")
        .annotate(net=Sum("amount"))
    )
    confirmations = EmailMessage.objects.filter(order__in=ids, kind=EmailKind.CONFIRMATION, copy=0)
    return Background(trail, dict(charged), dict(confirmations.values_list("order", "pk")))


# --- orders that do not move -------------------------------------------------------------------------------


def _find_waiting() -> Iterable[Any]:
    """Orders with work left to do and no sign of it for too long, those first that have waited longest.

    Only orders in a running state are read, by the index on status, and the cancelled ones of late whose
    customer has not been told. Those with an open flag, or of which Temporal has not been told, stand in the
    queue already.
    """
    before = timezone.now() - timedelta(seconds=settings.ATTENTION_WAITING_AFTER)
    signs = (
        TrailEntry.objects.filter(order=OuterRef("pk"))
        .order_by()
        .values("order")
        .values(latest=Max(Coalesce("finished_at", "started_at")))
    )
    flagged = AttentionFlag.objects.filter(order=OuterRef("pk"), cleared_at=None)
    untold = OutboxMessage.objects.overdue().filter(order=OuterRef("pk"))
    told = TrailEntry.objects.filter(
        order=OuterRef("pk"), name="send_cancellation_email", state__in=FINISHED_STATES
    )
    forgotten = Order.objects.filter(
        ~Exists(told),
        status=OrderStatus.CANCELLED,
        rollback_started_at__gt=before - FORGOTTEN_FOR,
        rolled_back_at__lt=before,
    ).order_by()
    # As a list of its own, so that PostgreSQL can use an index for either half of the condition.
    ids = list(forgotten.values_list("pk", flat=True)[: LIMIT * 10])
    return (
        Order.objects.filter(Q(status__in=RUNNING) | Q(pk__in=ids), accepted_at__lt=before)
        .filter(~Exists(flagged), ~Exists(untold))
        # PostgreSQL's GREATEST leaves out what is NULL.
        .annotate(moved_at=Greatest("accepted_at", "rollback_started_at", Subquery(signs)))
        .filter(moved_at__lt=before)
        .annotate(of_kind=Window(Count("pk")))
        .order_by("moved_at")[:LIMIT]
    )


# --- audits, Temporal not told, approvals, stock ---------------------------------------------------------


def _find_audit() -> Iterable[Any]:
    """The latest audit, if it found something."""
    latest = AuditRun.objects.order_by("-pk").annotate(of_kind=Value(1))[:1]
    return [run for run in latest if run.violations]


def _find_untold() -> Iterable[Any]:
    return (
        OutboxMessage.objects.overdue()
        .select_related("order")
        .annotate(of_kind=Window(Count("pk")))
        .order_by("created_at", "pk")[:LIMIT]
    )


def _find_cancel_requests() -> Iterable[Any]:
    return (
        CancelRequest.objects.filter(state=CancelRequestState.AWAITING_APPROVAL)
        .select_related("order", "requested_by")
        .annotate(of_kind=Window(Count("pk")))
        .order_by("requested_at", "pk")[:LIMIT]
    )


def _find_low_stock() -> Iterable[Any]:
    """Products on sale with no more available than their mark; one that was never booked in has none."""
    return (
        Product.objects.filter(is_active=True)
        .annotate(left=Coalesce("stock__available", 0), held=Coalesce("stock__reserved", 0))
        .filter(left__lte=F("low_stock_at"))
        .annotate(of_kind=Window(Count("pk")))
        .order_by("left", "sku")[:LIMIT]
    )
