"""Keeps what the scheduled audits have found."""

from django.db import transaction

from orders.audit.books import Report
from orders.models import AuditRun, AuditViolation, Order


@transaction.atomic
def keep_report(*, report: Report) -> AuditRun:
    """Store the report of an audit of all orders. Takes no lock. Raises ValueError for a part of them: the
    latest result is what staff go by."""
    if not report.scope.is_whole:
        raise ValueError("only an audit of all orders is kept")
    run = AuditRun.objects.create(
        started_at=report.began,
        seconds=round(report.seconds, 3),
        orders=report.orders,
        violations=report.total,
        rules=report.counts,
        left_out=report.left_out,
    )
    there = set(
        Order.objects.filter(
            pk__in={found.order_id for found in report.violations if found.order_id}
        ).values_list("pk", flat=True)
    )
    AuditViolation.objects.bulk_create(
        AuditViolation(
            run=run,
            rule=found.rule,
            sentence=found.sentence,
            order_id=found.order_id if found.order_id in there else None,
            facts=found.facts,
        )
        for found in report.violations
    )
    return run
