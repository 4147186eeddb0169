"""The verdict on a storm, by witnesses from outside: rows by SQL, the gateway's ledger, the mail server."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import psycopg

FINAL = {"completed", "shipped", "cancelled"}
# Findings that only a person can settle. Others clear themselves when what they are about succeeds, so an
# order that waits behind one of those after the calm is stuck.
FOR_A_PERSON = {"late_charge", "refunded_twice", "refund_unchecked", "late_confirmation"}
MAIL_OF = {"completed": "confirmation", "shipped": "confirmation", "cancelled": "cancellation"}


@dataclass(frozen=True, slots=True)
class OrderFact:
    """An order as its row says."""

    number: int
    status: str
    total_minor: int
    # The customer's cancellation mail is done with.
    is_told: bool
    flags: tuple[str, ...] = ()
    # The saga's mails: kind, state, Message-ID.
    mails: tuple[tuple[str, str, str], ...] = ()
    is_undelivered: bool = False


@dataclass(slots=True)
class Facts:
    """What the witnesses say about one stack."""

    orders: dict[UUID, OrderFact]
    # The gateway's entries, oldest first: kind, key, amount_minor.
    ledger: list[Mapping[str, Any]]
    # The Message-ID of each mail that arrived.
    arrived: list[str]
    # Attempts whose end nobody saw: what the kills hit.
    lost_attempts: int = 0


@dataclass(slots=True)
class Promises:
    """What callers were told while the storm went on."""

    accepted: dict[str, UUID]
    cancelled: set[UUID] = field(default_factory=set)
    # By their numbers.
    shipped: set[int] = field(default_factory=set)


ORDERS = """
SELECT o.id, o.number, o.status, (o.total * 100)::bigint,
       EXISTS (SELECT FROM orders_trailentry t WHERE t.order_id = o.id
               AND t.name = 'send_cancellation_email' AND t.state IN ('done', 'nothing_to_undo', 'resolved')),
       ARRAY(SELECT f.subject FROM orders_attentionflag f WHERE f.order_id = o.id AND f.cleared_at IS NULL),
       ARRAY(SELECT concat_ws(' ', e.kind, e.state, e.message_id) FROM notifications_emailmessage e
             WHERE e.order_id = o.id AND e.copy = 0 ORDER BY e.id),
       EXISTS (SELECT FROM orders_outboxmessage m WHERE m.order_id = o.id AND m.delivered_at IS NULL)
FROM orders_order o
"""


def read_orders(database: str) -> dict[UUID, OrderFact]:
    """Every order there is. Raises psycopg.OperationalError while the database is away."""
    with psycopg.connect(database, connect_timeout=5) as connection:
        rows = connection.execute(ORDERS).fetchall()
    return {
        order_id: OrderFact(
            number=number,
            status=status,
            total_minor=total,
            is_told=is_told,
            flags=tuple(flags),
            mails=tuple(tuple(mail.split(" ", 2)) for mail in mails),
            is_undelivered=is_undelivered,
        )
        for order_id, number, status, total, is_told, flags, mails, is_undelivered in rows
    }


def find_unsettled(orders: Mapping[UUID, OrderFact]) -> list[UUID]:
    """The orders with something left to do that no person must do."""
    return [order_id for order_id, order in orders.items() if describe_unsettled(order)]


def describe_unsettled(order: OrderFact) -> str:
    """What is left to do; empty when nothing is, or when it waits for a person's decision."""
    if set(order.flags) & FOR_A_PERSON:
        return ""
    if order.flags:
        return f"is {order.status} and needs attention for {', '.join(order.flags)}"
    if order.status not in FINAL:
        return f"is still {order.status}"
    if order.status == "cancelled" and not order.is_told:
        return "is cancelled, and its customer has not been told"
    return f"is {order.status}, and a message to Temporal is undelivered" if order.is_undelivered else ""


def read_facts(environment: Mapping[str, str]) -> Facts:
    """Ask all witnesses of the stack."""
    with httpx.Client(trust_env=False, timeout=30) as http:
        ledger = http.get(f"{environment['PAYMENT_GATEWAY_URL']}/ledger").raise_for_status().json()["entries"]
        mails = http.get(f"{environment['MAIL_SINK_URL']}/messages.json").raise_for_status().json()
    with psycopg.connect(environment["DATABASE_URL"], connect_timeout=5) as connection:
        row = connection.execute("SELECT count(*) FROM orders_trailentry WHERE state = 'lost'").fetchone()
    return Facts(
        orders=read_orders(environment["DATABASE_URL"]),
        ledger=ledger,
        arrived=[mail["message_id"] for mail in mails],
        lost_attempts=row[0] if row else 0,
    )


