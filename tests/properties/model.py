"""The model: what stock, money, mail and statuses must be, worked out in memory from the effects alone.

It is written from the promises, not from the code: no rows, no keys, no locks.
"""

from dataclasses import dataclass, field
from decimal import Decimal

from orders.models import STEP_OF_UNDO
from tests.properties.attempts import Effect

# Recipients: the mail server refuses the one for good, and the other the first time.
GONE, FULL = "gone", "full"
BANK_LIMIT = Decimal("1000.00")
# What each payment token does to whom, and how often; None: for ever.
TOKENS: dict[str, tuple[str, str, int | None]] = {
    "tok_ok": ("", "", None),
    "tok_declined": ("charge", "declined", None),
    "tok_answer_lost_x1": ("charge", "answer lost", 1),
    "tok_error_500_x2": ("charge", "error", 2),
    "tok_ok__close_answer_lost_x1": ("close", "answer lost", 1),
    "tok_ok__refund_answer_lost_x1": ("refund", "answer lost", 1),
    "tok_ok__refund_error_500_x1": ("refund", "error", 1),
    "tok_ok__refund_refused": ("refund", "error", None),
}


@dataclass(eq=False)
class ExpectedOrder:
    """One order as it must be."""

    lines: dict[str, int]
    total: Decimal
    token: str
    recipient: str
    status: str = "pending"
    cancel_asked: bool = False
    tombstones: set[str] = field(default_factory=set)
    resolved: set[str] = field(default_factory=set)
    hold: str = ""
    # At the gateway.
    token_seen: bool = False
    charged: bool = False
    declined: bool = False
    closed: bool = False
    refunded: bool = False
    turns: int = 0
    # In our books.
    booked_charge: bool = False
    booked_refund: bool = False
    settled: Decimal = Decimal(0)
    # At the mail server, by kind.
    mails: set[str] = field(default_factory=set)
    turned_away: bool = False

    @property
    def at_gateway(self) -> Decimal:
        """What the gateway must have of this customer's money."""
        return self.total * (self.charged - self.refunded)

    @property
    def in_books(self) -> Decimal:
        """What our ledger must say the customer has paid and not got back."""
        return self.total * (self.booked_charge - self.booked_refund) - self.settled

    def meet_fault(self, operation: str) -> str:
        """The fault this request meets at the gateway, if any."""
        on, fault, times = TOKENS[self.token]
        if operation != on or not self.token_seen or (times is not None and self.turns >= times):
            return ""
        self.turns += 1
        return fault


class Model:
    """All orders, and the stock: (on hand, held) of each SKU."""

    def __init__(self, stock: dict[str, int]) -> None:
        self.on_hand = dict(stock)
        self.orders: dict[str, ExpectedOrder] = {}

    def held(self, sku: str) -> int:
        return sum(order.lines.get(sku, 0) for order in self.orders.values() if order.hold == "held")

    def available(self, sku: str) -> int:
        return self.on_hand[sku] - self.held(sku)

    def apply(self, order_id: str, effect: Effect) -> None:
        """An effect has happened, or been refused: what must be true from now on."""
        order = self.orders[order_id]
        match effect.kind, effect.name:
            case "db", "create_order" if order.status == "pending" and "create_order" not in order.tombstones:
                order.status = "created"
            case "db", "reserve_inventory" if order.status not in ("cancelling", "cancelled"):
                if not order.hold and all(self.available(sku) >= n for sku, n in order.lines.items()):
                    order.hold = "held"
            case "gateway", operation:
                self._ask_gateway(order, operation)
            case "db", "record_charge" | "record_found_charge":
                order.booked_charge = order.charged
            case "db", "record_refund":
                order.booked_charge, order.booked_refund = order.charged, order.refunded
            case "mail", kind if not order.recipient.startswith(GONE):
                if order.recipient.startswith(FULL) and not order.mails and not order.turned_away:
                    order.turned_away = True
                else:
                    order.mails.add(kind)
            case "db", "complete_order" if order.status == "created" and not order.cancel_asked:
                order.status = "completed"
            case "db", "begin_rollback" if order.status in ("pending", "created", "completed"):
                order.status = "cancelling"
            case "db", "start_refund":
                order.tombstones.add("process_payment")
            case "db", "release_inventory":
                order.tombstones.add("reserve_inventory")
                if order.hold == "held":
                    order.hold = "released"
            case "db", "cancel_order":
                order.tombstones.add("create_order")
                if order.status == "cancelling":
                    order.status = "cancelled"
            case "db", "prepare_cancellation":
                order.tombstones.add("send_confirmation_email")

    def _ask_gateway(self, order: ExpectedOrder, operation: str) -> None:
        order.token_seen |= operation == "charge"
        fault = order.meet_fault(operation)
        if fault == "error":
            return
        if operation == "charge" and not (order.closed or order.charged or order.declined):
            order.declined = fault == "declined" or order.total > BANK_LIMIT
            order.charged = not order.declined
        elif operation == "close" and not order.charged:
            order.closed = True
        elif operation == "refund":
            order.refunded = True

    def cancel(self, order_id: str) -> None:
        """A cancel was accepted."""
        order = self.orders[order_id]
        order.cancel_asked = True
        if order.status == "completed":
            order.status = "cancelling"

    def ship(self, order_id: str) -> None:
        """The order was shipped: what was held for it is gone."""
        order = self.orders[order_id]
        order.status, order.hold = "shipped", "sold"
        for sku, quantity in order.lines.items():
            self.on_hand[sku] -= quantity

    def resolve(self, order_id: str, undo: str) -> None:
        """A person has settled an undo outside."""
        order = self.orders[order_id]
        order.resolved.add(STEP_OF_UNDO[undo])
        if undo == "refund_payment":
            order.settled += order.in_books
        elif undo == "release_inventory" and order.hold == "held":
            order.hold = "settled_by_hand"
