"""What the made-up past consists of: when orders come in, how each ends, who buys what."""

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from inventory.models import Product
from orders.management.seeding import words


class Ending(StrEnum):
    """How an order's story ends."""

    COMPLETED = "completed"
    SHIPPED = "shipped"
    DECLINED = "declined"
    OUT_OF_STOCK = "out of stock"
    CANCELLED = "cancelled"
    CANCELLED_RUNNING = "cancelled while it ran"
    NOT_SELLABLE = "not sellable"
    SETTLED = "refund settled outside"
    # What needs a person today.
    REFUND_STUCK = "refund stuck"
    REFUND_REFUSED = "refund refused"
    AWAITING_APPROVAL = "cancel awaiting approval"
    UNCONFIRMED = "confirmation undelivered"
    CREATED = "still being paid"


# The rest completes; which of those were shipped is decided by their age.
ROLLED_BACK = {
    Ending.DECLINED: 0.127,
    Ending.OUT_OF_STOCK: 0.036,
    Ending.CANCELLED: 0.030,
    Ending.CANCELLED_RUNNING: 0.005,
    Ending.NOT_SELLABLE: 0.001,
    Ending.SETTLED: 0.001,
}
TROUBLED = {
    Ending.REFUND_STUCK: 0.0002,
    Ending.REFUND_REFUSED: 0.00008,
    Ending.AWAITING_APPROVAL: 0.00015,
    Ending.UNCONFIRMED: 0.00012,
    Ending.CREATED: 0.00012,
}
# Trouble is found soon: it is among the newest orders, one in so many.
RECENT = 40

# Relative number of orders in each hour of the day.
HOURS = [4, 2, 1, 1, 1, 2, 5, 12, 25, 40, 52, 58, 55, 50, 52, 55, 54, 50, 46, 48, 55, 48, 28, 12]
WEEKEND = 0.7
# The newest order is so old that its story, retries included, has been told by now.
YOUNGEST = timedelta(minutes=20)

# What the sandbox gateway declines above (its default).
CARD_LIMIT = Decimal("1000.00")

CUSTOMERS = 20_000
FIRST_NAMES, LAST_NAMES = words.FIRST_NAMES.split(), words.LAST_NAMES.split()


class Line(NamedTuple):
    """A SKU times a quantity, with the product's id."""

    sku: str
    name: str
    price: Decimal
    quantity: int
    product_id: int

    @property
    def amount(self) -> Decimal:
        return self.price * self.quantity


@dataclass(frozen=True, slots=True)
class MadeUpOrder:
    """An order as it comes in, and how its story will end. Lines are in SKU order."""

    id: UUID
    number: int
    accepted_at: datetime
    ending: Ending
    customer_email: str
    lines: list[Line]
    total: Decimal


def choose_endings(count: int, rng: random.Random) -> list[Ending]:
    """How `count` orders end, the oldest first: exact shares, trouble among the newest."""
    troubled = [ending for ending, share in TROUBLED.items() for _ in range(math.ceil(count * share))]
    rolled_back = [ending for ending, share in ROLLED_BACK.items() for _ in range(math.ceil(count * share))]
    # Of a handful of orders most complete, however many kinds of trouble there are.
    unusual = rolled_back + troubled if count >= 100 else rng.sample(rolled_back, count // 5)
    troubled = [ending for ending in unusual if ending in TROUBLED]
    common = [ending for ending in unusual if ending not in TROUBLED]
    common += [Ending.COMPLETED] * (count - len(unusual))
    rng.shuffle(common)
    recent = len(common) - count // RECENT
    newest = common[recent:] + troubled
    rng.shuffle(newest)
    endings = common[:recent] + newest
    for place, ending in enumerate(endings):
        if ending == Ending.COMPLETED and rng.random() > place / count:
            endings[place] = Ending.SHIPPED
    return endings


def spread_over(count: int, *, days: int, now: datetime, zone: tzinfo, rng: random.Random) -> "array[float]":
    """`count` moments of the last `days` days, oldest first: busy by day, quiet at night and weekends."""
    newest, span, most = (now - YOUNGEST).timestamp(), days * 86_400.0 - YOUNGEST.total_seconds(), max(HOURS)
    moments = array("d")
    while len(moments) < count:
        moment = newest - rng.random() * span
        local = datetime.fromtimestamp(moment, zone)
        likelihood = HOURS[local.hour] / most * (WEEKEND if local.weekday() >= 5 else 1)
        if rng.random() < likelihood:
            moments.append(moment)
    return array("d", sorted(moments))


def name_customer(index: int) -> str:
    """The address of customer `index` (below CUSTOMERS); each has one of their own."""
    rest, first = divmod(index, len(FIRST_NAMES))
    count, last = divmod(rest, len(LAST_NAMES))
    domain = "example.com" if index % 3 else "example.org"
    return f"{FIRST_NAMES[first]}.{LAST_NAMES[last]}{count or ''}@{domain}"


class Shelf:
    """What baskets are filled from: the products on sale, the cheap ones more often."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = products
        self.weights = [1 / math.sqrt(product.price) for product in products]

    def fill_basket(self, ending: Ending, rng: random.Random) -> list[Line]:
        """One to five lines in SKU order, worth what the ending asks for: most cards pay up to a limit."""
        dear = ending == Ending.DECLINED and rng.random() < 0.4
        for _ in range(50):
            lines = self._pick(rng, wanted=rng.choices((1, 2, 3, 4, 5), (46, 28, 14, 8, 4))[0])
            if (sum(line.amount for line in lines) > CARD_LIMIT) == dear:
                return lines
        return self._pick(rng, wanted=1)  # prices are such that no basket fits

    def _pick(self, rng: random.Random, *, wanted: int) -> list[Line]:
        chosen = {product.sku: product for product in rng.choices(self.products, self.weights, k=wanted)}
        return [
            Line(
                sku=sku,
                name=product.name,
                price=product.price,
                quantity=1 if product.price > 150 else rng.choices((1, 2, 3, 4), (70, 20, 6, 4))[0],
                product_id=product.pk,
            )
            for sku, product in sorted(chosen.items())
        ]


def make_up_order(
    *, order_id: UUID, number: int, moment: float, ending: Ending, shelf: Shelf, rng: random.Random
) -> MadeUpOrder:
    """An order of one of the pool's customers, some of whom buy far more often than others."""
    lines = shelf.fill_basket(ending, rng)
    return MadeUpOrder(
        id=order_id,
        number=number,
        accepted_at=datetime.fromtimestamp(moment, UTC),
        ending=ending,
        customer_email=name_customer(int(CUSTOMERS * rng.random() ** 2)),
        lines=lines,
        total=sum((line.amount for line in lines), Decimal(0)),
    )
