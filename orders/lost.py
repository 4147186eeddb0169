"""Sagas that Temporal has lost: which orders to ask it about, and the decision to roll such an order back."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Subquery
from django.db.models.functions import Coalesce, Greatest, Now
from django.utils import timezone

from orders.models import (
    FINISHED_STATES,
    SAGA_LOST,
    STARTS,
    STEPS,
    AttentionFlag,
    Order,
    OrderQuerySet,
    OrderStatus,
    OutboxKind,
    OutboxMessage,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.refusals import CancelRequested
from orders.services import CANCEL_SAGA, PLACE_SAGA, move_order, tell_temporal

ON_THEIR_WAY = (OrderStatus.PENDING, OrderStatus.CREATED, OrderStatus.CANCELLING)
# For how long a cancelled order is looked at whose customer has not been told.
UNTOLD_FOR = timedelta(days=30)
# How many orders of each kind one round asks about; those without a sign for longest come first.
LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Suspect:
    """An order on its way without a sign for long, and the saga that Temporal was last told to start for it.

    `message_id` is that telling. While it is the last one, what is found out about `workflow_id` is about
    the saga that has the order now.
    """

    order_id: UUID
    number: int
    message_id: int
    workflow_id: str


def list_suspects(*, order_id: UUID | None = None) -> list[Suspect]:
    """The orders, or this one, that have work left to do and have shown no sign of it for REPAIR_AFTER
    seconds. A cancelled order whose customer was not told has work left, too.

    Left out are those whose saga Temporal has yet to be told of: nothing of theirs can be lost.
    """
    told = TrailEntry.objects.filter(
        order=OuterRef("pk"), name="send_cancellation_email", state__in=FINISHED_STATES
    )
    untold = Order.objects.filter(
        ~Exists(told), status=OrderStatus.CANCELLED, rollback_started_at__gt=Now() - UNTOLD_FOR
    )
    on_their_way = Order.objects.filter(status__in=ON_THEIR_WAY)
    # One after the other, so that PostgreSQL has an index for each.
    return [*_read_silent(on_their_way, order_id), *_read_silent(untold, order_id)]


def _read_silent(orders: OrderQuerySet, order_id: UUID | None) -> list[Suspect]:
    if order_id is not None:
        orders = orders.filter(pk=order_id)
    before = Now() - timedelta(seconds=settings.REPAIR_AFTER)
    signs = (
        TrailEntry.objects.filter(order=OuterRef("pk"))
        .order_by()
        .values("order")
        .values(latest=Max(Coalesce("finished_at", "started_at")))
    )
    starts = OutboxMessage.objects.filter(
        order=OuterRef("pk"), kind__in=STARTS, name__in=[PLACE_SAGA, CANCEL_SAGA]
    ).order_by("-pk")
    silent = (
        orders.annotate(
            # PostgreSQL's GREATEST leaves out what is NULL.
            moved_at=Greatest("accepted_at", "rollback_started_at", Subquery(signs)),
            message=Subquery(starts.values("pk")[:1]),
            workflow=Subquery(starts.values("workflow_id")[:1]),
            told_at=Subquery(starts.values("delivered_at")[:1]),
        )
        .filter(moved_at__lt=before, told_at__lt=before)
        .order_by("moved_at", "pk")
    )
    rows = silent.values_list("pk", "number", "message", "workflow")[:LIMIT]
    return [Suspect(*row) for row in rows]


@transaction.atomic
def declare_lost(*, suspect: Suspect, why: str) -> OutboxMessage | None:
    """Roll the order back in the place of its lost saga: move it to `cancelling`, say so in its trail and in
    the attention queue, and write the message that starts CancelOrderSaga. `why` is what Temporal answered.

    Locks the order's row. Returns None, and changes nothing, when the order has moved or its saga has been
    started anew since it was suspected: it has come to its end by itself, somebody has cancelled it, or
    another worker was faster. `complete_order` loses to this as to a cancel.
    """
    order = Order.objects.select_for_update(no_key=True).get(pk=suspect.order_id)
    # Read again under the lock: Temporal was asked after the first look, and the saga may have ended between.
    if list_suspects(order_id=order.pk) != [suspect]:
        return None
    now = timezone.now()
    done = TrailEntry.objects.filter(order=order, state__in=FINISHED_STATES).values_list("name", flat=True)
    move_order(
        order.pk,
        OrderStatus.CANCELLING,
        rollback_started_at=now,
        failed_step=next((step for step in STEPS if step not in set(done)), ""),
        # Whoever had asked for a cancel gets what was asked for.
        failure_type=CancelRequested.__name__ if order.cancel_requested_at else "SagaLost",
        failure=f"Temporal had no running saga for it any more: {why}",
    )
    TrailEntry.objects.create(
        order=order,
        name=SAGA_LOST,
        kind=StepKind.SAGA,
        state=StepState.LOST,
        started_at=now,
        finished_at=now,
        error_type="SagaLost",
        error=f"{suspect.workflow_id}: {why}. CancelOrderSaga was started in its place.",
    )
    AttentionFlag.objects.raise_flag(
        order.pk,
        SAGA_LOST,
        f"Temporal had no running saga for it any more ({suspect.workflow_id}: {why}). "
        "It is rolled back by CancelOrderSaga, which was started in its place.",
    )
    # What the lost saga was still to be told, its successor reads from the database.
    OutboxMessage.objects.filter(order=order, kind=OutboxKind.SIGNAL, delivered_at=None).update(
        delivered_at=now, last_error="its saga was lost; the rollback in its place knows of it"
    )
    return tell_temporal(
        order, kind=OutboxKind.REPAIR, name=CANCEL_SAGA, workflow_id=f"order-{order.pk}-cancel"
    )
