"""The saga's order activities, and the move into the rollback."""

from temporalio import activity

from config.temporal import run_in_db
from orders import services
from orders.models import ALREADY_FINAL


@activity.defn
async def create_order(order_id: str) -> bool:
    """Step: check the order and open it. False when it is already final. Refuses with OrderNotSellable."""
    return await run_in_db(services.create_order, order_id=order_id) != ALREADY_FINAL


@activity.defn
async def cancel_order(order_id: str) -> str:
    """Undo of `create_order`: close the order as cancelled."""
    return await run_in_db(services.cancel_order, order_id=order_id)


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
        services.begin_rollback,
        order_id=order_id,
        failed_step=step,
        failure_type=error_type,
        failure=message,
    )
