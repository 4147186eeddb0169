"""What a load consists of: how many orders, at which pace, of what, and how each one's payment goes."""

import math
import uuid
from dataclasses import dataclass, field

from orders.services import Item

# Goods of a load's own, so that no shelf of the shop is emptied by it.
SKUS = [f"LOAD-{number:03}" for number in range(1, 101)]
MAX_LINES = len(SKUS)
PAYS = "tok_ok"
DECLINED = "tok_declined"


@dataclass(frozen=True, slots=True)
class Wish:
    """One order to be placed. `key` is its Idempotency-Key."""

    key: str
    items: tuple[Item, ...]
    token: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A load. Closed loop: at most `concurrency` orders are unfinished at once. With a `rate` it is an open
    loop: so many orders are placed each second, however many are unfinished."""

    orders: int
    concurrency: int
    rate: float | None = None
    decline_rate: float = 0.0
    lines: int = 1
    is_hot: bool = False
    # Tells the orders of this run from all others.
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def email(self) -> str:
        return f"load-{self.run}@example.com"

    @property
    def is_open(self) -> bool:
        return self.rate is not None

    def make_wish(self, index: int) -> Wish:
        """Order number `index`, from 0: the same for the same plan."""
        return Wish(key=f"load-{self.run}-{index}", items=self._choose_items(index), token=self._pay(index))

    def _choose_items(self, index: int) -> tuple[Item, ...]:
        first = 0 if self.is_hot else index * self.lines
        skus = [SKUS[(first + line) % len(SKUS)] for line in range(self.lines)]
        return tuple(Item(sku, 1) for sku in skus)

    def _pay(self, index: int) -> str:
        """Declined ones are spread evenly: the n-th order is one when the share adds up to a whole more."""
        # Rounded, as ten times 0.3 is to be three whole orders.
        before, after = (math.floor(round(number * self.decline_rate, 6)) for number in (index, index + 1))
        return DECLINED if after > before else PAYS
