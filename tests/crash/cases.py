"""One cell of the crash matrix as an order that is driven to its end, and what is wrong with that end."""

import time
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID, uuid4

from django.db import transaction
from django.test import override_settings

from config.temporal import background
from inventory.models import Product
from inventory.services import create_product, receive_stock
from notifications.models import EmailMessage, EmailState
from orders import desk
from orders.dispatch import deliver, note_deliveries
from orders.models import Order, OrderStatus
from orders.selectors import get_order
from orders.services import Decision, Item
from tests.crash.cells import (
    CANCELLED,
    DECLINED,
    FORWARD,
    LATE,
    NETWORK_DELAY,
    RESENT,
    SOLD_OUT,
    Cell,
    Outcome,
)
from tests.crash.shopping import read_gateway, read_mails
from tests.desk import UNDOS, place, read_books, read_trail
from tests.faults import Relay
from tests.switches.points import Places, Plan

ACTOR = "matrix"


class Glance:
    """The orders and their mails as they are at one moment, in two queries for all cases."""

    def __init__(self) -> None:
        self.statuses = dict(Order.objects.values_list("pk", "status"))
        self.mails: dict[UUID, set[tuple[str, bool, str]]] = {}
        for order_id, kind, copy, state in EmailMessage.objects.values_list(
            "order_id", "kind", "copy", "state"
        ):
            self.mails.setdefault(order_id, set()).add((kind, copy > 0, state))


