"""Sagas that Temporal has lost: each order is rolled back once, cleanly, and staff are told."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from orders import desk, patrol
from orders.attention import list_work
from orders.models import SAGA_LOST, Order, OrderStatus, OutboxMessage
from tests.conftest import until
from tests.desk import (
    STEPS,
    UNDOS,
    aplace,
    books_of,
    call,
    fetch,
    gateway_ledger,
    hand_over,
    read_trail,
    run_to_the_end,
    saga_of,
)
from tests.faults import failing
from tests.saga.losing import (
    HELD_AT,
    NEVER,
    check_audit,
    check_rolled_back,
    holding,
    reach,
    read_messages,
    repair_until_settled,
)

pytestmark = pytest.mark.usefixtures("hasty_repair")


# From here on the steps, or the undos, are attempts within one workflow task.
LAST_STEPS = ("send_confirmation_email", "mail sent, not recorded", "complete_order")
LAST_UNDOS = ("release_inventory", "cancel_order", "send_cancellation_email")


@pytest.mark.parametrize("point", [name for name in HELD_AT if name not in (*LAST_STEPS, *UNDOS)])
async def test_saga_terminated_at_a_step_is_rolled_back(worker: Client, point: str) -> None:
    """The attempt in flight lands after its saga has gone, as it would in production."""
    order = await aplace()
    with holding(point) as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order).terminate()
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failure_type == "SagaLost"
    assert found.failed_step in STEPS
    # Begun by the search, so that it was over before the saga in its place ran.
    assert await saga_of(worker, order, cancel=True).result() == "cancelled"
    kinds = await run_in_db(read_messages, order=order)
    assert kinds == [("start", "PlaceOrderSaga"), ("repair", "CancelOrderSaga")]


@pytest.mark.parametrize("point", LAST_STEPS)
async def test_saga_terminated_at_its_last_steps_completes_its_order(worker: Client, point: str) -> None:
    """The worker that has the workflow task carries it out whole, and nothing is left for a repair."""
    order = await aplace()
    with holding(point) as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order).terminate()
    found = await repair_until_settled(worker, order)
    assert found.status == OrderStatus.COMPLETED
    assert read_trail(found) == [(name, "done") for name in STEPS]
    assert (await books_of(order)).mails == ["confirmation sent"]
    assert await run_in_db(read_messages, order=order) == [("start", "PlaceOrderSaga")]
    await check_audit(order)


@pytest.mark.parametrize("point", ["refund_payment", *LAST_UNDOS])
async def test_rollback_terminated_at_an_undo_is_finished(worker: Client, point: str) -> None:
    order = await run_to_the_end(worker, await aplace())
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    with holding(point) as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order, cancel=True).terminate()
    found = await repair_until_settled(worker, order)
    # What is left of a workflow task is carried out by the worker that has it.
    await check_rolled_back(order, losses=0 if point in LAST_UNDOS else 1)
    assert found.failure_type == "CancelRequested"


async def terminate_between_attempts(
    client: Client, order: Order, name: str, *, table: str, event: str, when: str, cancel: bool = False
) -> None:
    """Terminate the saga while the step or undo waits for a retry: no attempt of it will ever land."""

    async def has_failed() -> bool:
        return (name, "failed") in read_trail(await fetch(order))

    with failing(table, event, when=when, times=1000):
        await hand_over(client)
        await until(has_failed, what=f"{name} failed")
        await saga_of(client, order, cancel=cancel).terminate()
        # An attempt that was handed out before is over when this is: it fails, too.
        await asyncio.sleep(0.3)


async def test_saga_terminated_before_its_last_step_is_rolled_back(worker: Client) -> None:
    order = await aplace()
    table, event, when = HELD_AT["complete_order"]
    await terminate_between_attempts(worker, order, "complete_order", table=table, event=event, when=when)
    assert (await fetch(order)).status == OrderStatus.CREATED
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failed_step == "complete_order"


async def test_rollback_terminated_before_its_mail_tells_the_customer(worker: Client) -> None:
    """The order is cancelled already, and only its customer does not know."""
    order = await run_to_the_end(worker, await aplace())
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    table, event, when = HELD_AT["send_cancellation_email"]
    await terminate_between_attempts(
        worker, order, "send_cancellation_email", table=table, event=event, when=when, cancel=True
    )
    assert (await fetch(order)).status == OrderStatus.CANCELLED
    await repair_until_settled(worker, order)
    await check_rolled_back(order)


async def test_repair_that_is_terminated_itself_is_repaired(worker: Client) -> None:
    order = await aplace(token="tok_error_500")
    await hand_over(worker)

    async def is_trying() -> bool:
        return ("process_payment", "failed") in read_trail(await fetch(order))

    await until(is_trying, what="the payment has failed")
    await saga_of(worker, order).terminate()
    with holding("refund_payment") as pause:

        async def is_held() -> bool:
            await patrol.repair_lost_sagas(worker, NEVER)
            await hand_over(worker)
            return await asyncio.to_thread(pause.is_reached)

        await until(is_held, what="the first repair has come to the refund")
        await saga_of(worker, order, cancel=True).terminate()
    await repair_until_settled(worker, order)
    await check_rolled_back(order, losses=2)
    kinds = [kind for kind, _ in await run_in_db(read_messages, order=order)]
    assert kinds == ["start", "repair", "repair"]


async def test_charge_that_reports_back_after_the_repair_began_is_given_back(worker: Client) -> None:
    order = await aplace()
    with holding("charge taken, not recorded") as pause:
        await hand_over(worker)
        await reach(pause)
        await saga_of(worker, order).terminate()

        async def is_repaired() -> bool:
            return await patrol.repair_lost_sagas(worker, NEVER) > 0

        await until(is_repaired, what="the loss was noticed")
        await hand_over(worker)
    await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_what_the_lost_saga_was_still_to_be_told_holds_nothing_up(worker: Client) -> None:
    """A cancel that Temporal cannot deliver any more is what the rollback does anyhow."""
    order = await aplace(token="tok_error_500")
    await hand_over(worker)
    await saga_of(worker, order).terminate()
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    await hand_over(worker)
    found = await repair_until_settled(worker, order)
    await check_rolled_back(order)
    assert found.failure_type == "CancelRequested"
    undelivered = OutboxMessage.objects.filter(order=order, delivered_at=None)
    assert not await run_in_db(undelivered.exists)


async def test_staff_see_it_in_the_queue_and_acknowledge_it(worker: Client, admin_user: Any) -> None:
    order = await aplace(token="tok_error_500")
    await hand_over(worker)
    await saga_of(worker, order).terminate()
    await repair_until_settled(worker, order)
    [item] = [item for item in (await run_in_db(list_work, user=admin_user)).items if item.order_id]
    assert item.sentence == (
        f"Order {order.number}: Temporal had no running saga for it any more (order-{order.pk}: it was "
        "terminated). It is rolled back by CancelOrderSaga, which was started in its place."
    )
    assert [action.slug for action in item.actions] == ["acknowledge"]
    await call(desk.acknowledge, order_id=order.pk, subject=SAGA_LOST, actor="ada", reason="looked into")
    assert not (await books_of(order)).attention