def judge(facts: Facts, promises: Promises) -> list[str]:
    """What must not be, in sentences; empty when every promise was kept."""
    return [
        *judge_orders(facts.orders, promises),
        *judge_ledger(facts.orders, facts.ledger),
        *judge_mails(facts.orders, facts.arrived),
    ]


def judge_orders(orders: Mapping[UUID, OrderFact], promises: Promises) -> Iterable[str]:
    """Every accepted order exists once, nothing else does, all are settled, and what was told is true."""
    known = Counter(promises.accepted.values())
    for key, order_id in promises.accepted.items():
        if order_id not in orders:
            yield f"order {order_id} was accepted (202, key {key}) and does not exist"
        if known[order_id] > 1:
            yield f"order {order_id} was given to several keys, {key} among them"
    for order_id, order in orders.items():
        if order_id not in known:
            yield f"order {order_id} exists, and no client was told of it"
        if left := describe_unsettled(order):
            yield f"order {order_id} {left}"
        if order_id in promises.cancelled and order.status != "cancelled":
            yield f"the cancel of order {order_id} was accepted, and it is {order.status}"
        if order.number in promises.shipped and order.status != "shipped":
            yield f"order {order_id} was reported as shipped, and it is {order.status}"


def judge_ledger(orders: Mapping[UUID, OrderFact], ledger: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The gateway has taken the total of each completed order once, and kept nothing of the others."""
    charges: Counter[str] = Counter()
    nets: Counter[str] = Counter()
    for entry in ledger:
        order_id = entry["key"].removeprefix("order-").partition(":")[0]
        if entry["kind"] == "charge":
            charges[order_id] += 1
            nets[order_id] += entry["amount_minor"]
        elif entry["kind"] == "refund":
            nets[order_id] -= entry["amount_minor"]
    for order_id in charges.keys() - {str(known) for known in orders}:
        yield f"the gateway has charged for {order_id}, which is no order"
    for known, order in orders.items():
        taken, net = charges[str(known)], nets[str(known)]
        if taken > 1:
            yield f"order {known} was charged {taken} times at the gateway"
        wanted = order.total_minor if order.status in ("completed", "shipped") else 0
        if order.status in FINAL and net != wanted:
            yield (
                f"order {known} is {order.status} with a total of {order.total_minor / 100:.2f}, "
                f"and the gateway has kept {net / 100:.2f}"
            )


def judge_mails(orders: Mapping[UUID, OrderFact], arrived: Iterable[str]) -> Iterable[str]:
    """Each mail marked as sent has arrived, no other has, and each customer was told how the order ended."""
    received = set(arrived)
    explained: set[str] = set()
    for order_id, order in orders.items():
        sent = [kind for kind, state, _ in order.mails if state == "sent"]
        for kind, state, message_id in order.mails:
            if state == "sent" or may_be_unrecorded(order, kind):
                explained.add(message_id)
            if state == "sent" and message_id not in received:
                yield f"the {kind} of order {order_id} is marked as sent and did not arrive"
        wanted = MAIL_OF.get(order.status)
        if wanted and sent.count(wanted) != 1 and not order.flags:
            yield f"order {order_id} is {order.status}, and {sent.count(wanted)} {wanted} mails were sent"
        if order.status in ("completed", "shipped") and "cancellation" in sent:
            yield f"order {order_id} is {order.status}, and a cancellation was sent"
    for message_id in sorted(received - explained):
        yield f"a mail {message_id} arrived that no order has marked as sent"


def may_be_unrecorded(order: OrderFact, kind: str) -> bool:
    """A confirmation whose worker died between the mail server's answer and our commit, and whose order was
    then rolled back: nothing asks the mail server again."""
    return kind == "confirmation" and order.status in ("cancelling", "cancelled")


def count_duplicates(arrived: Iterable[str]) -> int:
    """Mails that arrived more than once under their Message-ID: allowed, and counted."""
    return sum(times - 1 for times in Counter(arrived).values())
