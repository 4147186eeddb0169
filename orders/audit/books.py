"""An audit: asks the rules, one snapshot of the database first, then Temporal and the gateway."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from config.temporal import run_in_db
from orders.audit.ledger import LEDGER_RULES, compare_ledgers
from orders.audit.rule import TOLD, Scope, Unreachable, Violation, ask_rule, read_rows
from orders.audit.rules import BOOK_RULES
from orders.audit.temporal import SAGA_MISSING, find_missing_sagas


@dataclass(slots=True)
class Report:
    """What an audit found: how many violations of each rule asked, and the first of each in sentences."""

    scope: Scope
    began: datetime = field(default_factory=timezone.now)
    seconds: float = 0.0
    orders: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    # What could not be asked, and why.
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def broken(self) -> dict[str, int]:
        """The rules that are broken, with how often."""
        return {name: count for name, count in self.counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        """The report for programs; docs/audit.md describes it."""
        return {
            "balanced": self.total == 0 and not self.left_out,
            "at": self.began.isoformat(),
            "seconds": round(self.seconds, 3),
            "order": str(self.scope.order_id) if self.scope.order_id else None,
            "since": self.scope.since.isoformat() if self.scope.since else None,
            "orders": self.orders,
            "total": self.total,
            "rules": self.counts,
            "left_out": self.left_out,
            "violations": [
                {
                    "rule": violation.rule,
                    "order": str(violation.order_id) if violation.order_id else None,
                    "number": violation.number,
                    "sentence": violation.sentence,
                    "facts": violation.facts,
                }
                for violation in self.violations
            ],
        }


async def audit_books(
    scope: Scope | None = None, *, ask_temporal: bool = True, ask_gateway: bool = False, told: int = TOLD
) -> Report:
    """Audit the orders of the scope (all, unless one is given) and report. Changes nothing.

    Of each rule at most `told` violations are told; all are counted. Temporal or a gateway that does not
    answer is left out, and the report says so.
    """
    began = time.monotonic()
    report = Report(scope=scope or Scope())
    await run_in_db(ask_books, report=report, told=told)
    if ask_temporal:
        await ask_outside(report, "temporal", find_missing_sagas, [SAGA_MISSING.name], told)
    if ask_gateway:
        await ask_outside(report, "gateway", compare_ledgers, [rule.name for rule in LEDGER_RULES], told)
    report.seconds = time.monotonic() - began
    return report


def ask_books(*, report: Report, told: int) -> None:
    """Ask the rules about our own tables, all of one snapshot. To be called first in its transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Each query reads whole tables once: what pays is memory to join in, not compiling.
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute("SET LOCAL jit = off")
    [counted] = read_rows(sql="SELECT count(*) AS orders FROM {orders} o", scope=report.scope)
    report.orders = counted["orders"]
    for rule in BOOK_RULES:
        if rule.whole_only and not report.scope.is_whole:
            continue
        report.counts[rule.name], found = ask_rule(rule, report.scope, told=told)
        report.violations += found


async def ask_outside(
    report: Report,
    whom: str,
    ask: Callable[[Scope], Awaitable[list[Violation]]],
    rules: list[str],
    told: int,
) -> None:
    """Ask rules that somebody else has to answer."""
    try:
        found = await ask(report.scope)
    except Unreachable as error:
        report.left_out[whom] = str(error)
        return
    counts = Counter(violation.rule for violation in found)
    report.counts |= {name: counts[name] for name in rules}
    seen: Counter[str] = Counter()
    for violation in found:
        seen[violation.rule] += 1
        if seen[violation.rule] <= told:
            report.violations.append(violation)
