"""The books of one order: its rows in every table, as the services and the trail would have written them."""

import random
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID, uuid5

from django.conf import settings
from django.db.models import Model

from inventory.models import Hold, HoldState, MovementKind, StockMovement
from notifications.models import EmailKind, EmailMessage, EmailState
from orders.management.seeding import words
from orders.management.seeding.mails import MailWriter
from orders.management.seeding.plan import Ending, MadeUpOrder
from orders.models import (
    STEP_OF_UNDO,
    ActionKind,
    AttentionFlag,
    CancelRequest,
    Order,
    OrderAction,
    OrderLine,
    OrderStatus,
    OutboxKind,
    OutboxMessage,
    StepKey,
    StepKind,
    StepState,
    TrailEntry,
)
from payments.models import EventKind, Payment, PaymentEvent, PaymentState

Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = dict[type[Model], list[Row]]

# The columns a story fills in, by table; `copying` fills in the defaults of all others.
COLUMNS: dict[type[Model], tuple[str, ...]] = {
    Order: (
        *("id", "number", "customer_email", "status", "currency", "total", "payment_token", "placed_by_id"),
        *(
            "client_id",
            "accepted_at",
            "completed_at",
            "shipped_at",
            "cancel_requested_at",
            "rollback_started_at",
        ),
        *("rolled_back_at", "failed_step", "failure_type", "failure"),
    ),
    OrderLine: ("order_id", "sku", "name", "unit_price", "quantity"),
    OrderAction: ("order_id", "kind", "actor", "reason", "undo", "reference", "at"),
    OutboxMessage: (
        *("order_id", "kind", "name", "workflow_id", "argument", "created_at", "next_attempt_at", "attempts"),
        "delivered_at",
    ),
    StepKey: ("order_id", "step", "undone_at", "resolved_at"),
    TrailEntry: (
        *("order_id", "name", "kind", "state", "attempts", "started_at", "finished_at", "ms"),
        *("error_type", "error", "worker", "retry_at"),
    ),
    AttentionFlag: ("order_id", "subject", "reason", "raised_at", "cleared_at"),
    CancelRequest: ("order_id", "state", "refund", "reason", "requested_by_id", "requested_at"),
    Payment: ("id", "order_id", "state", "amount", "currency", "token", "charge_id"),
    PaymentEvent: ("payment_id", "kind", "amount", "reference", "note", "at"),
    Hold: ("order_id", "product_id", "quantity", "state"),
    StockMovement: ("product_id", "order_id", "kind", "on_hand_change", "reserved_change", "note", "at"),
    EmailMessage: (
        *("order_id", "kind", "state", "message_id", "recipient", "subject", "text", "html", "created_at"),
        "sent_at",
    ),
}

# Milliseconds that a step takes, at least and at most.
DURATIONS = {
    "create_order": (3, 14),
    "reserve_inventory": (4, 22),
    "process_payment": (90, 900),
    "send_confirmation_email": (20, 180),
    "complete_order": (3, 12),
    "refund_payment": (120, 1100),
    "release_inventory": (4, 20),
    "cancel_order": (3, 12),
    "send_cancellation_email": (20, 180),
}
PAYING = ("process_payment", "refund_payment")
# How often a step that calls the network succeeds only at a later attempt, or loses its worker.
RETRIED, LOST = 0.012, 0.0015
# The longest outage that ended by itself, in attempts; it is over before the newest order's story must be.
LONGEST = 14


def count_seconds(attempts: int) -> float:
    """From a step's first attempt to the start of its attempt number `attempts`, by the sagas' back-off."""
    return sum(
        # Doubled no further than a float goes: with a short maximum there are a thousand attempts in an hour.
        min(settings.SAGA_RETRY_INITIAL * 2.0 ** min(failed, 64), settings.SAGA_RETRY_MAXIMUM)
        for failed in range(attempts - 1)
    )


