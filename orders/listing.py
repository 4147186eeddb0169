"""Reads behind the two lists of orders: search, what can be filtered by, and what a row shows."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, DecimalField, Exists, Max, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from inventory.models import Hold, HoldState, Product
from orders.models import (
    API_MARK,
    CUSTOMER,
    FINISHED_STATES,
    STEPS,
    ActionKind,
    ApiClient,
    AttentionFlag,
    CancelRequest,
    CancelRequestState,
    Order,
    OrderAction,
    OrderLine,
    OrderStatus,
    OutboxMessage,
    StepKind,
    TrailEntry,
)
from orders.refusals import CancelRequested
from payments.models import EventKind, Payment, PaymentEvent

# Each word costs a pass over the e-mail addresses and the SKUs; nobody types more.
MAX_WORDS = 6
A_NUMBER = re.compile(r"#?([0-9]{1,18})", re.ASCII)
# Also inside a workflow's id or a gateway's key.
AN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

WENT_FORWARD = (OrderStatus.COMPLETED, OrderStatus.SHIPPED)
IS_RUNNING = (OrderStatus.PENDING, OrderStatus.CREATED)
CANCELLED_BY_A_PERSON = CancelRequested.__name__


# --- search ----------------------------------------------------------------------------------------------


def search_orders(orders: QuerySet[Any], text: str, *, by_payment: bool) -> QuerySet[Any]:
    """Those of the orders that every word of `text` finds; none for more than MAX_WORDS words.

    A word finds a number, an id, a part of an e-mail address or SKU, or, `by_payment`, the whole of a
    payment's reference.
    """
    words = text.split()
    if len(words) > MAX_WORDS:
        return orders.none()
    for word in words:
        orders = orders.filter(_match_word(word, by_payment))
    return orders


def _match_word(word: str, by_payment: bool) -> Q:
    # EXISTS instead of joins: an order with several lines stays one row, and nothing must be made DISTINCT.
    # And instead of IN, which PostgreSQL reads anew for every order once it finds more than fits in memory.
    order = OuterRef("pk")
    found = Q(customer_email__icontains=word)
    if by_payment:
        events = PaymentEvent.objects.filter(payment__order=order, reference=word)
        found |= Q(Exists(Payment.objects.filter(order=order, charge_id=word).exclude(charge_id="")))
        found |= Q(Exists(events.exclude(reference="")))
    if skus := list(Product.objects.filter(sku__icontains=word).values_list("sku", flat=True)):
        found |= Q(Exists(OrderLine.objects.filter(order=order, sku__in=skus)))
    if number := A_NUMBER.fullmatch(word):
        found |= Q(number=int(number[1]))
    if order_id := AN_ID.search(word):
        found |= Q(pk=UUID(order_id[0]))
    return found


# --- what can be filtered by -----------------------------------------------------------------------------


def _is_told() -> Exists:
    """Whether the rollback's last undo, the cancellation mail, has come to its end."""
    return Exists(
        TrailEntry.objects.filter(
            order=OuterRef("pk"), name="send_cancellation_email", state__in=FINISHED_STATES
        )
    )


def _is_awaiting_approval() -> Exists:
    return Exists(
        CancelRequest.objects.filter(order=OuterRef("pk"), state=CancelRequestState.AWAITING_APPROVAL)
    )


def choose_saga() -> dict[str, tuple[str, Q]]:
    """By where the saga stands, in the words of `describe_progress`."""
    awaiting = CancelRequest.objects.filter(state=CancelRequestState.AWAITING_APPROVAL)
    return {
        "in_progress": ("In progress", Q(status__in=IS_RUNNING)),
        "completed": ("Completed", Q(status__in=WENT_FORWARD)),
        **choose_rollback(),
        "awaiting_approval": ("Cancel awaits approval", Q(pk__in=awaiting.order_by().values("order"))),
    }


