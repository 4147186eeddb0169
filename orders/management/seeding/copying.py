"""Copies the rows of a chunk of made-up orders into the database, and receives the stock they need."""

import heapq
from collections import Counter
from datetime import datetime, timedelta

from django.db import connection, models, transaction
from django.db.models import F

from inventory.models import MovementKind, Product, StockItem, StockMovement
from orders.management.seeding.books import COLUMNS, Row, Rows

NOTE = "made-up delivery (seed_orders)"


def reserve_ids(sequence: str, count: int) -> list[int]:
    """The next `count` values of a sequence, ascending."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(%s) FROM generate_series(1, %s)", [sequence, count])
        return sorted(row[0] for row in cursor.fetchall())


def find_sequence(model: type[models.Model]) -> str:
    """The sequence of a table's ids."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [model._meta.db_table])
        return str(cursor.fetchone()[0])


class Warehouse:
    """Receives what orders will reserve before they do, and no more than has not come back by then."""

    def __init__(self) -> None:
        self._free: Counter[int] = Counter()
        self._on_its_way: list[tuple[datetime, int, int]] = []

    def receive(self, rows: Rows) -> None:
        """Put the chunk's deliveries in front of its movements, an hour before the first of them."""
        kind, product, change, at = (
            COLUMNS[StockMovement].index(column) for column in ("kind", "product_id", "reserved_change", "at")
        )
        wanted: Counter[int] = Counter()
        movements = rows[StockMovement]
        delivered_at = min(row[at] for row in movements) - timedelta(hours=1)
        while self._on_its_way and self._on_its_way[0][0] <= delivered_at:
            _, came_back, units = heapq.heappop(self._on_its_way)
            self._free[came_back] += units
        for row in movements:
            if row[kind] == MovementKind.RESERVED:
                wanted[row[product]] += row[change]
            elif row[kind] == MovementKind.RELEASED:
                heapq.heappush(self._on_its_way, (row[at], row[product], -row[change]))
        deliveries: list[Row] = []
        for product_id, units in sorted(wanted.items()):
            missing = units - self._free[product_id]
            self._free[product_id] = max(0, -missing)
            if missing > 0:
                deliveries.append((product_id, None, MovementKind.RECEIVED, missing, 0, NOTE, delivered_at))
        rows[StockMovement] = deliveries + movements


@transaction.atomic
def save_chunk(rows: Rows) -> None:
    """Copy the rows, then bring the stock in line with the movements. Locks stock rows in SKU order."""
    for model, columns in COLUMNS.items():
        copy_rows(model, columns, rows[model])
    changes: dict[int, list[int]] = {}
    for product_id, _, _, on_hand, reserved, *_ in rows[StockMovement]:
        change = changes.setdefault(product_id, [0, 0])
        change[0] += on_hand
        change[1] += reserved
    for product in Product.objects.filter(pk__in=changes).order_by("sku"):
        on_hand_change, reserved_change = changes[product.pk]
        StockItem.objects.filter(product=product).update(
            on_hand=F("on_hand") + on_hand_change, reserved=F("reserved") + reserved_change
        )


def copy_rows(model: type[models.Model], columns: tuple[str, ...], rows: list[Row]) -> None:
    """COPY the rows; columns they leave out get the default of their field."""
    left_out = [
        field
        for field in model._meta.concrete_fields
        if field.column not in columns and field.has_default() and not field.primary_key
    ]
    defaults = tuple(field.get_default() for field in left_out)
    names = ", ".join(f'"{name}"' for name in (*columns, *(field.column for field in left_out)))
    with (
        connection.cursor() as cursor,
        cursor.copy(f'COPY "{model._meta.db_table}" ({names}) FROM STDIN') as copy,
    ):
        for row in rows:
            copy.write_row(row + defaults)


def analyse() -> None:
    """Bring the planner's statistics up to date."""
    tables: list[type[models.Model]] = [*COLUMNS, StockItem]
    with connection.cursor() as cursor:
        for model in tables:
            cursor.execute(f'ANALYZE "{model._meta.db_table}"')
