"""The cart against the shop as it is now: prices, what is left, and what has changed since."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256

from inventory import selectors as inventory_selectors
from inventory.selectors import Offer
from orders.services import MAX_LINES, MAX_QUANTITY
from orders.storefront.session import Item, Shopping


@dataclass(frozen=True, slots=True)
class CartLine:
    """A product in the cart as it would be ordered now. `seen` is the price the customer last saw."""

    sku: str
    name: str
    quantity: int
    price: Decimal
    seen: Decimal
    available: int
    is_sold: bool

    @property
    def amount(self) -> Decimal:
        return self.price * self.quantity if self.is_sold else Decimal("0.00")

    @property
    def left(self) -> int:
        """How many of them can be ordered."""
        return max(0, min(self.quantity, self.available)) if self.is_sold else 0

    @property
    def problem(self) -> str:
        """Why the line cannot be ordered as it is; empty if it can."""
        if not self.is_sold:
            return "No longer sold."
        if self.available <= 0:
            return "Sold out."
        if self.available < self.quantity:
            return f"Only {self.available} left; you have {self.quantity} in your cart."
        return ""

    @property
    def has_new_price(self) -> bool:
        return self.is_sold and self.price != self.seen


def read_lines(shopping: Shopping) -> list[CartLine]:
    """The cart's lines in the order they were put in, with one query (none for an empty cart)."""
    offers = inventory_selectors.find_offers(shopping.items) if shopping.items else {}
    return [
        CartLine(
            sku=sku,
            name=offer.name if offer else item.name,
            quantity=item.quantity,
            price=offer.price if offer else item.price,
            seen=item.price,
            available=offer.available if offer else 0,
            is_sold=offer is not None,
        )
        for sku, item, offer in ((sku, item, offers.get(sku)) for sku, item in shopping.items.items())
    ]


def sum_lines(lines: Iterable[CartLine]) -> Decimal:
    """What the lines that are sold cost together."""
    return sum((line.amount for line in lines), Decimal("0.00"))


def mark_seen(lines: Iterable[tuple[str, int, Decimal]], total: Decimal) -> str:
    """What a customer has been shown, to compare: the total, and a digest of (SKU, quantity, price)."""
    text = "\n".join(f"{quantity} {price:.2f} {sku}" for sku, quantity, price in sorted(lines))
    return f"{total:.2f} {sha256(text.encode()).hexdigest()[:32]}"


def mark_lines(lines: Sequence[CartLine]) -> str:
    """`mark_seen` of a cart."""
    return mark_seen([(line.sku, line.quantity, line.price) for line in lines], sum_lines(lines))


def put_in(shopping: Shopping, offer: Offer, quantity: int) -> str:
    """Put units of a product into the cart. Returns why that cannot be; empty when it is done."""
    held = shopping.items[offer.sku].quantity if offer.sku in shopping.items else 0
    in_cart = f" You have {held} in your cart." if held else ""
    if offer.available <= 0:
        return f"{offer.name} is sold out.{in_cart}"
    if held + quantity > MAX_QUANTITY:
        return f"An order takes at most {MAX_QUANTITY} of one product.{in_cart}"
    if held + quantity > offer.available:
        return f"There are only {offer.available} left of {offer.name}.{in_cart}"
    if not held and len(shopping.items) >= MAX_LINES:
        return f"A cart takes at most {MAX_LINES} different products. Order these first."
    shopping.put(offer.sku, Item(held + quantity, offer.name, offer.price))
    return ""


def set_quantities(shopping: Shopping, lines: Sequence[CartLine], quantities: dict[str, int]) -> None:
    """Set these quantities, 0 taking out; the prices on the page are the ones the customer has seen now."""
    for line in lines:
        quantity = quantities.get(line.sku, line.quantity)
        if quantity:
            shopping.put(line.sku, Item(quantity, line.name, line.price))
        else:
            shopping.take_out(line.sku)


def adjust_to_stock(shopping: Shopping, lines: Sequence[CartLine]) -> list[str]:
    """Bring each line down to what is left of it. Returns what was done, in sentences."""
    done: list[str] = []
    for line in lines:
        if not line.problem:
            continue
        if line.left:
            shopping.put(line.sku, Item(line.left, line.name, line.price))
            done.append(f"{line.name}: now {line.left} instead of {line.quantity}.")
        else:
            shopping.take_out(line.sku)
            done.append(f"{line.name} was taken out.")
    return done
