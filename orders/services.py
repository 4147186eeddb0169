"""All writes to orders: accepting, moving between statuses, and what people ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import connection, transaction
from django.utils import timezone

from config.requests import read_request_id
from inventory import selectors as inventory_selectors
from inventory import services as inventory_services
from orders.models import (
    ALLOWED_MOVES,
    ALREADY_FINAL,
    STEPS,
    ActionKind,
    ApiClient,
    AttentionFlag,
    CancelRequest,
    CancelRequestState,
    Order,
    OrderAction,
    OrderStatus,
    OutboxKind,
    OutboxMessage,
    StepKey,
    StepKind,
    StepState,
    TrailEntry,
    WebhookDelivery,
    WebhookEvent,
    under_key,
)
from orders.refusals import AlreadyUndone, CancelRequested, OrderNotSellable, StateConflict

MAX_LINES = 100
MAX_QUANTITY = 10_000
MAX_TOTAL = Decimal("9999999999.99")

PLACE_SAGA = "PlaceOrderSaga"
CANCEL_SAGA = "CancelOrderSaga"


class InvalidOrder(Exception):
    """The order cannot be accepted as asked. `errors` maps a field (`items.0.sku`) to what to do about it."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors.items()))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked for: a SKU and a quantity (at least 1)."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a service decided: the order as it is now, whether this call changed it, what Temporal is told.

    `awaiting` is the request that a second person has to approve before anything happens.
    """

    order: Order
    changed: bool
    message: OutboxMessage | None = None
    awaiting: CancelRequest | None = None


# --- accepting -------------------------------------------------------------------------------------------

_ADD_LINES = """
    WITH action AS (
        INSERT INTO orders_orderaction (order_id, kind, actor, reason, undo, reference)
        VALUES (%(order_id)s, 'place_order', %(actor)s, '', '', '')
    )
    INSERT INTO orders_orderline (order_id, sku, name, unit_price, quantity)
    SELECT %(order_id)s, sku, name, unit_price, quantity
    FROM unnest(%(skus)s::text[], %(names)s::text[], %(prices)s::numeric[], %(quantities)s::integer[])
        AS line (sku, name, unit_price, quantity)
