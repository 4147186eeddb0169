"""When Temporal tries a failed attempt again, as the trail says it: checked against what it then does."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from config.temporal import run_in_db
from orders import desk
from orders.models import Order, StepState, TrailEntry
from orders.refusals import PaymentRefused
from orders.trail import find_retry
from tests.conftest import until
from tests.desk import LAPTOPS, aplace, call, fetch, hand_over, run_to_the_end, saga_of

NOW = timezone.now()
POLICY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
OUTAGE = ConnectionError("no answer")


def read_entry(order: Order, name: str) -> TrailEntry | None:
    return TrailEntry.objects.filter(order=order, name=name).order_by("-id").first()


async def until_failed(order: Order, name: str) -> TrailEntry:
    """Wait until the last attempt of the step or undo has failed, and return its row."""

    async def find() -> TrailEntry | None:
        entry = await run_in_db(read_entry, order=order, name=name)
        return entry if entry is not None and entry.state == StepState.FAILED else None

    entry: TrailEntry = await until(find, what=f"{name} failed")
    return entry


async def test_a_step_that_waits_says_when_it_is_tried_again_and_no_longer_once_it_succeeded(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 2.0
    order = await aplace(token="tok_error_500_x2")
    await hand_over(worker)
    waiting = await until_failed(order, "process_payment")
    assert waiting.finished_at is not None
    assert waiting.retry_at is not None
    assert waiting.retry_at - waiting.finished_at == pytest.approx(
        timedelta(seconds=2), abs=timedelta(seconds=1)
    )
    await asyncio.wait_for(saga_of(worker, order).result(), 30)
    done = await run_in_db(read_entry, order=order, name="process_payment")
    assert done is not None
    assert (done.state, done.attempts, done.retry_at) == (StepState.DONE, 3, None)
    # The last attempt began when the trail had said it would, and not before.
    assert done.started_at >= waiting.retry_at


async def test_an_undo_set_going_by_hand_no_longer_waits(worker: Client, settings: Any) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 300.0
    order = await run_to_the_end(worker, await aplace(token="tok_ok__refund_error_500_x1"))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    await hand_over(worker)
    waiting = await until_failed(order, "refund_payment")
    assert waiting.retry_at is not None
    assert waiting.retry_at > timezone.now() + timedelta(seconds=200)
    await call(desk.retry_undo, order_id=order.pk, undo="refund_payment", actor="ada", reason="bank is back")
    await hand_over(worker)
    await asyncio.wait_for(saga_of(worker, order, cancel=True).result(), 20)
    done = await run_in_db(read_entry, order=order, name="refund_payment")
    assert done is not None
    assert (done.state, done.retry_at) == (StepState.DONE, None)


async def test_a_refusal_waits_for_nothing(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace(LAPTOPS))
    refused = next(entry for entry in (await fetch(order)).trail.all() if entry.name == "process_payment")
    assert (refused.state, refused.error_type, refused.retry_at) == (
        StepState.FAILED,
        "PaymentRefused",
        None,
    )


async def test_a_step_whose_deadline_comes_first_waits_for_nothing(worker: Client, settings: Any) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 300.0
    order = await run_to_the_end(worker, await aplace(token="tok_error_500"))
    failed = next(entry for entry in (await fetch(order)).trail.all() if entry.name == "process_payment")
    assert (failed.state, failed.attempts, failed.retry_at) == (StepState.FAILED, 1, None)


def reckon(error: Exception, *, attempt: int = 1, **changes: Any) -> datetime | None:
    """What `find_retry` answers inside an activity with the sagas' policy."""
    info = replace(
        ActivityEnvironment.default_info(),
        attempt=attempt,
        **{"retry_policy": POLICY, "scheduled_time": NOW, "schedule_to_close_timeout": None, **changes},
    )
    return find_retry(info, error, now=NOW)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (4, 8), (6, 32), (7, 60), (1025, 60), (100_000, 60)]
)
def test_the_wait_doubles_up_to_its_maximum(attempt: int, seconds: int) -> None:
    assert reckon(OUTAGE, attempt=attempt) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("error", "changes", "seconds"),
    [
        (ApplicationError("busy", next_retry_delay=timedelta(seconds=7)), {"attempt": 5}, 7),
        (ApplicationError("busy", type="GatewayUnavailable"), {}, 1),
        (ApplicationError("no", non_retryable=True), {}, None),
        (PaymentRefused("declined"), {}, None),
        (OUTAGE, {"retry_policy": None}, None),
        (OUTAGE, {"retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1)), "attempt": 20}, 100),
        (OUTAGE, {"attempt": 4, "schedule_to_close_timeout": timedelta(seconds=5)}, None),
        (OUTAGE, {"attempt": 2, "schedule_to_close_timeout": timedelta(seconds=5)}, 2),
    ],
)
def test_the_wait_follows_the_error_the_policy_and_the_deadline(
    error: Exception, changes: dict[str, Any], seconds: int | None
) -> None:
    expected = None if seconds is None else NOW + timedelta(seconds=seconds)
    assert reckon(error, **changes) == expected
