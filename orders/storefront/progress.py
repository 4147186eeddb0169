"""An order as its customer sees it: a headline, what has happened to the money, and the way so far.

Errors, attempts and flags of the desk are never shown; they only decide between "now" and "we keep trying".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from notifications.models import EmailKind, EmailState
from orders import selectors
from orders.models import (
    CUSTOMER,
    FINISHED_STATES,
    STEP_OF_UNDO,
    STEPS,
    ActionKind,
    Order,
    OrderStatus,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.storefront import words
from payments.models import EventKind, Payment, PaymentState

FORWARD = (OrderStatus.PENDING, OrderStatus.CREATED)
BACK = (OrderStatus.CANCELLING, OrderStatus.CANCELLED)
# A step that ended so says nothing a customer has to know: the order turned back while it ran.
UNSPOKEN = ("CancelRequested", "AlreadyUndone")


class RowState(StrEnum):
    """How a row looks, with the word that says it to those who cannot see it."""

    DONE = "done"
    NOW = "now"
    LATE = "late"
    FAILED = "failed"
    TO_COME = "to come"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the way so far, or of what is still to come."""

    key: str
    state: RowState
    title: str
    detail: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Money:
    """What was taken and what was given back. `is_open`: a charge may still arrive."""

    charged: Decimal
    returned: Decimal
    is_open: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the order stands, in a headline and a few sentences.

    `is_settled`: nothing is under way. `is_final`: nothing will ever change, as it still may for an order
    that waits to be shipped.
    """

    state: str
    headline: str
    sentences: tuple[str, ...]
    is_settled: bool
    is_final: bool


def describe_order(order: Order) -> dict[str, Any]:
    """What the live parts of the page show. Nothing depends on the time of day: equal orders give equal
    pages, which the ETag relies on."""
    standing = read_standing(order)
    return {
        "order": order,
        "email": words.mask_email(order.customer_email),
        "standing": standing,
        "rows": list(list_rows(order)),
        "can_cancel": can_cancel(order),
    }


def can_cancel(order: Order) -> bool:
    """Whether the customer may still ask for a cancel."""
    return order.status in (*FORWARD, OrderStatus.COMPLETED) and order.cancel_requested_at is None


def read_money(order: Order) -> Money:
    """The order's money by the payment's ledger."""
    payment: Payment | None = getattr(order, "payment", None)
    if payment is None:
        return Money(Decimal(0), Decimal(0), is_open=False)
    events = list(payment.events.all())
    charged = sum((event.amount for event in events if event.kind == EventKind.CHARGED), Decimal(0))
    returned = -sum((event.amount for event in events if event.amount < 0), Decimal(0))
    # Given back twice by mistake is the shop's affair.
    return Money(charged, min(returned, charged), is_open=payment.state == PaymentState.STARTED)


def say_money(order: Order, money: Money) -> str:
    """What a cancelled order has cost, in a sentence."""
    currency = order.currency
    if not money.charged:
        if money.is_open and order.status != OrderStatus.CANCELLED:
            return f"Should the bank have taken {order.total} {currency}, you get it back."
        return "Nothing was charged."
    if money.returned >= money.charged:
        return f"{money.returned} {currency} refunded."
    return f"The refund of {money.charged - money.returned} {currency} is on its way."


def say_reason(order: Order) -> str:
    """Why the order was cancelled, in a sentence."""
    if order.failure_type == "CancelRequested" or not order.rollback_started_at:
        return words.BY_CUSTOMER if is_asked_by_customer(order) else words.BY_SHOP
    reason = words.REASONS.get(order.failure_type, words.OUR_FAULT)
    return reason.format(email=words.mask_email(order.customer_email))


def is_asked_by_customer(order: Order) -> bool:
    """Whether the first who asked for a cancel was the customer."""
    asked = [action.actor for action in order.actions.all() if action.kind == ActionKind.CANCEL]
    return asked[:1] == [CUSTOMER]


def read_standing(order: Order) -> Standing:
    """The headline and its sentences."""
    is_settled = selectors.is_settled(order, selectors.summarise_trail(order.trail.all()))
    money = read_money(order)
    state: str = order.status
    if order.status == OrderStatus.SHIPPED:
        headline, sentences = "Your order has been shipped", [f"{order.total} {order.currency} paid."]
    elif order.status == OrderStatus.COMPLETED:
        headline = "Your order is confirmed"
        sentences = [
            f"Thank you. {order.total} {order.currency} paid.",
            "This page will say when it has been shipped.",
        ]
    elif order.status == OrderStatus.CANCELLED:
        headline, sentences = "Your order was cancelled", [say_reason(order), say_money(order, money)]
    elif order.status == OrderStatus.CANCELLING or order.cancel_requested_at is not None:
        state = OrderStatus.CANCELLING
        headline, sentences = "Your order is being cancelled", [say_reason(order), say_money(order, money)]
    else:
        headline = "We are working on your order"
        sentences = ["Thank you. You can close this page: we write to you as soon as it is confirmed."]
    # What is unsettled and flagged, a person has in the work queue.
    if not is_settled and order.attention:  # type: ignore[attr-defined]  # annotated by the selector
        sentences = [*(sentences if state not in FORWARD else []), words.LOOKED_AFTER]
    is_final = is_settled and order.status != OrderStatus.COMPLETED
    return Standing(state, headline, tuple(sentences), is_settled, is_final)


# --- the way so far --------------------------------------------------------------------------------------


def list_rows(order: Order) -> Iterator[Row]:
    """The order's way: received, each step that has begun, a wish to cancel, each undo, what is still to
    come, shipped."""
    yield Row("received", RowState.DONE, "We have received your order", at=order.accepted_at)
    trail: dict[str, list[TrailEntry]] = {}
    for entry in order.trail.all():
        trail.setdefault(entry.name, []).append(entry)
    for kind in (StepKind.STEP, StepKind.UNDO):
        if kind == StepKind.UNDO and order.cancel_requested_at is not None:
            asked = words.ASKED_BY_CUSTOMER if is_asked_by_customer(order) else words.ASKED_BY_SHOP
            yield Row("asked", RowState.DONE, asked, at=order.cancel_requested_at)
        for name, entries in trail.items():
            if entries[0].kind == kind and (row := _read_row(order, name, entries)):
                yield row
    for name in _list_to_come(order, trail):
        # A step that somebody adds stays unspoken until it has words.
        if said := _find_words(order, name):
            yield Row(name, RowState.TO_COME, said.to_come.format(money=say_total(order)))
    if order.shipped_at is not None:
        yield Row("shipped", RowState.DONE, "Your order has left our house", at=order.shipped_at)


def say_total(order: Order) -> str:
    return f"{order.total} {order.currency}"


def _list_to_come(order: Order, begun: dict[str, Any]) -> list[str]:
    """The steps ahead while the order goes forward, the undos still due while it is taken back."""
    if order.status in FORWARD and order.cancel_requested_at is None:
        due = [step for step in STEPS if step != "create_order"]
    elif order.status in BACK:
        effects = {"refund_payment": "process_payment", "release_inventory": "reserve_inventory"}
        due = [undo for undo, step in effects.items() if step in begun and order.status != "cancelled"]
        due += ["cancel_order", "send_cancellation_email"]
    else:
        due = []
    return [name for name in due if name not in begun]


def _find_words(order: Order, name: str) -> words.Words | None:
    """The words of a step or an undo; None for one that somebody has added without any."""
    if name == "refund_payment" and not read_money(order).charged:
        return words.SHUT_PAYMENT
    return words.STEPS.get(name) or words.UNDOS.get(name)


def _read_row(order: Order, name: str, entries: Sequence[TrailEntry]) -> Row | None:
    """A step or an undo by its last entry; None where a customer has nothing to learn."""
    last = entries[-1]
    said = _find_words(order, name)
    if said is None or last.error_type in UNSPOKEN:
        return None
    state = _read_state(order, entries)
    if name == "create_order" and state in (RowState.DONE, RowState.NOW):
        return None  # "received" says as much
    if name == "send_confirmation_email" and _has_mail(order, EmailKind.CONFIRMATION):
        state = RowState.DONE
    if state == RowState.FAILED and order.cancel_requested_at and last.error_type not in words.REFUSALS:
        return None  # it was given up because of the cancel
    title = {
        RowState.NOW: said.now,
        RowState.LATE: said.late,
        RowState.DONE: said.done,
        RowState.FAILED: words.REFUSALS.get(last.error_type, said.failed),
    }[state]
    money = say_total(order)
    if name == "refund_payment" and state == RowState.DONE:
        money = f"{read_money(order).returned} {order.currency}"
    detail = ""
    if name in ("send_confirmation_email", "send_cancellation_email") and state == RowState.DONE:
        kind = EmailKind.CONFIRMATION if name in STEPS else EmailKind.CANCELLATION
        detail = f"to {words.mask_email(order.customer_email)}"
        if not _has_mail(order, kind):
            title, detail = words.TOLD_BY_HAND, ""
    return Row(
        key=name,
        state=state,
        title=title.format(money=money),
        detail=detail,
        at=last.finished_at if state in (RowState.DONE, RowState.FAILED) else None,
    )


def _read_state(order: Order, entries: Sequence[TrailEntry]) -> RowState:
    last = entries[-1]
    if last.state in FINISHED_STATES:
        return RowState.DONE
    if last.kind == StepKind.STEP and (order.status not in FORWARD or order.cancel_requested_at):
        # The order goes another way by now: this step is not tried again.
        is_running = last.state == StepState.RUNNING and order.status in FORWARD
        return RowState.NOW if is_running else RowState.FAILED
    if last.state == StepState.RUNNING:
        # Calm while it is tried again and again.
        return RowState.LATE if len(entries) > 1 else RowState.NOW
    will_retry = last.state == StepState.LOST or last.retry_at is not None or last.name in STEP_OF_UNDO
    return RowState.LATE if will_retry else RowState.FAILED


def _has_mail(order: Order, kind: EmailKind) -> bool:
    return any(email.kind == kind and email.state == EmailState.SENT for email in order.emails.all())
