"""All writes to products, stock and holds. Every change of stock appends a movement."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models import F

from inventory.models import Hold, HoldState, MovementKind, Product, StockItem, StockMovement
from orders.models import StepKey, StepState
from orders.refusals import OutOfStock, StateConflict

# What a count in the database can hold.
MAX_ON_HAND = 2_147_483_647


class Booking(models.TextChoices):
    """What a person who books stock has seen."""

    RECEIVED = "received", "Units came in"
    FOUND = "found", "Units were found"
    MISSING = "missing", "Units are missing or broken"
    COUNTED = "counted", "I counted the shelf"


@dataclass(frozen=True, slots=True)
class BookingPlan:
    """What a booking changes, and the stock before it."""

    change: int
    on_hand: int
    held: int

    @property
    def on_hand_after(self) -> int:
        return self.on_hand + self.change

    @property
    def available_after(self) -> int:
        return self.on_hand_after - self.held


class WantedLine(NamedTuple):
    """A line of an order that has no holds yet. `product_id` is None where no product has the SKU."""

    sku: str
    quantity: int
    product_id: int | None


_LIST_WANTED = """
    SELECT line.sku, line.quantity, product.id
    FROM orders_orderline AS line
    LEFT JOIN inventory_product AS product ON product.sku = line.sku
    WHERE line.order_id = %s
      AND NOT EXISTS (SELECT FROM inventory_hold AS hold WHERE hold.order_id = line.order_id)
    ORDER BY line.sku
"""
_TAKE_STOCK = """
    UPDATE inventory_stockitem SET reserved = reserved + %(quantity)s
    WHERE product_id = %(product_id)s AND available >= %(quantity)s
"""
_HOLD = """
    WITH held AS (
        INSERT INTO inventory_hold (order_id, product_id, quantity, state)
        SELECT %s::uuid, line.product_id, line.quantity, 'held'
        FROM unnest(%s::bigint[], %s::integer[]) AS line (product_id, quantity)
        RETURNING order_id, product_id, quantity
    )
    INSERT INTO inventory_stockmovement (order_id, product_id, kind, on_hand_change, reserved_change, note)
    SELECT order_id, product_id, 'reserved', 0, quantity, '' FROM held
"""

_LIST_HOLDS = """
    SELECT hold.id, hold.product_id, hold.quantity, hold.state
    FROM inventory_hold AS hold JOIN inventory_product AS product ON product.id = hold.product_id
    WHERE hold.order_id = %s
    ORDER BY product.sku
"""
_GIVE_BACK = "UPDATE inventory_stockitem SET reserved = reserved - %s WHERE product_id = %s"
_CLOSE_HOLDS = """
    WITH closed AS (
        UPDATE inventory_hold SET state = %(state)s::text WHERE id = ANY(%(holds)s::bigint[])
    )
    INSERT INTO inventory_stockmovement (order_id, product_id, kind, on_hand_change, reserved_change, note)
    SELECT %(order_id)s::uuid, line.product_id, %(kind)s::text, 0, -line.quantity, ''
    FROM unnest(%(products)s::bigint[], %(quantities)s::integer[]) AS line (product_id, quantity)
"""


@transaction.atomic(savepoint=False)
def reserve_inventory(*, order_id: UUID | str) -> None:
    """Hold every line of the order, or none. Repeating it changes nothing.

    Locks the step key, then one stock row per SKU in SKU order, so that two orders never wait for each
    other in a circle. Raises OutOfStock naming the line, AlreadyUndone after the release.
    """
    StepKey.objects.lock_step(order_id, "reserve_inventory")
    lines = list_wanted(order_id)
    for line in lines:
        if not take_stock(line):
            stock = StockItem.objects.filter(product__sku=line.sku)
            available = stock.values_list("available", flat=True).first()
            raise OutOfStock(f"{line.sku}: {line.quantity} ordered, {available or 0} available")
    with connection.cursor() as cursor:
        products, quantities = [line.product_id for line in lines], [line.quantity for line in lines]
        cursor.execute(_HOLD, [order_id, products, quantities])


def list_wanted(order_id: UUID | str) -> list[WantedLine]:
    """The order's lines by SKU; none when it has holds, in whatever state."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST_WANTED, [order_id])
        return [WantedLine(*row) for row in cursor.fetchall()]


