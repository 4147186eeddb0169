"""The saga's order activities, the move into the rollback, and the audit of the books."""

import logging

from django.conf import settings
from temporalio import activity

from config.temporal import run_in_db
from orders import rollback, services
from orders.audit import books, runs
from orders.models import ALREADY_FINAL

logger = logging.getLogger("orders.audit")


@activity.defn
async def create_order(order_id: str) -> bool:
    """Step: check the order and open it. False when it is complete. Refuses with OrderNotSellable, and with
    AlreadyUndone when its rollback has begun: the saga sees that through."""
    return await run_in_db(services.create_order, order_id=order_id) != ALREADY_FINAL


@activity.defn
async def cancel_order(order_id: str) -> str:
    """Undo of `create_order`: close the order as cancelled."""
    return await run_in_db(rollback.cancel_order, order_id=order_id)


@activity.defn
async def complete_order(order_id: str) -> None:
    """Step: the order is complete. Refuses with CancelRequested when a cancel came first."""
    await run_in_db(services.complete_order, order_id=order_id)


@activity.defn
async def begin_rollback(order_id: str, step: str, error_type: str, message: str) -> list[str] | None:
    """Move the order to `cancelling` because `step` failed. Neither a step nor an undo: not in the trail.

    Answers with the steps that have begun, or None when there is nothing to roll back.
    """
    return await run_in_db(
        rollback.begin_rollback,
        order_id=order_id,
        failed_step=step,
        failure_type=error_type,
        failure=message,
    )


@activity.defn
async def audit_books() -> int:
    """Audit all books, and keep what was found. Of no order, so not in the trail. Returns how many violations
    there are."""
    report = await books.audit_books(ask_gateway=settings.AUDIT_GATEWAY)
    await run_in_db(runs.keep_report, report=report)
    for violation in report.violations:
        logger.error("%s: %s", violation.rule, violation.sentence)
    for whom, reason in report.left_out.items():
        logger.warning("the audit has left out %s: %s", whom, reason)
    logger.info(
        "audited %d orders by %d rules in %.1f s: %d violations",
        report.orders,
        len(report.counts),
        report.seconds,
        report.total,
    )
    return report.total
