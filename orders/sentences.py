"""What the work queue says about each thing to do: a plain sentence, and the actions a person may take."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.utils import timezone
from django.utils.text import Truncator

from orders.models import STEP_OF_UNDO, STEPS, AuditRun, Order, OrderStatus, StepState, TrailEntry
from orders.permissions import PERMISSIONS, REFUND
from orders.refusals import Refusal

# How much of an error or a reason a sentence quotes; the order's page has all of it.
QUOTE = 200

ENDED = (OrderStatus.COMPLETED, OrderStatus.SHIPPED, OrderStatus.CANCELLED)
RUNNING = (OrderStatus.PENDING, OrderStatus.CREATED, OrderStatus.CANCELLING)


class WorkKind(StrEnum):
    """The kinds of work, the most urgent first."""

    AUDIT = "books do not balance"
    UNDO = "stuck undo"
    STEP = "failing step"
    UNTOLD = "Temporal not told"
    WAITING = "waiting too long"
    FINDING = "to be checked"
    APPROVAL = "awaiting approval"
    MAIL = "undelivered mail"
    STOCK = "low stock"


# What a sentence calls a step or an undo, with the amount where money is its matter.
NAMES: dict[str, str] = {
    "create_order": "The creation of",
    "reserve_inventory": "The reservation of stock for",
    "process_payment": "The payment{amount} for",
    "send_confirmation_email": "The confirmation mail for",
    "complete_order": "The completion of",
    "begin_rollback": "The start of the rollback of",
    "saga_lost": "The loss of the saga of",
    "refund_payment": "The refund{amount} for",
    "release_inventory": "The release of stock for",
    "cancel_order": "The cancelling of",
    "send_cancellation_email": "The cancellation mail for",
}

# What Temporal has not been told, by the name of the saga or signal; what an undo's name is put in.
UNTOLD: dict[str, str] = {
    "PlaceOrderSaga": "to start",
    "CancelOrderSaga": "to cancel",
    "cancel": "to turn back",
    "retry_undo": "to retry {undo} of",
    "resolve_undo": "that {undo} was settled for",
}


@dataclass(frozen=True, slots=True)
class WorkAction:
    """Something this person may do about an item: the page's slug and what it is told beside the order."""

    slug: str
    label: str
    arguments: dict[str, str] = field(default_factory=dict)
    # Whether it gives money back, which takes a permission of its own.
    refunds: bool = False

    @property
    def permissions(self) -> list[str]:
        return [PERMISSIONS[self.slug], *([REFUND] if self.refunds else [])]


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One thing to do, as a sentence: what comes before its order or product, its name, and what follows."""

    # The same as long as the item stands in the queue.
    key: str
    kind: WorkKind
    before: str
    subject: str
    after: str
    since: datetime | None
    order_id: UUID | None = None
    product_id: int | None = None
    audit_id: int | None = None
    actions: tuple[WorkAction, ...] = ()

    @property
    def sentence(self) -> str:
        return f"{self.before} {self.subject}{self.after}".strip()


@dataclass(frozen=True, slots=True)
class Background:
    """What the sentences need to know of the orders beside their rows."""

    trail: dict[tuple[UUID, str], list[TrailEntry]]
    charged: dict[UUID, Decimal]
    confirmations: dict[UUID, int]


def describe_flag(flag: Any, known: Background, user: User) -> WorkItem:
    kind, order, subject = WorkKind(flag.work), flag.order, flag.subject
    charged = known.charged.get(order.pk, Decimal(0))
    if kind == WorkKind.FINDING:
        before, name, after = "", f"Order {order.number}", f": {_quote(flag.reason)}"
        if order.status not in ENDED:
            after += " It can be acknowledged once the saga has ended."
    else:
        amount = order.total if subject == "process_payment" else charged
        said = f" of {amount} {order.currency}" if amount else ""
        before, name = NAMES[subject].format(amount=said), f"order {order.number}"
        if kind == WorkKind.MAIL and subject in STEPS:
            after = " was not sent. The order is complete, and its customer has not been told."
        else:
            state = "keeps failing" if kind == WorkKind.STEP else "is stuck"
            after = f" {state}{_describe_failures(known.trail.get((order.pk, subject), []), flag.reason)}"
    return WorkItem(
        key=f"flag-{flag.pk}",
        kind=kind,
        before=before,
        subject=name,
        after=after,
        since=flag.raised_at,
        order_id=order.pk,
        actions=_allow(user, _list_flag_actions(kind, order, subject, known)),
    )


def _list_flag_actions(kind: WorkKind, order: Order, subject: str, known: Background) -> Iterable[WorkAction]:
    if subject in STEP_OF_UNDO:
        yield WorkAction("retry", "Retry now", {"undo": subject})
        if subject != "cancel_order":
            yield WorkAction("resolve", "Resolve by hand", {"undo": subject})
        return
    if kind == WorkKind.MAIL and order.pk in known.confirmations:
        yield WorkAction("resend", "Send again", {"email": str(known.confirmations[order.pk])})
    if order.status in ENDED:
        yield WorkAction("acknowledge", "Acknowledge", {"subject": subject})
    elif kind == WorkKind.STEP:
        yield from _list_cancels(order, known)


def _describe_failures(entries: list[TrailEntry], reason: str) -> str:
    """Why, how often, and when next. Attempts that only ever timed out have left the flag's reason alone."""
    if not entries:
        return f": {_quote(reason)}"
    last = entries[-1]
    error = next((entry for entry in reversed(entries) if entry.error), last)
    is_final = last.state == StepState.FAILED and last.error_type in _list_refusals()
    attempts = sum(entry.attempts for entry in entries)
    facts = [f"{attempts} attempt{'' if attempts == 1 else 's'}"]
    if last.state == StepState.RUNNING:
        facts.append("one is running now")
    elif last.retry_at and not is_final:
        facts.append(f"next at {timezone.localtime(last.retry_at):%H:%M}")
    said = _quote(error.error).rstrip(".") or "no attempt has answered in time"
    return f"{' and refused for good' if is_final else ''}: {said} ({', '.join(facts)})."