class Books:
    """The books of one order: writes into `rows` what happens at the moment `at`, which moves along."""

    def __init__(
        self,
        order: MadeUpOrder,
        *,
        rows: Rows,
        payment_id: int,
        client: tuple[int, str],
        staff: list[tuple[int, str]],
        mails: MailWriter,
        now: datetime,
        rng: random.Random,
    ) -> None:
        self.order, self.rows, self.payment_id, self.mails = order, rows, payment_id, mails
        self.now, self.rng = now, rng
        self.at = order.accepted_at
        self.staff = staff
        # By the web shop's machine client, or by staff in the back office.
        self.client_id: int | None = None
        self.placed_by: int | None = None
        if rng.random() < 0.85:
            self.client_id, self.placed_by_name = client[0], f"{client[1]} (API)"
        else:
            self.placed_by, self.placed_by_name = rng.choice(staff)
        self.saga = f"order-{order.id}"
        self.columns: dict[str, object] = {"status": OrderStatus.PENDING}
        self.keys: dict[str, list[datetime | None]] = {}
        self.holds = HoldState.HELD
        self.payment = PaymentState.STARTED
        self.charge_id = ""
        self.refunded = Decimal(0)

    def act(
        self, kind: ActionKind, actor: str, reason: str = "", *, undo: str = "", reference: str = ""
    ) -> None:
        self.add(OrderAction, kind, actor, reason, undo, reference, self.at)

    def tell_temporal(self, kind: OutboxKind, name: str, workflow_id: str, argument: str = "") -> None:
        """A message of the outbox, delivered: nobody starts a saga for it."""
        lease = self.at + timedelta(seconds=settings.OUTBOX_FIRST_LEASE)
        delivered = self.at + timedelta(milliseconds=self.rng.randint(6, 40))
        self.add(OutboxMessage, kind, name, workflow_id, argument, self.at, lease, 1, delivered)

    # --- the trail ---------------------------------------------------------------------------------------

    def attempt(self, name: str, state: StepState = StepState.DONE) -> None:
        """A step or an undo that ends well, now and then only after an outage or a lost worker."""
        chance = self.rng.random() if name in PAYING or name.startswith("send_") else 1.0
        if chance < RETRIED:
            attempts = 2 + int(self.rng.random() ** 6 * (LONGEST - 1))
            error_type, error = self.rng.choice(words.OUTAGES if name in PAYING else words.MAIL_OUTAGES)
            first = self.at
            self.at = first + timedelta(seconds=count_seconds(attempts))
            self.write_entry(name, state, attempts=attempts, error_type=error_type, error=error)
            self.flag_repeated(name, attempts, error, first=first, cleared_at=self.at)
            return
        if chance < RETRIED + LOST:
            started = self.at
            self.at += timedelta(seconds=settings.SAGA_ATTEMPT_TIMEOUT + settings.SAGA_RETRY_INITIAL)
            lost = ("WorkerLost", "the worker did not answer in time; the step was tried again")
            kind, worker = self.kind_of(name), self.rng.choice(words.WORKERS)
            self.add(TrailEntry, name, kind, StepState.LOST, 1, started, self.at, None, *lost, worker, None)
        self.write_entry(name, state)

    def refuse(self, name: str, error_type: str, error: str) -> None:
        """A step or an undo that was refused for good."""
        self.write_entry(name, StepState.FAILED, error_type=error_type, error=error)

    def keep_failing(self, name: str) -> None:
        """A step or an undo that fails to this day: flagged, and due to be tried again."""
        first, attempts = self.at, 12
        longest = self.rng.uniform(0.2, 0.95) * (self.now - first).total_seconds()
        while count_seconds(attempts + 1) < min(longest, 7200):
            attempts += 1
        error_type, error = self.rng.choice(words.OUTAGES)
        self.key("process_payment")
        self.at = first + timedelta(seconds=count_seconds(attempts))
        retry_at = self.at + timedelta(seconds=settings.SAGA_RETRY_MAXIMUM)
        self.write_entry(
            name,
            StepState.FAILED,
            attempts=attempts,
            error_type=error_type,
            error=error,
            retry_at=retry_at,
        )
        self.flag_repeated(name, attempts, error, first=first, cleared_at=None)

    def write_entry(
        self,
        name: str,
        state: StepState,
        *,
        attempts: int = 1,
        error_type: str = "",
        error: str = "",
        retry_at: datetime | None = None,
    ) -> None:
        """The trail's row of an attempt that starts now; `at` moves to its end, and the saga's next task."""
        started, ms = self.at, self.rng.randint(*DURATIONS[name])
        self.at += timedelta(milliseconds=ms)
        entry = (name, self.kind_of(name), state, attempts, started, self.at, ms, error_type, error)
        self.add(TrailEntry, *entry, self.rng.choice(words.WORKERS), retry_at)
        self.wait(3, 18)

    def kind_of(self, name: str) -> StepKind:
        return StepKind.UNDO if name in STEP_OF_UNDO else StepKind.STEP

    def flag_repeated(
        self, name: str, attempts: int, error: str, *, first: datetime, cleared_at: datetime | None
    ) -> None:
        """The flag that an attempt after SAGA_ATTENTION_AFTER failures raises, if there was one."""
        if attempts <= settings.SAGA_ATTENTION_AFTER:
            return
        # The last attempt raised it before it began. One that failed as well is not counted in it yet.
        reason = f"{name} has failed {attempts - 1} times and is retried: {error}"
        raised = first + timedelta(seconds=count_seconds(settings.SAGA_ATTENTION_AFTER + 1))
        self.add(AttentionFlag, name, reason, raised, cleared_at)

    def flag(self, subject: str, reason: str, *, cleared_at: datetime | None = None) -> None:
        self.add(AttentionFlag, subject, reason, self.at, cleared_at)

    # --- the books ---------------------------------------------------------------------------------------

    def key(self, step: str, *, undone_at: datetime | None = None) -> None:
        """The step's key, made if missing; with `undone_at` its tombstone."""
        key = self.keys.setdefault(step, [None, None])
        if undone_at is not None:
            key[0] = undone_at

    def book(self, kind: EventKind, amount: Decimal, reference: str = "", note: str = "") -> None:
        row = (self.payment_id, kind, amount, reference, note, self.at)
        self.rows[PaymentEvent].append(row)

    def move_stock(self, kind: MovementKind, *, on_hand: int = 0, reserved: int = 0) -> None:
        for line in self.order.lines:
            changes = (on_hand * line.quantity, reserved * line.quantity)
            row = (line.product_id, self.order.id, kind, *changes, "", self.at)
            self.rows[StockMovement].append(row)

    def mail(self, kind: EmailKind, *, is_sent: bool = True) -> None:
        """The stored mail, and whether the server took it."""
        email = self.order.customer_email
        message_id = f"<{kind}.{self.order.id}@{settings.DEFAULT_FROM_EMAIL.rpartition('@')[2]}>"
        mail = self.mails.write(kind, self.order, refunded=self.refunded)
        state, sent_at = (EmailState.SENT, self.at) if is_sent else (EmailState.PENDING, None)
        text = (mail.subject, mail.text, mail.html)
        self.add(EmailMessage, kind, state, message_id, email, *text, self.at, sent_at)

    def close_books(self) -> None:
        """The rows that change as the story goes on, as it left them."""
        order, columns = self.order, self.columns
        token = settings.PAYMENT_DEFAULT_TOKEN
        known = {
            **{"id": order.id, "number": order.number, "customer_email": order.customer_email},
            **{"currency": settings.SHOP_CURRENCY, "total": order.total, "payment_token": token},
            **{"placed_by_id": self.placed_by, "client_id": self.client_id},
            **{"accepted_at": order.accepted_at},
            **{"failed_step": "", "failure_type": "", "failure": ""},
            **columns,
        }
        self.rows[Order].append(tuple(known.get(column) for column in COLUMNS[Order]))
        for step, (undone_at, resolved_at) in self.keys.items():
            self.add(StepKey, step, undone_at, resolved_at)
        if "process_payment" in self.keys:
            payment = (self.payment, order.total, settings.SHOP_CURRENCY, token, self.charge_id)
            self.rows[Payment].append((self.payment_id, order.id, *payment))
        if "reserve_inventory" in self.keys and order.ending != Ending.OUT_OF_STOCK:
            for line in order.lines:
                self.add(Hold, line.product_id, line.quantity, self.holds)

    def add(self, model: type[Model], *values: object) -> None:
        """A row of a table whose first column is the order."""
        self.rows[model].append((self.order.id, *values))

    def wait(self, low: int, high: int) -> None:
        self.at += timedelta(milliseconds=self.rng.randint(low, high))

    def later(self, *, hours: int) -> datetime:
        """A moment within the next `hours`; for a young order within the first half of what has passed."""
        passed = (self.now - self.at) / 2
        return self.at + min(timedelta(hours=hours), passed) * self.rng.uniform(0.02, 1)


def make_rows() -> Rows:
    """Empty tables."""
    return defaultdict(list)


def name_order(seed: int, number: int) -> UUID:
    """The id of order `number`: numbers come from a sequence, so that runs with one seed never clash."""
    return uuid5(UUID(int=seed % 2**128), str(number))
