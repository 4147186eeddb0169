"""All writes to products, stock and holds. Every change of stock appends a movement."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models import F

from inventory.models import Hold, HoldState, MovementKind, Product, StockItem, StockMovement
from orders.models import StepKey, StepState, under_key
from orders.refusals import OutOfStock, StateConflict

STEP = "reserve_inventory"
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


# Locks the order, too: it cannot turn back without seeing the key. May miss holds that another attempt has
# written while this one waited for the key: _TAKE_STOCK meets them.
_LIST_WANTED = under_key("""
    SELECT key.undone_at, "order".status, line.sku, line.quantity, product.id
    FROM key
    JOIN orders_order AS "order" ON "order".id = key.order_id
    LEFT JOIN orders_orderline AS line ON line.order_id = key.order_id
      AND NOT EXISTS (SELECT FROM inventory_hold AS hold WHERE hold.order_id = key.order_id)
    LEFT JOIN inventory_product AS product ON product.sku = line.sku
    ORDER BY line.sku
    FOR NO KEY UPDATE OF "order"
""")
# The line's hold, and with a new one its units and the movement. Answers whether all is well: the units are
# taken, or the hold was there.
_TAKE_STOCK = """
    WITH held AS (
        INSERT INTO inventory_hold (order_id, product_id, quantity, state)
        VALUES (%(order_id)s, %(product_id)s, %(quantity)s, 'held')
        ON CONFLICT (order_id, product_id) DO NOTHING
        RETURNING order_id, product_id, quantity
    ), taken AS (
        UPDATE inventory_stockitem AS stock SET reserved = stock.reserved + held.quantity
        FROM held
        WHERE stock.product_id = held.product_id AND stock.available >= held.quantity
        RETURNING held.order_id, held.product_id, held.quantity
    ), moved AS (
        INSERT INTO inventory_stockmovement
            (order_id, product_id, kind, on_hand_change, reserved_change, note)
        SELECT order_id, product_id, 'reserved', 0, quantity, '' FROM taken
    )
    SELECT EXISTS (SELECT FROM taken) OR NOT EXISTS (SELECT FROM held)
"""

# Locks the stock rows in SKU order, then takes the units out of them, closes the holds and writes the
# movements. Answers whether the order has holds, in whatever state.
_GIVE_BACK = """
    WITH held AS (
        SELECT hold.id, hold.product_id, hold.quantity
        FROM inventory_hold AS hold
        JOIN inventory_product AS product ON product.id = hold.product_id
        JOIN inventory_stockitem AS stock ON stock.product_id = hold.product_id
        WHERE hold.order_id = %(order_id)s AND hold.state = 'held'
        ORDER BY product.sku
        FOR NO KEY UPDATE OF stock
    ), given_back AS (
        UPDATE inventory_stockitem AS stock SET reserved = stock.reserved - held.quantity
        FROM held WHERE stock.product_id = held.product_id
    ), closed AS (
        UPDATE inventory_hold AS hold SET state = %(state)s FROM held WHERE hold.id = held.id
    ), moved AS (
        INSERT INTO inventory_stockmovement
            (order_id, product_id, kind, on_hand_change, reserved_change, note)
        SELECT %(order_id)s, product_id, %(kind)s, 0, -quantity, '' FROM held
    )
    SELECT EXISTS (SELECT FROM inventory_hold WHERE order_id = %(order_id)s)
"""

# What each product has received; its stock row is locked already.
_TOP_UP = """
    UPDATE inventory_stockitem AS stock SET on_hand = stock.on_hand + received.units
    FROM unnest(%s::bigint[], %s::integer[]) AS received (product_id, units)
    WHERE stock.product_id = received.product_id
"""


@transaction.atomic(savepoint=False)
def reserve_inventory(*, order_id: UUID | str) -> None:
    """Hold every line of the order, or none. Repeating it changes nothing.

    Locks the step key and the order's row, then one stock row per SKU in SKU order, so that two orders never
    wait for each other in a circle. Raises OutOfStock naming the line, AlreadyUndone once the order has
    turned back.
    """
    for line in list_wanted(order_id):
        if not take_stock(order_id, line):
            stock = StockItem.objects.filter(product__sku=line.sku)
            available = stock.values_list("available", flat=True).first()
            raise OutOfStock(f"{line.sku}: {line.quantity} ordered, {available or 0} available")


def list_wanted(order_id: UUID | str) -> list[WantedLine]:
    """The order's lines by SKU; none when it has holds, in whatever state. Locks the step key and the order,
    and raises AlreadyUndone after the rollback began."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST_WANTED, {"order_id": order_id, "step": STEP, "undone_at": None})
        rows = cursor.fetchall()
    undone_at, status = rows[0][:2]
    StepKey.objects.refuse_undone(STEP, undone_at, status)
    return [WantedLine(*line) for _, _, *line in rows if line[0] is not None]


def take_stock(order_id: UUID | str, line: WantedLine) -> bool:
    """Hold the line: take its units from what is available, by one conditional UPDATE. Returns whether there
    were enough. A line that is held already stays as it is. Locks the stock row."""
    if line.product_id is None:
        return False
    values = {"order_id": order_id, "product_id": line.product_id, "quantity": line.quantity}
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_STOCK, values)
        is_held: bool = cursor.fetchone()[0]
    return is_held


@transaction.atomic(savepoint=False)
def release_inventory(*, order_id: UUID | str) -> StepState:
    """Give the order's holds back. Returns what there was to undo. Repeating it changes nothing.

    Writes the tombstone of `reserve_inventory` under its key, then locks stock rows in SKU order.
    """
    key = StepKey.objects.lock_undo(order_id, STEP)
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
    """The caller holds the step key: what this reads, its last holder has committed."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_BACK, {"order_id": order_id, "kind": kind.value, "state": state.value})
        has_holds: bool = cursor.fetchone()[0]
    return StepState.DONE if has_holds else StepState.NOTHING_TO_UNDO


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
    with connection.cursor() as cursor:
        products = [movement.product_id for movement in received]
        cursor.execute(_TOP_UP, [products, [movement.on_hand_change for movement in received]])
    StockMovement.objects.bulk_create(received)
    return sum(movement.on_hand_change for movement in received)
