"""What a rule of the auditor is, what it reads, and how it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

# Violations of one rule that are told; the rest is counted.
TOLD = 100


class Unreachable(Exception):
    """Temporal or the gateway does not answer, so that its rules cannot be asked. The message says which."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which orders are looked at: one, those accepted since a moment, or all."""

    order_id: UUID | None = None
    since: datetime | None = None
    # Seconds without a change after which Temporal's and the gateway's word on an order count; None: as set
    # (AUDIT_QUIET_FOR). 0 where nothing is under way any more.
    quiet_for: float | None = None

    @property
    def is_whole(self) -> bool:
        return self.order_id is None and self.since is None


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is not as it must be. `order_id` may be one that no order has."""

    rule: str
    sentence: str
    order_id: UUID | None = None
    number: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """One query that returns the rows which break the rule; none when the books are right.

    Its tables are written as `{orders}`, so that they can be narrowed down to a scope. `says` is what must
    hold, `finding` the sentence about a row, filled in from its columns,
        and `cause` what is likely behind it.
    """

    name: str
    says: str
    finding: str
    cause: str
    sql: str
    # Rows that no order explains are looked for in a whole audit only: a part of the orders misses them.
    whole_only: bool = False

    def tell(self, row: Mapping[str, Any]) -> Violation:
        facts = {name: value for name, value in row.items() if name not in ("number", "order_id", "of_rule")}
        return Violation(
            rule=self.name,
            sentence=f"{self.finding.format(**row)} {self.cause}",
            order_id=row.get("order_id"),
            number=row.get("number"),
            facts={name: _to_json(value) for name, value in facts.items()},
        )


def _to_json(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else str(value)


# The tables by the name rules call them, and the column that leads to the order.
TABLES: dict[str, tuple[str, str]] = {
    "orders": ("orders_order", "id"),
    "lines": ("orders_orderline", "order_id"),
    "actions": ("orders_orderaction", "order_id"),
    "outbox": ("orders_outboxmessage", "order_id"),
    "keys": ("orders_stepkey", "order_id"),
    "trail": ("orders_trailentry", "order_id"),
    "flags": ("orders_attentionflag", "order_id"),
    "requests": ("orders_cancelrequest", "order_id"),
    "deliveries": ("orders_webhookdelivery", "order_id"),
    "holds": ("inventory_hold", "order_id"),
    "movements": ("inventory_stockmovement", "order_id"),
    "payments": ("payments_payment", "order_id"),
    "mails": ("notifications_emailmessage", "order_id"),
}

# What happened to the money of each payment, in one row.
MONEY = """(
    SELECT payment_id,
        count(*) FILTER (WHERE kind = 'charged') AS charges,
        count(*) FILTER (WHERE kind = 'refunded') AS refunds,
        count(*) FILTER (WHERE kind = 'settled_outside') AS settlements,
        count(*) FILTER (WHERE kind = 'declined') AS declines,
        count(*) FILTER (WHERE kind = 'closed') AS closures,
        coalesce(sum(amount) FILTER (WHERE kind = 'charged'), 0.00) AS charged,
        coalesce(sum(amount) FILTER (WHERE kind = 'refunded'), 0.00) AS refunded,
        coalesce(sum(amount) FILTER (WHERE kind = 'settled_outside'), 0.00) AS settled,
        max(reference) FILTER (WHERE kind = 'charged') AS charge_reference
    FROM {events}
    GROUP BY payment_id
)"""


def name_tables(scope: Scope) -> dict[str, str]:
    """What each table's name in a rule stands for: the table, or its rows that belong to the scope."""
    if scope.order_id is not None:
        narrow = " WHERE {column} = %(order)s"
    elif scope.since is not None:
        narrow = " WHERE {column} IN (SELECT id FROM orders_order WHERE accepted_at >= %(since)s)"
    else:
        narrow = ""
    names: dict[str, str] = {}
    for name, (table, column) in TABLES.items():
        rows = f"(SELECT * FROM {table}{narrow.format(column=column)})"  # noqa: S608 - our own names
        names[name] = rows if narrow else table
    events, products = "payments_paymentevent", "inventory_product"
    if narrow:
        paid = f"SELECT id FROM {names['payments']} p"  # noqa: S608
        events = f"(SELECT * FROM {events} WHERE payment_id IN ({paid}))"  # noqa: S608
        # Stock is the sum of all orders: a scope can only say whose products are looked at.
        ordered = f"SELECT sku FROM {names['lines']} l"  # noqa: S608
        products = f"(SELECT * FROM {products} WHERE sku IN ({ordered}))"  # noqa: S608
    return names | {"events": events, "products": products, "money": MONEY.format(events=events)}


def ask_rule(rule: Rule, scope: Scope, *, told: int = TOLD) -> tuple[int, list[Violation]]:
    """How many rows break the rule, and the first of them by order number. Reads only."""
    sql = (
        f"SELECT *, count(*) OVER () AS of_rule FROM ({rule.sql}) broken "  # noqa: S608 - our own text
        "ORDER BY number NULLS FIRST LIMIT %(told)s"
    )
    rows = read_rows(sql=sql, scope=scope, told=told)
    return (rows[0]["of_rule"] if rows else 0), [rule.tell(row) for row in rows]


def read_rows(*, sql: str, scope: Scope, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of a query whose tables are written as in a rule. Reads only."""
    known = {
        "order": scope.order_id,
        "since": scope.since,
        "quiet": timedelta(seconds=settings.AUDIT_QUIET_FOR if scope.quiet_for is None else scope.quiet_for),
    }
    with connection.cursor() as cursor:
        cursor.execute(sql.format(**name_tables(scope)), known | arguments)
        columns = [column.name for column in cursor.description]
        return [dict(zip(columns, values, strict=True)) for values in cursor.fetchall()]
