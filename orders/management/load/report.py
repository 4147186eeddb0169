"""What a load has shown: the report for programs, and the same for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orders.management.load.course import Course
from orders.management.load.figures import summarise
from orders.management.load.outcome import Outcome

NEVER_PLACED = "never placed"
Memory = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of one load. `processor` is seconds of each part, None where it is not there."""

    course: Course
    outcome: Outcome
    processor: Mapping[str, float | None]
    memory: Memory
    sampled_at: int
    # What the auditor found, in sentences, and how many there are in all.
    findings: list[str] = field(default_factory=list)
    violations: int = 0


def build_report(measured: Measured) -> dict[str, Any]:
    """The report of `--json`."""
    course, outcome = measured.course, measured.outcome
    seconds = (outcome.last_end - course.began_at).total_seconds() if outcome.last_end else 0.0
    accepted = outcome.ended + outcome.unfinished
    errors = dict(sorted(course.errors.items()))
    if (missing := course.plan.orders - accepted - course.errors.total()) > 0:
        errors[NEVER_PLACED] = missing
    return {
        "orders": accepted,
        "completed": outcome.completed,
        "cancelled": outcome.cancelled,
        "unfinished": outcome.unfinished,
        "errors": errors,
        "seconds": round(seconds, 2),
        "orders_per_second": round(outcome.ended / seconds, 2) if seconds else 0.0,
        "accept_ms": summarise(course.accept_ms),
        "latency_ms": summarise(outcome.latencies),
        "rollback_ms": summarise(outcome.rollbacks),
        "cpu_ms_per_order": {
            name: round(spent * 1000 / outcome.ended, 2) if spent is not None and outcome.ended else None
            for name, spent in measured.processor.items()
        },
        "memory_mb": measured.memory,
        "memory_sampled_at": measured.sampled_at,
        "violations": measured.violations,
        "findings": measured.findings,
    }


def render_report(report: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    return "\n".join(
        [
            f"{report['orders']} orders in {report['seconds']} s: {report['orders_per_second']} a second",
            f"  completed {report['completed']}, rolled back {report['cancelled']}, "
            f"unfinished {report['unfinished']}",
            *(f"  not accepted: {count} x {kind}" for kind, count in report["errors"].items()),
            "",
            f"{'ms':<36}{'p50':>9}{'p95':>9}{'p99':>9}",
            _render_times("placing, until it is accepted", report["accept_ms"]),
            _render_times("from accepted to completed", report["latency_ms"]),
            _render_times("from declined to fully rolled back", report["rollback_ms"]),
            "",
            "processor time, ms an order",
            *(f"  {name:<12}{_show(spent):>8}" for name, spent in report["cpu_ms_per_order"].items()),
            "",
            f"memory, MB{'':<6}{'at order ' + str(report['memory_sampled_at']):>16}{'end':>9}{'most':>9}",
            *(
                f"  {name:<14}{_show(each['at_2000']):>16}{_show(each['end']):>9}{_show(each['max']):>9}"
                for name, each in report["memory_mb"].items()
            ),
            "",
            *(f"VIOLATION  {finding}" for finding in report["findings"]),
            f"{report['violations']} violations of the books",
        ]
    )


def _render_times(title: str, times: Mapping[str, float | None]) -> str:
    return f"{title:<36}" + "".join(f"{_show(value):>9}" for value in times.values())


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
