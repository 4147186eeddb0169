"""What arrives after its undo: a charge delayed in the network, an attempt that outlived its time-out."""

import asyncio
import os
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from inventory import services as inventory_services
from inventory.models import Hold
from notifications import services as notifications_services
from orders import desk, rollback, services
from orders.models import OrderStatus, StepKey
from orders.refusals import AlreadyUndone
from payments import services as payments_services
from payments.gateways.protocol import ChargeClosed
from payments.gateways.sandbox import SandboxGateway
from tests.conftest import until
from tests.desk import (
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
from tests.faults import pausing


async def test_charge_delayed_in_the_network_cannot_land_after_its_undo(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 60.0
    # So late that the undo is first, whatever else the machine has to do.
    order = await aplace(token="tok_delayed_s8_x1")
    await hand_over(worker)

    async def is_on_its_way() -> bool:
        return ("process_payment", "failed") in read_trail(await fetch(order))

    await until(is_on_its_way)
    lands_at = asyncio.get_running_loop().time() + 8
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await saga_of(worker, order).result()
    async with aclosing(SandboxGateway(os.environ["PAYMENT_GATEWAY_URL"])) as gateway:
        with pytest.raises(ChargeClosed):
            # The key is shut at the gateway itself, whoever asks and however late.
            await gateway.charge(
                key=payments_services.charge_key(order.pk),
                amount_minor=40000,
                currency="EUR",
                token="tok_ok",
            )
    # The delayed request leaves no trace when it is refused: there is nothing to wait on but time.
    await asyncio.sleep(max(0.0, lands_at + 0.5 - asyncio.get_running_loop().time()))
    assert await gateway_ledger(order) == ["closed"]
    books = await books_of(order)
    assert (books.events, books.net) == (["closed"], 0)


async def test_delayed_charge_without_an_undo_does_land(shop: None) -> None:
    """The control of the test above: the same delayed request, and nothing that closes its key."""
    order = await aplace(token="tok_ok")
    async with httpx.AsyncClient(base_url=os.environ["PAYMENT_GATEWAY_URL"]) as http:
        with pytest.raises(httpx.TransportError):
            await http.post(
                "/charges",
                headers={"Idempotency-Key": payments_services.charge_key(order.pk)},
                json={"amount_minor": 40000, "currency": "EUR", "token": "tok_delayed_s1_x1"},
            )

    async def has_landed() -> bool:
        return await gateway_ledger(order) == ["charge"]

    await until(has_landed)


LATE = {
    "create_order": (services.create_order, rollback.cancel_order),
    "reserve_inventory": (inventory_services.reserve_inventory, inventory_services.release_inventory),
    "process_payment": (payments_services.start_charge, payments_services.start_refund),
    "send_confirmation_email": (
        notifications_services.prepare_confirmation,
        notifications_services.prepare_cancellation,
    ),
}


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
@pytest.mark.parametrize("step", LATE)
async def test_late_step_is_refused_by_its_tombstone(shop: None, step: str, guarded: bool) -> None:
    """Each step after its undo. The control removes the tombstone and shows the effect landing."""
    carry_out, undo = LATE[step]
    order = await aplace()
    await run_in_db(undo, order_id=order.pk)
    if guarded:
        with pytest.raises(AlreadyUndone):
            await run_in_db(carry_out, order_id=order.pk)
        assert not await run_in_db(Hold.objects.filter(order=order).exists)
    else:
        await run_in_db(StepKey.objects.filter(order=order).delete)
        await run_in_db(carry_out, order_id=order.pk)


async def test_attempt_that_outlives_its_timeout_changes_nothing_twice(worker: Client, settings: Any) -> None:
    """Attempt 1 of the payment is held after the charge until attempt 2 has taken over and finished."""
    settings.SAGA_ATTEMPT_TIMEOUT = 1.0
    order = await aplace()
    with pausing("payments_paymentevent", "INSERT", when="NEW.kind = 'charged'") as pause:
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="attempt 1 recording the charge")

        async def has_timed_out() -> bool:
            description = await saga_of(worker, order).describe()
            return any(pending.attempt > 1 for pending in description.raw_description.pending_activities)

        await until(has_timed_out, what="attempt 2")
    await saga_of(worker, order).result()
    order = await fetch(order)
    assert order.status == OrderStatus.COMPLETED
    assert dict(read_trail(order))["process_payment"] == "done"
    assert (await books_of(order)).events == ["charged"]
    assert await gateway_ledger(order) == ["charge"]


async def test_late_charge_is_recorded_flagged_and_refunded(worker: Client) -> None:
    """A charge reports back after the tombstone but before the refund asks the gateway."""
    order = await run_to_the_end(worker, await aplace())
    await run_in_db(payments_services.start_refund, order_id=order.pk)
    charged = await run_in_db(lambda: order.payment.events.get(kind="charged"))
    assert charged.amount == order.total
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    books = await books_of(order)
    assert (books.events, books.net, books.attention) == (["charged", "refunded"], 0, [])