def _list_refusals() -> set[str]:
    return {refusal.__name__ for refusal in Refusal.__subclasses__()}


def describe_waiting(order: Any, known: Background, user: User) -> WorkItem:
    entries = [entry for (owner, _), rows in known.trail.items() if owner == order.pk for entry in rows]
    if entries:
        last = max(entries, key=lambda entry: entry.finished_at or entry.started_at)
        sign = f"its last sign was {name_undo(last.name)} ({last.get_state_display().lower()})"
    else:
        sign = "no step has run yet"
    return WorkItem(
        key=f"waiting-{order.number}",
        kind=WorkKind.WAITING,
        before="",
        subject=f"Order {order.number}",
        after=f" over {order.total} {order.currency} does not move: it is {order.status}, and {sign}.",
        since=order.moved_at,
        order_id=order.pk,
        actions=_allow(user, _list_cancels(order, known)),
    )


def _list_cancels(order: Order, known: Background) -> Iterable[WorkAction]:
    """The cancel of an order on its way; a paid one is refunded, and that is another permission."""
    if order.status in (OrderStatus.PENDING, OrderStatus.CREATED) and not order.cancel_requested_at:
        paid = known.charged.get(order.pk, Decimal(0)) > 0
        yield WorkAction("cancel", "Cancel and refund" if paid else "Cancel", refunds=paid)


def describe_untold(message: Any) -> WorkItem:
    said = _quote(message.last_error).rstrip(".") or "nobody has tried yet"
    attempts = f" ({message.attempts} attempt{'' if message.attempts == 1 else 's'})"
    what = UNTOLD.get(message.name, f"{message.name} for").format(undo=name_undo(message.argument))
    return WorkItem(
        key=f"message-{message.pk}",
        kind=WorkKind.UNTOLD,
        before=f"Temporal has not been told {what}",
        subject=f"order {message.order.number}",
        after=f": {said}{attempts if message.attempts else ''}.",
        since=message.created_at,
        order_id=message.order_id,
    )


def describe_request(asked: Any, user: User) -> WorkItem:
    refund = f" and refund {asked.refund} {asked.order.currency}" if asked.refund else ""
    arguments = {"request": str(asked.pk)}
    if asked.requested_by_id == user.pk:
        decisions = [WorkAction("withdraw", "Withdraw", arguments)]
    else:
        decisions = [WorkAction("approve", "Approve", arguments), WorkAction("reject", "Reject", arguments)]
    return WorkItem(
        key=f"request-{asked.pk}",
        kind=WorkKind.APPROVAL,
        before=f"{asked.requested_by.get_username()} asks to cancel",
        subject=f"order {asked.order.number}",
        after=f"{refund}: {_quote(asked.reason)}",
        since=asked.requested_at,
        order_id=asked.order_id,
        actions=_allow(user, decisions),
    )


def describe_stock(product: Any, user: User) -> WorkItem:
    left = f"{product.left} left" if product.left else "none left"
    held = f", {product.held} held for orders" if product.held else ""
    return WorkItem(
        key=f"product-{product.pk}",
        kind=WorkKind.STOCK,
        before="",
        subject=f"{product.name} ({product.sku})",
        after=f": {left}{held}. Low stock is {product.low_stock_at} or fewer.",
        since=None,
        product_id=product.pk,
        actions=_allow(user, [WorkAction("stock", "Book stock")]),
    )


def describe_audit(run: AuditRun) -> WorkItem:
    """The latest audit, which found something. Of which orders, its page says to who may see it."""
    # The database keeps the rules in no order.
    broken = sorted((-count, name) for name, count in run.rules.items() if count)
    rules = _quote(", ".join(f"{name} ({-count})" for count, name in broken))
    return WorkItem(
        key=f"audit-{run.pk}",
        kind=WorkKind.AUDIT,
        before="The books do not balance: the latest audit found",
        subject=f"{run.violations} violation{'' if run.violations == 1 else 's'}",
        after=f" of {'a rule' if len(broken) == 1 else f'{len(broken)} rules'}: {rules}",
        since=run.started_at,
        audit_id=run.pk,
    )


def _allow(user: User, actions: Iterable[WorkAction]) -> tuple[WorkAction, ...]:
    """Those of the actions that `user` may take."""
    return tuple(action for action in actions if user.has_perms(action.permissions))


def name_undo(name: str) -> str:
    """A step or an undo in the middle of a sentence: "the refund"."""
    return NAMES[name].format(amount="").rsplit(" ", 1)[0].lower() if name in NAMES else name


def _quote(text: str) -> str:
    """The text as a sentence: on one line, not too much of it, and with an end."""
    line = Truncator(" ".join(text.split())).chars(QUOTE)
    return line if not line or line[-1] in ".!?…" else f"{line}."
