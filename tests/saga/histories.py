"""Records the histories that the replay test keeps: `pytest tests/saga/histories.py` writes them anew.

Do so only for a deliberate change of the sagas, and keep the old files as long as orders started under
them may be running.
"""

import json
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle

from config.temporal import run_in_db
from inventory.models import StockItem
from orders import desk
from orders.models import Order
from orders.services import Item
from tests.conftest import until
from tests.desk import LAPTOPS, aplace, call, fetch, hand_over, read_trail, run_to_the_end, saga_of

FOLDER = Path(__file__).parent / "histories"
# What names a machine or a file of it, and means nothing to a replay.
PRIVATE = {"stackTrace", "identity", "binaryChecksum", "workerVersion", "sdkMetadata", "requestId"}


def strip(value: Any) -> Any:
    """The history without what is private to the machine that recorded it."""
    if isinstance(value, dict):
        return {key: strip(part) for key, part in value.items() if key not in PRIVATE}
    return [strip(part) for part in value] if isinstance(value, list) else value


async def keep(name: str, handle: WorkflowHandle[Any, Any]) -> None:
    """Write the saga's history under this name."""
    history = json.loads((await handle.fetch_history()).to_json())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(strip(history), indent=1, sort_keys=True) + "\n")


async def test_record_completed(worker: Client) -> None:
    await keep("completed", saga_of(worker, await run_to_the_end(worker, await aplace())))


async def test_record_declined(worker: Client) -> None:
    await keep("declined", saga_of(worker, await run_to_the_end(worker, await aplace(LAPTOPS))))


async def test_record_out_of_stock(worker: Client) -> None:
    available = (await run_in_db(StockItem.objects.get, product__sku="TEE-M")).available
    order = await run_to_the_end(worker, await aplace([Item("TEE-M", available + 1)]))
    await keep("out_of_stock", saga_of(worker, order))


async def until_failed(order: Order, name: str) -> None:
    async def has_failed() -> bool:
        return (name, "failed") in read_trail(await fetch(order))

    await until(has_failed)


async def test_record_cancelled_midway(worker: Client) -> None:
    order = await aplace(token="tok_error_500")
    await hand_over(worker)
    await until_failed(order, "process_payment")
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await saga_of(worker, order).result()
    await keep("cancelled_midway", saga_of(worker, order))


async def test_record_stuck_undo_resolved(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace(token="tok_ok__refund_refused"))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await until_failed(order, "refund_payment")
    await call(
        desk.resolve_undo,
        order_id=order.pk,
        undo="refund_payment",
        actor="ada",
        reason="test",
        reference="transfer 1",
    )
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    await keep("stuck_undo_resolved", saga_of(worker, order, cancel=True))
