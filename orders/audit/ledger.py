"""Compares our payments with the gateway's own ledger, line by line."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings

from config.temporal import run_in_db
from orders.audit.rule import Rule, Scope, Unreachable, Violation, read_rows
from payments.gateways.protocol import Gateway, GatewayMisuse, GatewayUnavailable, LedgerLine, LineKind
from payments.gateways.sandbox import SandboxGateway
from payments.services import charge_key, from_minor, refund_key, to_minor

PAGE = 2000
KEY = re.compile("order-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):(?:charge|refund)")

LINE_MISSING = Rule(
    name="gateway_line_missing",
    says="Every charge, refund, decline and closing in our books is in the gateway's ledger.",
    finding=(
        "Order {number}: our books say {kind} {amount} {currency} ({reference}), and the gateway has no such "
        "line under {key} (order {order_id})."
    ),
    cause="Likely the event was added by hand, or the gateway has lost its data or is another one.",
    sql="",
)
LINE_DIFFERS = Rule(
    name="gateway_line_differs",
    says="A line of the gateway's ledger has the amount, the currency and the ids that our books have.",
    finding=(
        "Order {number}: our books say {kind} {amount} {currency} ({reference}), the gateway says "
        "{their_amount} {their_currency} ({their_reference}) under {key} (order {order_id})."
    ),
    cause="Likely the event was changed by hand, or the gateway took another amount than asked.",
    sql="",
)
LINE_UNKNOWN = Rule(
    name="gateway_line_unknown",
    says="Every line of the gateway's ledger is in our books, once its order has come to rest.",
    finding=(
        "Order {number} is {status}, and the gateway has {kind} {their_amount} {their_currency} "
        "({their_reference}) under {key}, which our books do not know (order {order_id})."
    ),
    cause=(
        "Likely an answer was lost and never asked for again, the event was lost, or money was moved at the "
        "gateway."
    ),
    sql="",
)
LINE_WITHOUT_ORDER = Rule(
    name="gateway_line_without_order",
    says="Every line of the gateway's ledger under a key of ours has an order.",
    finding=(
        "The gateway has {kind} {their_amount} {their_currency} ({their_reference}) under {key}, and there "
        "is no order {order_id}."
    ),
    cause="Likely the order was lost in a restore, or another shop uses the same gateway account.",
    sql="",
)
LEDGER_RULES = (LINE_MISSING, LINE_DIFFERS, LINE_UNKNOWN, LINE_WITHOUT_ORDER)

# Everything our books say of the money, one row for each event; an order without any has one row, too.
# At rest: the saga does nothing more about the money. `moved_at` is when anything last happened.
_OURS = """
    SELECT o.id AS order_id, o.number, o.status, p.id AS payment, p.currency, p.amount AS payment_amount,
        p.charge_id, e.kind, e.amount, e.reference,
        o.status IN ('completed', 'shipped', 'cancelled') AS at_rest,
        EXISTS (SELECT 1 FROM {flags} f WHERE f.order_id = o.id
            AND f.subject = 'refund_unchecked') AS unchecked,
        greatest(o.accepted_at, o.completed_at, o.shipped_at, o.cancel_requested_at, o.rollback_started_at,
            o.rolled_back_at, e.at, t.moved_at) AS moved_at,
        now() - %(quiet)s AS quiet_before
    FROM {orders} o
    LEFT JOIN {payments} p ON p.order_id = o.id
    LEFT JOIN {events} e ON e.payment_id = p.id AND e.kind <> 'settled_outside'
    LEFT JOIN (
        SELECT order_id, max(coalesce(finished_at, started_at)) AS moved_at
        FROM {trail} x WHERE name IN ('process_payment', 'refund_payment') GROUP BY order_id
    ) t ON t.order_id = o.id
"""


@dataclass(slots=True)
class OurLine:
    """An event in our books as the gateway's ledger should have it."""

    key: str
    kind: LineKind
    amount_minor: int
    currency: str
    charge_id: str
    refund_id: str
    reference: str


@dataclass(slots=True)
class OurOrder:
    """What our books say of one order's money, and whether it may be compared."""

    number: int
    status: str
    has_payment: bool
    is_at_rest: bool
    is_unchecked: bool
    is_quiet: bool
    moved_at: datetime
    lines: dict[tuple[str, LineKind], OurLine] = field(default_factory=dict)


def open_gateway() -> Gateway:
    """A client of the gateway for one comparison."""
    return SandboxGateway(settings.PAYMENT_GATEWAY_URL, timeout=settings.PAYMENT_GATEWAY_TIMEOUT)


async def compare_ledgers(scope: Scope) -> list[Violation]:
    """Where our books and the gateway's contradict each other. Raises Unreachable when it does not answer.

    Orders that differ are read again at the end: what has changed meanwhile is left for the next audit.
    """
    ours = await run_in_db(read_ours, scope=scope)
    theirs: dict[UUID, dict[tuple[str, LineKind], LedgerLine]] = {}
    async for order_id, line in read_theirs(scope):
        order = ours.get(order_id)
        if order is not None and is_same(order.lines.get((line.key, line.kind)), line):
            del order.lines[line.key, line.kind]
        elif order is not None or is_orphan(scope, line):
            theirs.setdefault(order_id, {})[line.key, line.kind] = line
    suspects = {order_id for order_id, order in ours.items() if order.is_quiet and order.lines} | set(theirs)
    if not suspects:
        return []
    again = await run_in_db(read_ours, scope=scope)
    found: list[Violation] = []
    for order_id in sorted(suspects, key=lambda suspect: again[suspect].number if suspect in again else 0):
        found += judge(order_id, ours.get(order_id), again.get(order_id), theirs.get(order_id, {}))
    return found