def choose_rollback() -> dict[str, tuple[str, Q]]:
    """By whether the rollback has come to its end."""
    is_told = Q(_is_told())
    return {
        "rolled_back": ("Rolled back", Q(status=OrderStatus.CANCELLED) & is_told),
        "incomplete": (
            "Rollback incomplete",
            Q(status=OrderStatus.CANCELLING) | Q(status=OrderStatus.CANCELLED) & ~is_told,
        ),
    }


def choose_attention() -> dict[str, tuple[str, Q]]:
    """By whether a person is needed, as OrderQuerySet.with_attention says it."""
    flagged = AttentionFlag.objects.filter(order=OuterRef("pk"), cleared_at=None)
    untold = OutboxMessage.objects.overdue().filter(order=OuterRef("pk"))
    needed = Q(Exists(flagged)) | Q(Exists(untold))
    return {"1": ("Yes", needed), "0": ("No", ~needed)}


def choose_client() -> dict[str, tuple[str, Q]]:
    """By the client of the API that placed it; nothing to choose from where there are none."""
    clients = {
        str(pk): (f"{name} (API)", Q(client=pk)) for pk, name in ApiClient.objects.values_list("pk", "name")
    }
    return {"none": ("None: staff, storefront", Q(client=None)), **clients} if clients else {}


def choose_failed_step() -> dict[str, tuple[str, Q]]:
    """By the step that failed; a cancel by a person is no failure of the step it came upon."""
    return {
        **{step: (step, Q(failed_step=step) & ~Q(failure_type=CANCELLED_BY_A_PERSON)) for step in STEPS},
        "cancelled": ("cancelled", Q(failure_type=CANCELLED_BY_A_PERSON)),
    }


def choose_error_type() -> dict[str, tuple[str, Q]]:
    """By the type of the error: those that have occurred."""
    types = (
        Order.objects.filter(rollback_started_at__isnull=False)
        .exclude(failure_type="")
        .order_by("failure_type")
        .values_list("failure_type", flat=True)
        .distinct()
    )
    return {name: (name, Q(failure_type=name)) for name in types}


def choose_trigger() -> dict[str, tuple[str, Q]]:
    """By who began the rollback, as `describe_trigger` says it."""
    cancels = OrderAction.objects.filter(order=OuterRef("pk"), kind=ActionKind.CANCEL)
    by_customer = Q(placed_by__is_staff=False) & Q(
        Exists(cancels.filter(actor=OuterRef("placed_by__username")))
    ) | Q(Exists(cancels.filter(Q(actor=CUSTOMER) | Q(actor__endswith=API_MARK))))
    cancelled = Q(failure_type=CANCELLED_BY_A_PERSON)
    return {
        "person": ("A member of staff", cancelled & ~by_customer),
        "customer": ("The customer", cancelled & by_customer),
        "saga": ("The saga", ~cancelled),
    }


# --- what a row shows ------------------------------------------------------------------------------------


def list_rows(page: QuerySet[Any]) -> QuerySet[Any]:
    """The orders of one page with all that a row shows, as annotations.

    The page is found first, by itself: what a row shows is then read for its rows only, and not for all
    those that an OFFSET skips.
    """
    rows: QuerySet[Any] = (
        page.model._default_manager.filter(pk__in=page.values("pk"))
        .with_attention()
        .annotate(
            steps_done=_count_steps(),
            is_told=_is_told(),
            is_awaiting_approval=_is_awaiting_approval(),
        )
        .order_by(*page.query.order_by)
    )
    return rows


