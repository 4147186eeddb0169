"""What can happen to an order, from its acceptance to its ending, told into its books."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid5

from django.conf import settings

from inventory.models import HoldState, MovementKind
from notifications.models import EmailKind
from orders.management.seeding import words
from orders.management.seeding.books import DURATIONS, Books
from orders.management.seeding.plan import CARD_LIMIT, Ending
from orders.models import (
    ActionKind,
    CancelRequest,
    CancelRequestState,
    OrderLine,
    OrderStatus,
    OutboxKind,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.services import CANCEL_SAGA, PLACE_SAGA
from payments.models import EventKind, PaymentState


def tell_story(books: Books) -> None:
    """The whole story, by its ending."""
    accept(books)
    match books.order.ending:
        case Ending.NOT_SELLABLE:
            reason = f"not on sale: {books.order.lines[0].sku}"
            books.refuse("create_order", "OrderNotSellable", reason)
            roll_back(books, "create_order", "OrderNotSellable", reason)
        case Ending.OUT_OF_STOCK:
            create(books)
            line = books.rng.choice(books.order.lines)
            left = books.rng.randrange(line.quantity)
            reason = f"{line.sku}: {line.quantity} ordered, {left} available"
            books.refuse("reserve_inventory", "OutOfStock", reason)
            books.key("reserve_inventory")
            roll_back(books, "reserve_inventory", "OutOfStock", reason)
        case Ending.DECLINED:
            create(books)
            reserve(books)
            reason = decline(books)
            roll_back(books, "process_payment", "PaymentRefused", reason)
        case Ending.CANCELLED_RUNNING:
            create(books)
            reserve(books)
            ask_to_cancel(books)
            books.tell_temporal(OutboxKind.SIGNAL, "cancel", books.saga)
            charge(books)
            roll_back(books, "process_payment", "CancelRequested", "the order was cancelled while it ran")
        case Ending.CREATED:
            create(books)
            reserve(books)
            books.keep_failing("process_payment")
        case ending:
            complete(books, confirmed=ending != Ending.UNCONFIRMED)
            go_on(books, ending)
    books.close_books()


def go_on(books: Books, ending: Ending) -> None:
    """What happened to an order after it was complete."""
    match ending:
        case Ending.SHIPPED:
            ship(books)
        case Ending.AWAITING_APPROVAL:
            ask_for_approval(books)
        case Ending.CANCELLED:
            cancel_completed(books)
            refund(books)
            finish_rollback(books)
        case Ending.SETTLED:
            cancel_completed(books)
            settled_at = books.later(hours=48) + timedelta(minutes=1)
            refuse_refund(books, settled_at=settled_at)
            release(books)
            books.at = settled_at
            settle_refund(books)
            finish_rollback(books, is_released=True)
        case Ending.REFUND_REFUSED:
            cancel_completed(books)
            refuse_refund(books)
            release(books)
        case Ending.REFUND_STUCK:
            cancel_completed(books)
            began = books.at
            books.key("process_payment", undone_at=began)
            books.keep_failing("refund_payment")
            books.at = began + timedelta(seconds=settings.SAGA_RELEASE_AFTER)
            release(books)


# --- the doors -------------------------------------------------------------------------------------------


def accept(books: Books) -> None:
    """As `orders.services.accept_order`: lines, the action, the outbox."""
    for line in books.order.lines:
        books.add(OrderLine, line.sku, line.name, line.price, line.quantity)
    books.act(ActionKind.PLACE, books.placed_by_name)
    books.tell_temporal(OutboxKind.START, PLACE_SAGA, books.saga)
    books.wait(12, 60)


def ask_to_cancel(books: Books) -> str:
    """A person asks for the cancel; returns who."""
    _, actor = books.rng.choice(books.staff)
    books.wait(5, 25)
    books.columns["cancel_requested_at"] = books.at
    books.act(ActionKind.CANCEL, actor, books.rng.choice(words.CANCEL_REASONS))
    return actor


def cancel_completed(books: Books) -> None:
    """As `request_cancel` on a completed order."""
    books.at = books.later(hours=72)
    actor = ask_to_cancel(books)
    books.columns |= {
        "status": OrderStatus.CANCELLING,
        "rollback_started_at": books.at,
        "failure_type": "CancelRequested",
        "failure": f"cancelled by {actor}",
    }
    books.tell_temporal(OutboxKind.START, CANCEL_SAGA, f"{books.saga}-cancel")
    books.wait(8, 40)


def ask_for_approval(books: Books) -> None:
    """A cancel that waits for a second person."""
    books.at = books.later(hours=24)
    user, actor = books.rng.choice(books.staff)
    reason = books.rng.choice(words.CANCEL_REASONS)
    books.act(ActionKind.REQUEST_CANCEL, actor, reason)
    state = CancelRequestState.AWAITING_APPROVAL
    books.add(CancelRequest, state, books.order.total, reason, user, books.at)


def ship(books: Books) -> None:
    """As `ship_order`: the holds become sales."""
    books.at = books.later(hours=96)
    books.columns |= {"status": OrderStatus.SHIPPED, "shipped_at": books.at}
    books.holds = HoldState.SOLD
    books.move_stock(MovementKind.SOLD, on_hand=-1, reserved=-1)
    books.act(ActionKind.SHIP, books.rng.choice(books.staff)[1])


# --- the steps -------------------------------------------------------------------------------------------


def create(books: Books) -> None:
    books.key("create_order")
    books.attempt("create_order")
    books.columns["status"] = OrderStatus.CREATED


def reserve(books: Books) -> None:
    books.key("reserve_inventory")
    books.attempt("reserve_inventory")
    books.move_stock(MovementKind.RESERVED, reserved=1)


def charge(books: Books) -> None:
    books.key("process_payment")
    books.attempt("process_payment")
    books.payment = PaymentState.CHARGED
    books.charge_id = f"ch_{uuid5(books.order.id, 'charge').hex}"
    books.book(EventKind.CHARGED, books.order.total, books.charge_id)


def decline(books: Books) -> str:
    """The bank says no; returns its words."""
    code, reason = books.rng.choice(words.DECLINES)
    if books.order.total > CARD_LIMIT:
        code, reason = "amount_above_limit", f"The card was declined: the amount is above {CARD_LIMIT}."
    books.key("process_payment")
    books.refuse("process_payment", "PaymentRefused", reason)
    books.payment = PaymentState.DECLINED
    books.book(EventKind.DECLINED, Decimal(0), code, reason)
    return reason


def complete(books: Books, *, confirmed: bool) -> None:
    """All five steps; without `confirmed` the mail is refused where that does not stop an order."""
    create(books)
    reserve(books)
    charge(books)
    books.key("send_confirmation_email")
    if confirmed:
        books.attempt("send_confirmation_email")
    else:
        books.refuse("send_confirmation_email", "EmailRefused", words.REFUSED_MAIL)
    books.mail(EmailKind.CONFIRMATION, is_sent=confirmed)
    books.attempt("complete_order")
    books.columns |= {"status": OrderStatus.COMPLETED, "completed_at": books.at}
    if not confirmed:
        books.flag(
            "send_confirmation_email", "The order is complete, but its confirmation mail was not sent."
        )


# --- the rollback ----------------------------------------------------------------------------------------


def roll_back(books: Books, step: str, failure_type: str, failure: str) -> None:
    """As `begin_rollback`, then the undos of what has begun."""
    books.wait(4, 20)
    books.columns |= {
        "rollback_started_at": books.at,
        "failed_step": step,
        "failure_type": failure_type,
        "failure": failure,
    }
    if "process_payment" in books.keys:
        refund(books)
    finish_rollback(books, is_released="reserve_inventory" not in books.keys)


def refund(books: Books) -> None:
    """Give back what was charged, or close what never was."""
    books.key("process_payment", undone_at=books.at)
    if books.payment != PaymentState.CHARGED:
        books.attempt("refund_payment", StepState.NOTHING_TO_UNDO)
        books.book(EventKind.CLOSED, Decimal(0))
        return
    books.attempt("refund_payment")
    books.payment = PaymentState.REFUNDED
    books.refunded = books.order.total
    books.book(EventKind.REFUNDED, -books.order.total, f"re_{uuid5(books.order.id, 'refund').hex}")


def refuse_refund(books: Books, *, settled_at: datetime | None = None) -> None:
    """The gateway refuses the refund for good. A person who settles it closes the row and the flag."""
    reason, error = books.rng.choice(words.REFUSED_REFUNDS), "RefundRefused"
    books.key("process_payment", undone_at=books.at)
    started, ms = books.at, books.rng.randint(*DURATIONS["refund_payment"])
    books.wait(ms, ms)
    # The attempt that finds the person's booking is counted in the row of the one that was refused.
    state, attempts = (StepState.FAILED, 1) if settled_at is None else (StepState.RESOLVED, 2)
    outcome = (state, attempts, started, settled_at or books.at, ms, error, reason)
    books.add(TrailEntry, "refund_payment", StepKind.UNDO, *outcome, books.rng.choice(words.WORKERS), None)
    books.flag("refund_payment", f"refund_payment was refused for good: {reason}", cleared_at=settled_at)
    books.at = started + timedelta(seconds=settings.SAGA_RELEASE_AFTER)


def settle_refund(books: Books) -> None:
    """As `resolve_undo`: the booking, the action, and the signal that lets the saga go on."""
    reference, reason = f"TR-{books.order.number}", books.rng.choice(words.SETTLED_BECAUSE)
    actor = books.rng.choice(books.staff)[1]
    books.payment = PaymentState.SETTLED_OUTSIDE
    books.refunded = books.order.total
    books.book(EventKind.SETTLED_OUTSIDE, -books.order.total, reference, reason)
    books.keys["process_payment"][1] = books.at
    books.act(ActionKind.RESOLVE_UNDO, actor, reason, undo="refund_payment", reference=reference)
    books.tell_temporal(OutboxKind.SIGNAL, "resolve_undo", f"{books.saga}-cancel", "refund_payment")
    books.wait(30, 90)


def release(books: Books) -> None:
    books.key("reserve_inventory", undone_at=books.at)
    if books.order.ending == Ending.OUT_OF_STOCK:
        books.attempt("release_inventory", StepState.NOTHING_TO_UNDO)
        return
    books.attempt("release_inventory")
    books.holds = HoldState.RELEASED
    books.move_stock(MovementKind.RELEASED, reserved=-1)


def finish_rollback(books: Books, *, is_released: bool = False) -> None:
    """The release unless it was done, then close the order and tell the customer."""
    if not is_released:
        release(books)
    books.key("create_order", undone_at=books.at)
    books.attempt("cancel_order")
    books.columns |= {"status": OrderStatus.CANCELLED, "rolled_back_at": books.at}
    books.key("send_confirmation_email", undone_at=books.at)
    books.attempt("send_cancellation_email")
    books.mail(EmailKind.CANCELLATION)