"""


@transaction.atomic(savepoint=False)
def accept_order(
    *,
    customer_email: str,
    items: Sequence[Item],
    actor: str,
    placed_by: User | None = None,
    client: ApiClient | None = None,
    payment_token: str = "",
    order_id: UUID | None = None,
) -> Decision:
    """Accept an order: order, lines and the outbox row that starts its saga, in one transaction.

    Prices and total are frozen here. Items of one SKU are added up. Takes no lock: stock is the saga's
    business. A caller that names the `order_id` may repeat itself: the primary key lets one order through,
    and the second call answers with it, unchanged. Raises InvalidOrder naming every bad field.
    """
    errors: dict[str, str] = {}
    try:
        validate_email(customer_email)
    except ValidationError:
        errors["customer_email"] = "Give an e-mail address, for example ada@example.com."
    # Outside ASCII: that needs a mail server with SMTPUTF8, which nobody promises us. Control characters,
    # which quotes may hold, would break the mail's header.
    if not (customer_email.isascii() and customer_email.isprintable()):
        errors["customer_email"] = (
            "Give an e-mail address in plain letters without accents, for example ada@example.com. "
            "A domain such as bücher.example has one, too: xn--bcher-kva.example."
        )
    if len(customer_email) > 254:
        errors["customer_email"] = "An e-mail address has at most 254 characters."
    if len(payment_token) > 200 or not (payment_token.isascii() and payment_token.isprintable()):
        errors["payment_token"] = "A payment token has at most 200 printable ASCII characters."  # noqa: S105
    if not 1 <= len(items) <= MAX_LINES:
        errors["items"] = f"Order between 1 and {MAX_LINES} lines."
    quantities: dict[str, int] = {}
    products = inventory_selectors.find_sold_products({item.sku for item in items if item.sku.isprintable()})
    for index, item in enumerate(items):
        if item.sku not in products:
            errors[f"items.{index}.sku"] = f"There is no product {item.sku!r} on sale."
        if type(item.quantity) is not int:
            errors[f"items.{index}.quantity"] = "A quantity is a whole number."
            continue
        quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        if not 1 <= item.quantity <= MAX_QUANTITY or quantities[item.sku] > MAX_QUANTITY:
            errors[f"items.{index}.quantity"] = f"Order between 1 and {MAX_QUANTITY} units."
    total = Decimal(0)
    if not errors:
        total = sum((products[sku].price * quantity for sku, quantity in quantities.items()), Decimal(0))
        if total == 0:
            errors["items"] = (
                "The order's total is 0.00, and a payment takes at least 0.01: add something with a price."
            )
        if total > MAX_TOTAL:
            errors["items"] = f"The order's total is above {MAX_TOTAL}; split it into several orders."
    if errors:
        raise InvalidOrder(errors)

    order = Order(
        pk=order_id or uuid4(),
        customer_email=customer_email,
        currency=settings.SHOP_CURRENCY,
        total=total,
        payment_token=payment_token or settings.PAYMENT_DEFAULT_TOKEN,
        placed_by=placed_by,
        client=client,
    )
    if not Order.objects.add(order):
        return Decision(order=Order.objects.get(pk=order.pk), changed=False)
    with connection.cursor() as cursor:
        lines: dict[str, list[Any]] = {
            "skus": list(quantities),
            "names": [products[sku].name for sku in quantities],
            "prices": [products[sku].price for sku in quantities],
            "quantities": list(quantities.values()),
        }
        cursor.execute(_ADD_LINES, {"order_id": order.pk, "actor": actor, **lines})
    message = tell_temporal(order, kind=OutboxKind.START, name=PLACE_SAGA, workflow_id=f"order-{order.pk}")
    return Decision(order=order, changed=True, message=message)


def tell_temporal(
    order: Order, *, kind: OutboxKind, name: str, workflow_id: str, argument: str = ""
) -> OutboxMessage:
    """Write an outbox row, leased to the worker that hears of it at the commit."""
    message = OutboxMessage(
        order=order,
        kind=kind,
        name=name,
        workflow_id=workflow_id,
        argument=argument,
        request_id=read_request_id(),
        next_attempt_at=timezone.now() + timedelta(seconds=settings.OUTBOX_FIRST_LEASE),
    )
    OutboxMessage.objects.add(message)
    return message


def list_sources(to: OrderStatus) -> list[str]:
    """The statuses from which an order may move to this one."""
    return [str(status) for status, targets in ALLOWED_MOVES.items() if to in targets]


def move_order(order_id: UUID | str, to: OrderStatus, **changes: Any) -> bool:
    """Move the order by one conditional UPDATE along ALLOWED_MOVES. Returns whether it moved."""
    order = Order.objects.filter(pk=order_id, status__in=list_sources(to))
    return bool(order.update(status=to, **changes))


# --- steps of the saga -----------------------------------------------------------------------------------


# Moves the order, and answers with it as it was, beside what its lines add up to and the SKUs among them that
# are not on sale: whoever refuses it by that rolls the move back.
_CREATE = under_key("""
    , created AS (
        UPDATE orders_order SET status = 'created' FROM key
        WHERE orders_order.id = key.order_id AND status = ANY(%(sources)s)
    )
    SELECT key.undone_at, "order".status, "order".total, COALESCE(sum(line.unit_price * line.quantity), 0),
           array_agg(line.sku) FILTER (WHERE product.id IS NULL)
    FROM key
    JOIN orders_order AS "order" ON "order".id = key.order_id
    LEFT JOIN orders_orderline AS line ON line.order_id = "order".id
    LEFT JOIN inventory_product AS product ON product.sku = line.sku AND product.is_active
    GROUP BY key.undone_at, "order".id
""")
# Answers with what a complete order leaves to be seen to; mostly nothing.
_COMPLETE = """
    WITH completed AS (
        UPDATE "orders_order" SET status = 'completed', completed_at = %(now)s
        WHERE id = %(order_id)s AND status = 'created' AND cancel_requested_at IS NULL
        RETURNING client_id
    )
    SELECT client_id,
        EXISTS (
            SELECT FROM orders_trailentry
            WHERE order_id = %(order_id)s AND kind = 'step' AND state = 'running'
        ),
        EXISTS (
            SELECT FROM orders_attentionflag
            WHERE order_id = %(order_id)s AND subject = ANY(%(steps)s) AND cleared_at IS NULL
        ),
        EXISTS (
            SELECT FROM notifications_emailmessage
            WHERE order_id = %(order_id)s AND kind = 'confirmation' AND state = 'sent'
        )
    FROM completed
