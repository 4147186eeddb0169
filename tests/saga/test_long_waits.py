"""Hours and days of trouble on a server whose clock skips the waits: every attempt is made, none awaited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.client import Client
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from config.embedded.catalogue import find_temporal_binary
from config.temporal import run_in_db
from orders import desk, selectors
from orders.attention import list_work
from orders.models import AttentionFlag, Order, OrderStatus
from payments import activities
from payments.gateways.protocol import Gateway
from payments.gateways.sandbox import SandboxGateway
from tests.conftest import until, working
from tests.desk import (
    acheck_stock_sums,
    aplace,
    books_of,
    call,
    fetch,
    gateway_ledger,
    hand_over,
    mails_in_sink,
    read_trail,
    saga_of,
    undos_of,
)

# Nobody listens there.
NOWHERE = "http://127.0.0.1:9"


@pytest_asyncio.fixture
async def skipping(shop: None, settings: Any) -> AsyncIterator[Client]:
    """A worker on a server of its own whose sagas' clock jumps over every wait; gives its client.

    Retries as in production: from a second to a minute.
    """
    settings.SAGA_STEP_DEADLINE = 86_400.0
    settings.SAGA_RETRY_INITIAL = 1.0
    settings.SAGA_RETRY_MAXIMUM = 60.0
    settings.SAGA_RELEASE_AFTER = 20.0
    settings.SAGA_ATTENTION_AFTER = 10
    binary = find_temporal_binary()
    assert binary, "the temporal binary comes with requirements-dev.lock"
    options = [
        "frontend.WorkflowTimeSkippingEnabled=true",
        "history.transferProcessorMaxPollRPS=2000",
        "history.timerProcessorMaxPollRPS=2000",
        # Without it every skip takes a second.
        'history.timerProcessorMaxTimeShift="1ms"',
    ]
    async with (
        await WorkflowEnvironment.start_time_skipping_v2(
            dev_server_existing_path=str(binary),
            dev_server_extra_args=[part for option in options for part in ("--dynamic-config-value", option)],
            dev_server_log_level="error",
            ts_config=TimeSkippingConfig(max_session_skip_count=1_000_000),
        ) as environment,
        working(environment.client),
    ):
        yield environment.client


class Outage:
    """A gateway that cannot be reached for a time by the saga's clock, from its first attempt on."""

    def __init__(self, lasts: timedelta) -> None:
        self.lasts = lasts
        self.began: datetime | None = None
        self.attempts = 0
        self.over_at: datetime | None = None
        self.open = activities.open_gateway
        self.nowhere = SandboxGateway(NOWHERE, timeout=1.0)

    def open_gateway(self) -> Gateway:
        now = activity.info().current_attempt_scheduled_time
        self.began = self.began or now
        self.attempts += 1
        if now < self.began + self.lasts:
            return self.nowhere
        self.over_at = self.over_at or now
        return self.open()

    @property
    def took(self) -> timedelta:
        assert self.began
        assert self.over_at
        return self.over_at - self.began


@asynccontextmanager
async def gateway_down(monkeypatch: pytest.MonkeyPatch, lasts: timedelta) -> AsyncIterator[Outage]:
    """The gateway's address leads nowhere until the saga's clock says that the outage is over."""
    outage = Outage(lasts)
    with monkeypatch.context() as patch:
        patch.setattr(activities, "open_gateway", outage.open_gateway)
        async with aclosing(outage.nowhere):
            yield outage


async def see_flag(order: Order, subject: str) -> str:
    """Wait until the order is flagged about it; gives the reason."""

    def read() -> str:
        flags = AttentionFlag.objects.filter(order=order, subject=subject, cleared_at=None)
        return flags.values_list("reason", flat=True).first() or ""

    async def is_flagged() -> str:
        return await run_in_db(read)

    reason: str = await until(is_flagged, what=f"the order is flagged about {subject}")
    return reason


async def test_gateway_down_for_two_hours_delays_the_order_and_does_not_cancel_it(
    skipping: Client, monkeypatch: pytest.MonkeyPatch, admin_user: Any
) -> None:
    async with gateway_down(monkeypatch, timedelta(hours=2)) as outage:
        order = await aplace()
        await hand_over(skipping)
        reason = await see_flag(order, "process_payment")
        assert reason.startswith("process_payment has failed ")
        queue = await run_in_db(list_work, user=admin_user)
        assert [item.order_id for item in queue.items if item.kind == "failing step"] == [order.pk]
        ended = await asyncio.wait_for(saga_of(skipping, order).result(), 60)
    assert ended == "completed"
    assert outage.took >= timedelta(hours=2)
    # A minute apart once the waits have doubled up to it: none was left out, none came too early.
    assert 120 <= outage.attempts <= 130
    found = await fetch(order)
    assert found.status == OrderStatus.COMPLETED
    [payment] = [
        step for step in selectors.summarise_trail(found.trail.all()) if step.name == "process_payment"
    ]
    assert (payment.status, payment.attempts) == ("done", outage.attempts)
    books = await books_of(order)
    assert (books.events, books.mails, books.attention) == (["charged"], ["confirmation sent"], [])
    assert await gateway_ledger(order) == ["charge"]
    assert await mails_in_sink(order) == [f"<confirmation.{order.pk}@shop.example>"]
    await acheck_stock_sums()


async def test_gateway_down_for_longer_than_the_deadline_rolls_the_order_back(
    skipping: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step gives up after a day; the refund does not, and finds that nothing was charged."""
    settings.SAGA_RETRY_MAXIMUM = 900.0
    async with gateway_down(monkeypatch, timedelta(hours=26)) as outage:
        order = await aplace()
        await hand_over(skipping)
        assert await asyncio.wait_for(saga_of(skipping, order).result(), 90) == "cancelled"
    assert outage.took >= timedelta(hours=26)
    found = await fetch(order)
    assert (found.failed_step, found.failure_type) == ("process_payment", "GatewayUnavailable")
    assert undos_of(found)[0] == ("refund_payment", "nothing_to_undo")
    assert (await books_of(order)).net == 0
    assert await gateway_ledger(order) in ([], ["closed"])
    await acheck_stock_sums()


async def test_undo_stuck_for_three_days_is_retried_flagged_and_done_in_the_end(
    skipping: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_RETRY_MAXIMUM = 900.0
    order = await aplace()
    await hand_over(skipping)
    assert await asyncio.wait_for(saga_of(skipping, order).result(), 30) == "completed"
    async with gateway_down(monkeypatch, timedelta(days=3)) as outage:
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
        await hand_over(skipping)
        await see_flag(order, "refund_payment")

        async def is_released() -> bool:
            return ("release_inventory", "done") in read_trail(await fetch(order))

        # It waits for the refund no longer than release_after: the goods can be sold again.
        await until(is_released, what="the stock is released")
        stuck = await fetch(order)
        assert stuck.status == OrderStatus.CANCELLING
        assert ("refund_payment", "done") not in read_trail(stuck)
        assert await asyncio.wait_for(saga_of(skipping, order, cancel=True).result(), 90) == "cancelled"
    assert outage.took >= timedelta(days=3)
    assert 285 <= outage.attempts <= 305
    found = await fetch(order)
    assert (found.status, [name for name, _ in undos_of(found)][-2:]) == (
        OrderStatus.CANCELLED,
        ["cancel_order", "send_cancellation_email"],
    )
    assert {state for _, state in undos_of(found)} == {"done"}
    books = await books_of(order)
    assert (books.net, books.holds, books.attention) == (0, ["released"], [])
    assert await gateway_ledger(order) == ["charge", "refund"]
    await acheck_stock_sums()