@dataclass
class Case:
    """A cell with an order, a product and a customer of its own."""

    number: int
    cell: Cell
    places: Places
    relay: Relay
    order_id: UUID = field(default_factory=uuid4)
    is_placed: bool = False
    is_acted_on: bool = False
    is_cancelled: bool = False
    over_since: float | None = None

    @property
    def email(self) -> str:
        return f"{self.cell.mail or 'plain'}-{self.order_id}@example.com"

    def place(self) -> None:
        """Write the plan, stock the shelf, and order."""
        sku = f"CELL-{self.number:03}"
        price = Decimal("1200.00" if self.cell.route == DECLINED else "12.00")
        with transaction.atomic():
            product = Product(sku=sku, name=str(self.cell)[:200], price=price)
            create_product(product=product)
            receive_stock(product_id=product.pk, quantity=1 if self.cell.route == SOLD_OUT else 3)
        self.places.write_plan(
            self.order_id, Plan(self.cell.activity, self.cell.point, without=self.cell.without)
        )
        place([Item(sku, 2)], token=self.cell.token, email=self.email, order_id=self.order_id)
        self.is_placed = True

    def is_reached(self) -> bool:
        """Whether the attempt has got to its point, or the network to its delay."""
        if self.cell.point:
            return self.places.find_reached(self.order_id) is not None
        if self.cell.mail.startswith("delay-"):
            return self.email in self.relay.held
        return ("process_payment", "failed") in read_trail(get_order(self.order_id))

    def advance(self, glance: Glance) -> None:
        """Do what the order's story needs next: cancel, send again, let a late attempt go on."""
        if not self.is_acted_on and glance.statuses[self.order_id] == OrderStatus.COMPLETED:
            if self.cell.route == CANCELLED:
                self.cancel()
            elif self.cell.route == RESENT:
                self.resend()
            self.is_acted_on = True
        if self.cell.moment != LATE:
            return
        goes_back = self.cell.route == FORWARD or self.cell.activity == "resend_email"
        if goes_back and not self.is_cancelled and self.is_reached():
            self.cancel()
            self.is_cancelled = True
        if self.is_over(glance):
            self.places.let_go(self.order_id)
            if self.cell.mail.startswith("delay-"):
                self.relay.may_deliver.set()

    def cancel(self) -> None:
        desk.cancel_order(order_id=self.order_id, actor=ACTOR, reason=str(self.cell))

    def resend(self) -> None:
        """Have the confirmation sent again. A copy that is to be given up gets a deadline of its own."""
        original = EmailMessage.objects.get(order_id=self.order_id, copy=0)
        if self.cell.activity != "give_up_copy":
            self.ask_for_copy(original)
            return
        with override_settings(OUTBOX_FIRST_LEASE=60.0, SAGA_STEP_DEADLINE=1.0):
            message = self.ask_for_copy(original).message
            assert message is not None
            loop = background()

            async def tell_temporal() -> bool:
                return await deliver(await loop.client(), message)

            assert loop.submit(tell_temporal()).result(20)
            note_deliveries(messages=[message])

    def ask_for_copy(self, original: EmailMessage) -> Decision:
        return desk.resend_email(
            order_id=self.order_id, email_id=original.pk, actor=ACTOR, reason=str(self.cell)
        )

    def is_over(self, glance: Glance) -> bool:
        """Whether the order's story has come to its end, an attempt that is held left aside."""
        if not self.is_placed or (self.cell.route in (CANCELLED, RESENT) and not self.is_acted_on):
            return False
        mails = glance.mails.get(self.order_id, set())
        if glance.statuses[self.order_id] == OrderStatus.CANCELLED:
            return ("cancellation", False, EmailState.SENT) in mails
        if self.cell.end.status == OrderStatus.CANCELLED:
            return False
        copies = {state for _, is_copy, state in mails if is_copy}
        return glance.statuses[self.order_id] == OrderStatus.COMPLETED and (
            self.cell.route != RESENT or (bool(copies) and EmailState.PENDING not in copies)
        )

    def is_done(self, glance: Glance) -> bool:
        """Whether nothing of it is still to come."""
        if not self.is_over(glance):
            return False
        if self.cell.moment == LATE and self.cell.point and not self.places.find_ended(self.order_id):
            return False
        if self.cell.mail.startswith("delay-"):
            return self.email in self.relay.delivered_late
        if "delayed" not in self.cell.token:
            return True
        # What the network holds back arrives at its own time: there is nothing else to wait for.
        self.over_since = self.over_since or time.monotonic()
        return time.monotonic() > self.over_since + NETWORK_DELAY + 1

    def find_wrongs(self) -> list[str]:
        """Everything in which the order's end differs from what the table promises."""
        order, end = get_order(self.order_id), self.cell.end
        books = read_books(self.order_id)
        trail = read_trail(order)
        found = Outcome(
            status=order.status,
            gateway=tuple(read_gateway(self.order_id)),
            events=tuple(books.events),
            holds=tuple(books.holds),
            mails=tuple(books.mails),
            delivered=tuple(sorted(set(self.read_deliveries()))),
            undos={name: state for name, state in trail if name in UNDOS},
        )
        wrongs = [
            f"{name} is {getattr(found, name)}, not {getattr(end, name)}"
            for name in ("status", "gateway", "events", "holds", "mails", "delivered", "undos")
            if getattr(found, name) != getattr(end, name)
        ]
        steps = [(name, state) for name, state in trail if name not in UNDOS]
        if end.status == OrderStatus.COMPLETED and {state for _, state in steps} != {"done"}:
            wrongs.append(f"steps are {steps}")
        attempts = list(order.trail.filter(name=self.cell.activity).values_list("state", flat=True))
        # What calls the network is written ahead: the attempt that died stands in the trail as lost.
        is_written_ahead = self.cell.is_killed and self.cell.point.startswith("request ")
        if is_written_ahead and attempts and (attempts[0], attempts[-1]) != ("lost", self.find_ending()):
            wrongs.append(f"attempts are {attempts}")
        if len(books.attention) != len(end.attention) or not all(
            part in reason for part, reason in zip(end.attention, books.attention, strict=True)
        ):
            wrongs.append(f"needs attention: {books.attention}, not {end.attention}")
        if self.cell.point and self.places.find_reached(self.order_id) is None:
            wrongs.append("its point was never reached")
        return wrongs

    def find_ending(self) -> str:
        """The state in which the activity must stand in the trail."""
        return self.cell.end.undos.get(self.cell.activity, "done")

    def read_deliveries(self) -> list[str]:
        """What the customer has got, repeats included, without what all Message-IDs of the order share."""
        ids = [message_id.partition("@")[0] for message_id in read_mails(self.email)]
        return [message_id.replace(f".{self.order_id}", "") for message_id in ids]