"""


@transaction.atomic(savepoint=False)
def create_order(*, order_id: UUID | str) -> str | None:
    """Check the order and move it `pending -> created`. Never changes an amount. Locks the step key.

    Returns ALREADY_FINAL when the order is complete, None otherwise. Raises OrderNotSellable, or
    AlreadyUndone when the order has turned back: a worker that died has carried its rollback so far, and no
    history of it is left.
    """
    key = {"order_id": order_id, "step": "create_order", "undone_at": None}
    with connection.cursor() as cursor:
        cursor.execute(_CREATE, {**key, "sources": list_sources(OrderStatus.CREATED)})
        row = cursor.fetchone()
    if row is None:
        raise Order.DoesNotExist(f"there is no order {order_id}")
    undone_at, status, total, sum_of_lines, missing = row
    if status in (OrderStatus.COMPLETED, OrderStatus.SHIPPED):
        return ALREADY_FINAL
    StepKey.objects.refuse_undone("create_order", undone_at, status)
    if sum_of_lines != total:
        raise OrderNotSellable(f"the lines add up to {sum_of_lines}, the order says {total}")
    if missing:
        raise OrderNotSellable(f"not on sale: {', '.join(sorted(missing))}")
    return None


@transaction.atomic(savepoint=False)
def complete_order(*, order_id: UUID | str) -> None:
    """Move `created -> completed`, unless a cancel was requested. One conditional UPDATE decides the race.

    A confirmation mail that could not be delivered (allowed when the policy says so) is flagged.
    Raises CancelRequested, or AlreadyUndone when the rollback has begun.
    """
    with connection.cursor() as cursor:
        completing = {"order_id": order_id, "now": timezone.now(), "steps": list(STEPS)}
        cursor.execute(_COMPLETE, completing)
        row = cursor.fetchone()
    if row is None:
        order = Order.objects.get(pk=order_id)
        if order.status in (OrderStatus.COMPLETED, OrderStatus.SHIPPED):
            return
        if order.status == OrderStatus.CREATED:
            raise CancelRequested("a cancel was requested before the order was complete")
        raise AlreadyUndone(f"the order is {order.status}")
    client_id, is_running, is_flagged, is_told = row
    if client_id is not None:  # only a machine client can have asked to be told
        WebhookDelivery.objects.publish(order_id, WebhookEvent.COMPLETED)
    if is_running:
        close_running_steps(order_id)
    if is_flagged:
        AttentionFlag.objects.clear_flag(order_id, *STEPS)
    if not is_told:
        AttentionFlag.objects.raise_flag(
            order_id,
            "send_confirmation_email",
            "The order is complete, but its confirmation mail was not sent.",
        )


def close_running_steps(order_id: UUID | str) -> None:
    """Close the rows of steps that will never report back any more."""
    TrailEntry.objects.filter(order_id=order_id, kind=StepKind.STEP, state=StepState.RUNNING).update(
        state=StepState.LOST, finished_at=timezone.now()
    )


# --- what people ask for ---------------------------------------------------------------------------------


@transaction.atomic
def request_cancel(*, order_id: UUID | str, actor: str, reason: str) -> Decision:
    """Cancel an order, as far as its state allows. Locks the order's row.

    A running order gets a cancel request that `complete_order` loses to, and its saga a signal. A
    completed one moves to `cancelling` and CancelOrderSaga is started. One that is being cancelled or
    is cancelled stays as it is. Raises StateConflict for a shipped one.
    """
    order = Order.objects.select_for_update(no_key=True).get(pk=order_id)
    if order.status == OrderStatus.SHIPPED:
        raise StateConflict(f"Order {order.number} has been shipped and can no longer be cancelled.")
    if order.status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED) or order.cancel_requested_at:
        return Decision(order=order, changed=False)
    OrderAction.objects.create(order=order, kind=ActionKind.CANCEL, actor=actor, reason=reason)
    now = timezone.now()
    Order.objects.filter(pk=order_id).update(cancel_requested_at=now)
    lapse_cancel_requests(order_id)
    if order.status == OrderStatus.COMPLETED:
        move_order(
            order_id,
            OrderStatus.CANCELLING,
            rollback_started_at=now,
            failure_type=CancelRequested.__name__,
            failure=f"cancelled by {actor}",
        )
        message = tell_temporal(
            order, kind=OutboxKind.START, name=CANCEL_SAGA, workflow_id=f"order-{order.pk}-cancel"
        )
    else:
        message = tell_temporal(order, kind=OutboxKind.SIGNAL, name="cancel", workflow_id=f"order-{order.pk}")
    order.refresh_from_db()
    return Decision(order=order, changed=True, message=message)


def lapse_cancel_requests(order_id: UUID | str) -> None:
    """Close requests nobody has decided: the order is cancelled another way. The caller holds its row."""
    CancelRequest.objects.filter(order_id=order_id, state=CancelRequestState.AWAITING_APPROVAL).update(
        state=CancelRequestState.LAPSED, decided_at=timezone.now()
    )


@transaction.atomic
def ship_order(*, order_id: UUID | str, actor: str, reason: str = "") -> Decision:
    """Mark a completed order as shipped and turn its holds into sales. The conditional UPDATE of the
    order's row comes first, so shipping and cancelling cannot both win.

    Raises StateConflict for an order that is not completed, or whose cancel awaits approval. Shipping a
    shipped one changes nothing.
    """
    shipped = move_order(order_id, OrderStatus.SHIPPED, shipped_at=timezone.now())
    order = Order.objects.get(pk=order_id)
    if not shipped:
        if order.status == OrderStatus.SHIPPED:
            return Decision(order=order, changed=False)
        raise StateConflict(f"Order {order.number} is {order.status}; only a completed order can be shipped.")
    if order.cancel_requests.filter(state=CancelRequestState.AWAITING_APPROVAL).exists():
        raise StateConflict(
            f"A cancel of order {order.number} awaits approval; that has to be decided first."
        )
    inventory_services.sell_holds(order_id=order_id)
    OrderAction.objects.create(order=order, kind=ActionKind.SHIP, actor=actor, reason=reason)
    return Decision(order=order, changed=True)
