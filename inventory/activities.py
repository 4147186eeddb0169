"""The saga's stock activities."""

from temporalio import activity

from config.temporal import run_in_db
from inventory import services


@activity.defn
async def reserve_inventory(order_id: str) -> None:
    """Step: hold every line. Refuses with OutOfStock."""
    await run_in_db(services.reserve_inventory, order_id=order_id)


@activity.defn
async def release_inventory(order_id: str) -> str:
    """Undo: give the holds back."""
    return await run_in_db(services.release_inventory, order_id=order_id)