def list_rollback_rows(page: QuerySet[Any], *, sees_money: bool, sees_deeds: bool) -> QuerySet[Any]:
    """As `list_rows`, with what was given back, when the last undo ended, and who began it and why: money
    and names for those only who may see them."""
    undos = TrailEntry.objects.filter(
        order=OuterRef("pk"), kind=StepKind.UNDO, state__in=FINISHED_STATES
    ).order_by()
    released = Hold.objects.filter(
        order=OuterRef("pk"), state__in=[HoldState.RELEASED, HoldState.SETTLED_BY_HAND]
    ).order_by()
    cancels = OrderAction.objects.filter(order=OuterRef("pk"), kind=ActionKind.CANCEL)
    approved = CancelRequest.objects.filter(order=OuterRef("pk"), state=CancelRequestState.APPROVED)
    rows: QuerySet[Any] = (
        list_rows(page)
        .select_related("placed_by")
        .annotate(
            refunded=_add_up_refunds() if sees_money else Value(None, DecimalField()),
            is_named=Value(sees_deeds),
            units_released=Coalesce(Subquery(released.values("order").values(units=Sum("quantity"))), 0),
            undone_at=Subquery(undos.values("order").values(last=Max("finished_at"))),
            cancelled_by=Subquery(cancels.values("actor")[:1]),
            cancel_reason=Subquery(cancels.values("reason")[:1]),
            requested_by=Subquery(approved.values("requested_by__username")[:1]),
            approved_by=Subquery(approved.values("decided_by__username")[:1]),
            request_reason=Subquery(approved.values("reason")[:1]),
        )
    )
    return rows


def _count_steps() -> Coalesce:
    """How many of the order's steps are done."""
    done = TrailEntry.objects.filter(
        order=OuterRef("pk"), kind=StepKind.STEP, state__in=FINISHED_STATES
    ).order_by()
    return Coalesce(Subquery(done.values("order").values(count=Count("pk"))), 0)


def _add_up_refunds() -> Coalesce:
    """What the order's customer got back, by the ledger."""
    events = PaymentEvent.objects.filter(
        payment__order=OuterRef("pk"), kind__in=[EventKind.REFUNDED, EventKind.SETTLED_OUTSIDE]
    ).order_by()
    return Coalesce(Subquery(events.values("payment__order").values(sum=-Sum("amount"))), Decimal("0.00"))


def list_exported(orders: QuerySet[Any]) -> QuerySet[Any]:
    """The orders with what a line of the export holds, in their order."""
    rows: QuerySet[Any] = orders.annotate(
        steps_done=_count_steps(), is_told=_is_told(), refunded=_add_up_refunds()
    )
    return rows


def describe_progress(*, status: str, steps_done: int, is_told: bool) -> str:
    """Where the saga stands: `3/5` on its way forward, `rolled back` only once every undo has come to its
    end and the customer is told, ROLLBACK INCOMPLETE until then."""
    if status in IS_RUNNING:
        return f"{steps_done}/{len(STEPS)}"
    if status in WENT_FORWARD:
        return f"{len(STEPS)}/{len(STEPS)}"
    return "rolled back" if status == OrderStatus.CANCELLED and is_told else "ROLLBACK INCOMPLETE"


def describe_trigger(row: Any) -> tuple[str, str]:
    """Who began the rollback of a row of `list_rollback_rows`, and the reason they gave. To those who may
    not see who did what: whether it was staff or the customer."""
    if row.failure_type != CANCELLED_BY_A_PERSON:
        return "the saga", ""
    if row.approved_by and row.is_named:
        return f"{row.requested_by}, approved by {row.approved_by}", row.request_reason
    if row.cancelled_by is None:
        return "a cancel in Temporal", ""
    placed_by = row.placed_by
    is_customer = row.cancelled_by == CUSTOMER or (
        placed_by and not placed_by.is_staff and placed_by.username == row.cancelled_by
    )
    # The shop that placed it, on the customer's behalf.
    is_client = row.client_id is not None and row.cancelled_by.endswith(API_MARK)
    if not row.is_named:
        return "the customer" if is_customer or is_client else "a member of staff", ""
    return "the customer" if is_customer else row.cancelled_by, row.cancel_reason


def find_rollback_end(row: Any) -> datetime | None:
    """When the last undo of a row of `list_rollback_rows` ended; None while the rollback is incomplete."""
    end: datetime | None = row.undone_at
    return end if row.status == OrderStatus.CANCELLED and row.is_told else None
