"""`check_sagas`: running sagas replayed against this code, and against code they could not go on under."""

import asyncio
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from temporalio import workflow
from temporalio.client import Client

from config.temporal import run_in_db
from orders import replays
from orders.management.commands import check_sagas
from orders.models import Order
from orders.sagas.cancel_order import CancelOrderSaga
from orders.sagas.resend_email import ResendEmail
from tests.conftest import until
from tests.desk import aplace, fetch, hand_over, read_trail, saga_of
from tests.saga.test_replay import ReorderedSaga, SwappedSaga


@workflow.defn(name="PlaceOrderSaga")
class EmptiedSaga:
    """Another control: it schedules nothing at all."""

    @workflow.run
    async def run(self, saga: Any) -> str:
        return "completed"


async def run_some(client: Client, count: int) -> list[Order]:
    """Orders whose payment fails and is tried again: each has run two steps and is at its third."""
    orders = [await aplace(token="tok_error_500") for _ in range(count)]
    await hand_over(client)

    async def all_try() -> bool:
        trails = [read_trail(await fetch(order)) for order in orders]
        return all(("process_payment", "failed") in trail for trail in trails)

    await until(all_try, what="the payments have failed")

    async def are_listed() -> bool:
        verdict = await replays.check_running_sagas(client, at_once=4)
        return verdict.replayed == count

    # What Temporal lists is a moment behind what it runs.
    await until(are_listed, what="all are listed")
    return orders


async def check(at_once: int = 8) -> str:
    """What the command prints; it has an event loop of its own."""
    out = StringIO()

    def run() -> None:
        try:
            call_command("check_sagas", at_once=at_once, stdout=out)
        finally:
            connections.close_all()  # this thread's own

    await asyncio.to_thread(run)
    return out.getvalue()


async def end(client: Client, orders: list[Order]) -> None:
    for order in orders:
        await saga_of(client, order).terminate()


async def test_running_sagas_go_on_under_the_code_they_run_under(worker: Client) -> None:
    orders = await run_some(worker, 12)
    assert await check(at_once=3) == "12 running sagas would go on under this code.\n"
    await end(worker, orders)


async def test_none_running_is_fine(worker: Client) -> None:
    assert await check() == "0 running sagas would go on under this code.\n"


@pytest.mark.parametrize(
    ("saga", "event"),
    [
        (SwappedSaga, "6 ACTIVITY_TASK_SCHEDULED"),
        (ReorderedSaga, "5 MARKER_RECORDED"),
        (EmptiedSaga, "5 MARKER_RECORDED"),
    ],
)
async def test_code_that_would_break_them_is_refused_with_order_and_event(
    worker: Client, monkeypatch: pytest.MonkeyPatch, saga: type, event: str
) -> None:
    orders = await run_some(worker, 2)
    monkeypatch.setattr(replays, "SAGAS", [saga, CancelOrderSaga, ResendEmail])
    verdict = await replays.check_running_sagas(worker, at_once=4)
    assert (verdict.replayed, [found.event for found in verdict.breaks]) == (2, [event] * 2)
    with pytest.raises(CommandError, match="2 of 2 running sagas would break: do not deploy") as refused:
        await check()
    assert refused.value.returncode == 1
    lines = await run_in_db(check_sagas.describe_breaks, breaks=verdict.breaks)
    for order in orders:
        [line] = [line for line in lines if str(order.pk) in line]
        assert line.startswith(f"order {order.number} (order-{order.pk}): breaks at event {event}: ")
        assert "Nondeterminism" in line
    await end(worker, orders)


async def test_saga_this_code_does_not_know_is_refused(
    worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = await run_some(worker, 1)
    monkeypatch.setattr(replays, "SAGAS", [CancelOrderSaga])
    verdict = await replays.check_running_sagas(worker, at_once=1)
    assert "PlaceOrderSaga is not registered" in verdict.breaks[0].why
    await end(worker, orders)


@pytest.mark.parametrize(
    ("setting", "value"), [("TEMPORAL_ADDRESS", "127.0.0.1:1"), ("TEMPORAL_NAMESPACE", "no")]
)
async def test_temporal_that_cannot_be_asked_is_no_verdict(
    shop: None, settings: Any, setting: str, value: str
) -> None:
    setattr(settings, setting, value)
    with pytest.raises(CommandError, match="could not be asked, so nothing is known") as refused:
        await check()
    assert refused.value.returncode == 2


async def test_number_of_replays_is_checked() -> None:
    with pytest.raises(CommandError, match="1 to 64") as refused:
        await check(at_once=0)
    assert refused.value.returncode == 2