def read_ours(*, scope: Scope) -> dict[UUID, OurOrder]:
    """Every order's money as our books have it."""
    orders: dict[UUID, OurOrder] = {}
    for row in read_rows(sql=_OURS, scope=scope):
        order = orders.setdefault(
            row["order_id"],
            OurOrder(
                number=row["number"],
                status=row["status"],
                has_payment=row["payment"] is not None,
                is_at_rest=row["at_rest"],
                is_unchecked=row["unchecked"],
                is_quiet=True,
                moved_at=row["moved_at"],
            ),
        )
        order.moved_at = max(order.moved_at, row["moved_at"])
        order.is_quiet = order.is_quiet and row["moved_at"] < row["quiet_before"]
        if row["kind"] is not None:
            line = read_our_line(row)
            order.lines[line.key, line.kind] = line
    return orders


def read_our_line(row: dict[str, Any]) -> OurLine:
    """The event of a row as the gateway should have it."""
    key, amount, charge_id, refund_id = charge_key(row["order_id"]), row["payment_amount"], "", ""
    match row["kind"]:
        case "charged":
            kind, amount, charge_id = LineKind.CHARGE, row["amount"], row["reference"]
        case "refunded":
            kind, key, amount = LineKind.REFUND, refund_key(row["order_id"]), -row["amount"]
            charge_id, refund_id = row["charge_id"], row["reference"]
        case "declined":
            kind = LineKind.DECLINED
        case _:
            kind, amount = LineKind.CLOSED, Decimal(0)
    return OurLine(
        key=key,
        kind=kind,
        amount_minor=to_minor(amount),
        currency="" if kind == LineKind.CLOSED else row["currency"],
        charge_id=charge_id,
        refund_id=refund_id,
        reference=row["reference"],
    )


async def read_theirs(scope: Scope) -> AsyncIterator[tuple[UUID, LedgerLine]]:
    """The gateway's lines under keys of ours, page by page, with the order each belongs to."""
    prefix = f"order-{scope.order_id}:" if scope.order_id is not None else "order-"
    gateway = open_gateway()
    after = 0
    try:
        while True:
            lines = await gateway.list_lines(key_prefix=prefix, after=after, limit=PAGE)
            for line in lines:
                if matched := KEY.fullmatch(line.key):
                    yield UUID(matched[1]), line
            if len(lines) < PAGE:
                return
            after = lines[-1].position
    except (GatewayUnavailable, GatewayMisuse) as error:
        raise Unreachable(f"The payment gateway's ledger cannot be read: {error}") from error
    finally:
        await gateway.aclose()


def is_same(ours: OurLine | None, theirs: LedgerLine) -> bool:
    """Whether the line says what our books say. A refund that was found later has no id in our books."""
    return (
        ours is not None
        and (ours.amount_minor, ours.currency, ours.charge_id)
        == (
            theirs.amount_minor,
            theirs.currency,
            theirs.charge_id,
        )
        and ours.refund_id in ("", theirs.refund_id)
    )


def is_orphan(scope: Scope, line: LedgerLine) -> bool:
    """Whether the line belongs to the scope although no order of the scope explains it."""
    is_old = line.at < datetime.now(UTC) - timedelta(seconds=settings.AUDIT_QUIET_FOR)
    return is_old and (scope.is_whole or (scope.since is not None and line.at >= scope.since))


def judge(
    order_id: UUID,
    before: OurOrder | None,
    now: OurOrder | None,
    theirs: dict[tuple[str, LineKind], LedgerLine],
) -> list[Violation]:
    """The violations of one order whose books differ: `before` has the lines that the gateway did not "
    "have."""
    if now is None:
        return [
            LINE_WITHOUT_ORDER.tell({"order_id": order_id, "number": None, **describe_theirs(line)})
            for line in theirs.values()
        ]
    if before is None or not before.is_quiet or before.moved_at != now.moved_at:
        return []
    known = {"order_id": order_id, "number": now.number, "status": now.status}
    found: list[Violation] = []
    for place, line in before.lines.items():
        said = known | {
            "key": line.key,
            "kind": line.kind,
            "amount": show_amount(line.amount_minor),
            "currency": line.currency,
            "reference": line.reference or "no id",
        }
        if place in theirs:
            found.append(LINE_DIFFERS.tell(said | describe_theirs(theirs[place])))
        else:
            found.append(LINE_MISSING.tell(said))
    for place, their_line in theirs.items():
        if place not in before.lines and is_owed(now, their_line):
            found.append(LINE_UNKNOWN.tell(known | describe_theirs(their_line)))
    return found


def is_owed(order: OurOrder, line: LedgerLine) -> bool:
    """Whether our books should have this line of the gateway's."""
    kinds = {kind for _, kind in order.lines}
    match line.kind:
        case _ if not order.is_at_rest:
            return False
        case LineKind.DECLINED:
            # The answer was lost, and the closing that followed settled it.
            return order.has_payment and LineKind.CLOSED not in kinds
        case LineKind.CLOSED:
            return order.has_payment
        case LineKind.REFUND:
            # Settled outside, and a flag has told a person that the gateway might have refunded as well.
            return not order.is_unchecked
    return True


def show_amount(amount_minor: int) -> str:
    """An amount in minor units as people write it."""
    return f"{from_minor(amount_minor):.2f}"


def describe_theirs(line: LedgerLine) -> dict[str, Any]:
    return {
        "key": line.key,
        "kind": line.kind,
        "their_amount": show_amount(line.amount_minor),
        "their_currency": line.currency,
        "their_reference": line.refund_id or line.charge_id or "no id",
    }