def take_stock(line: WantedLine) -> bool:
    """Take the line's units from what is available, by one conditional UPDATE. Returns whether there were
    enough. Locks the stock row."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_STOCK, {"quantity": line.quantity, "product_id": line.product_id})
        return bool(cursor.rowcount)


@transaction.atomic(savepoint=False)
def release_inventory(*, order_id: UUID | str) -> StepState:
    """Give the order's holds back. Returns what there was to undo. Repeating it changes nothing.

    Writes the tombstone of `reserve_inventory` under its key, then locks stock rows in SKU order.
    """
    key = StepKey.objects.lock_undo(order_id, "reserve_inventory")
    if key.resolved_at is not None:
        return StepState.RESOLVED
    return _give_back(order_id=order_id, kind=MovementKind.RELEASED, state=HoldState.RELEASED)


@transaction.atomic
def settle_holds_by_hand(*, order_id: UUID | str) -> None:
    """Book the order's holds as settled by a person, in place of a release that is stuck.

    The caller holds the key of `reserve_inventory`.
    """
    _give_back(order_id=order_id, kind=MovementKind.SETTLED_BY_HAND, state=HoldState.SETTLED_BY_HAND)


def _give_back(*, order_id: UUID | str, kind: MovementKind, state: HoldState) -> StepState:
    with connection.cursor() as cursor:
        cursor.execute(_LIST_HOLDS, [order_id])
        holds = cursor.fetchall()
        if not holds:
            return StepState.NOTHING_TO_UNDO
        held = [hold[:3] for hold in holds if hold[3] == HoldState.HELD]
        for _, product_id, quantity in held:
            cursor.execute(_GIVE_BACK, [quantity, product_id])
        if held:
            ids, products, quantities = (list(column) for column in zip(*held, strict=True))
            closing: dict[str, Any] = {"order_id": order_id, "kind": kind.value, "state": state.value}
            lines = {"holds": ids, "products": products, "quantities": quantities}
            cursor.execute(_CLOSE_HOLDS, {**closing, **lines})
    return StepState.DONE


@transaction.atomic
def sell_holds(*, order_id: UUID | str) -> None:
    """Turn the order's holds into sales: the goods leave the house. The caller holds the order's row."""
    holds = list(
        Hold.objects.filter(order_id=order_id, state=HoldState.HELD)
        .select_related("product")
        .order_by("product__sku")
    )
    for hold in holds:
        StockItem.objects.filter(product_id=hold.product_id).update(
            on_hand=F("on_hand") - hold.quantity, reserved=F("reserved") - hold.quantity
        )
    StockMovement.objects.bulk_create(
        [
            StockMovement(
                product_id=hold.product_id,
                order_id=order_id,
                kind=MovementKind.SOLD,
                on_hand_change=-hold.quantity,
                reserved_change=-hold.quantity,
            )
            for hold in holds
        ]
    )
    Hold.objects.filter(pk__in=[hold.pk for hold in holds]).update(state=HoldState.SOLD)


@transaction.atomic
def create_product(*, product: Product) -> None:
    """Save a new product together with its stock, which is empty."""
    product.save(force_insert=True)
    StockItem.objects.create(product=product)


def plan_booking(*, item: StockItem, booking: str, units: int) -> BookingPlan:
    """What booking `units` would do to the stock. Changes nothing.

    Raises StateConflict when nothing would change, or fewer would remain than orders hold.
    """
    match Booking(booking):
        case Booking.COUNTED:
            change = units - item.on_hand
        case Booking.MISSING:
            change = -units
        case _:
            change = units
    plan = BookingPlan(change=change, on_hand=item.on_hand, held=item.reserved)
    if change == 0:
        raise StateConflict(f"{item.on_hand} are on hand as it is: this changes nothing.")
    if plan.on_hand_after > MAX_ON_HAND:
        raise StateConflict(f"More than {MAX_ON_HAND} units cannot be on hand.")
    if plan.available_after < 0:
        raise StateConflict(_say_held(item))
    return plan


def _say_held(item: StockItem) -> str:
    return (
        f"Fewer units would remain than orders hold: {item.on_hand} are on hand and {item.reserved} of them "
        "are held. Cancel or ship those orders first."
    )


@transaction.atomic
def book_stock(
    *, product_id: int, booking: str, units: int, on_hand: int, note: str, actor: str
) -> BookingPlan:
    """Book what a person (`actor`) saw, who was shown `on_hand` units. Makes and locks the stock row.

    Raises StateConflict when another number is on hand by now (so a form sent twice books once), when
    nothing would change, or when fewer would remain than orders hold.
    """
    StockItem.objects.get_or_create(product_id=product_id)
    item = StockItem.objects.select_for_update().get(product_id=product_id)
    if item.on_hand != on_hand:
        raise StateConflict(
            f"Nothing was booked: {item.on_hand} units are on hand now, not {on_hand} as you were shown. "
            "Somebody else, or this form sent before, was faster. Look at the movements and book again."
        )
    plan = plan_booking(item=item, booking=booking, units=units)
    if booking == Booking.RECEIVED:
        receive_stock(product_id=product_id, quantity=plan.change, note=note, actor=actor)
    else:
        adjust_stock(product_id=product_id, change=plan.change, note=note, actor=actor)
    return plan


@transaction.atomic
def receive_stock(*, product_id: int, quantity: int, note: str = "", actor: str = "") -> None:
    """Book `quantity` (at least 1) units in. Makes and locks the stock row."""
    if quantity < 1:
        raise ValueError("receive at least one unit")
    StockItem.objects.get_or_create(product_id=product_id)
    StockItem.objects.filter(product_id=product_id).update(on_hand=F("on_hand") + quantity)
    StockMovement.objects.create(
        product_id=product_id, kind=MovementKind.RECEIVED, on_hand_change=quantity, note=note, actor=actor
    )


@transaction.atomic
def adjust_stock(*, product_id: int, change: int, note: str, actor: str = "") -> None:
    """Correct the stock on hand by `change` units, never below what is held. Locks the stock row.

    Raises StateConflict when fewer would remain than orders hold.
    """
    changed = StockItem.objects.filter(product_id=product_id, available__gte=-change).update(
        on_hand=F("on_hand") + change
    )
    if not changed:
        item = StockItem.objects.filter(product_id=product_id).first()
        raise StateConflict(_say_held(item or StockItem(product_id=product_id)))
    StockMovement.objects.create(
        product_id=product_id, kind=MovementKind.ADJUSTED, on_hand_change=change, note=note, actor=actor
    )


@transaction.atomic
def top_up_stock(*, targets: Iterable[tuple[int, int]], note: str) -> int:
    """Receive what each (product id, target) lacks in available units. Returns the units received.

    Locks the stock rows in SKU order, as reserving does.
    """
    wanted = dict(targets)
    StockItem.objects.bulk_create(
        [StockItem(product_id=product_id) for product_id in wanted], ignore_conflicts=True
    )
    items = StockItem.objects.filter(product_id__in=wanted).select_for_update(of=("self",))
    received = [
        StockMovement(
            product_id=item.product_id, kind=MovementKind.RECEIVED, on_hand_change=missing, note=note
        )
        for item in items.order_by("product__sku")
        if (missing := wanted[item.product_id] - (item.on_hand - item.reserved)) > 0
    ]
    for movement in received:
        StockItem.objects.filter(product_id=movement.product_id).update(
            on_hand=F("on_hand") + movement.on_hand_change
        )
    StockMovement.objects.bulk_create(received)
    return sum(movement.on_hand_change for movement in received)
