"""Side jobs of a worker: one that fails is started again, one that is cancelled or told to stop is not."""

import asyncio
import logging
from typing import Any

import pytest

from orders import worker
from orders.worker import keep_running


@pytest.fixture(autouse=True)
def hasty(monkeypatch: Any) -> None:
    monkeypatch.setattr(worker, "START_AGAIN_AFTER", 0.01)


async def test_fault_is_logged_with_its_traceback_and_the_job_starts_again(caplog: Any) -> None:
    runs: list[int] = []

    async def fail_at_first() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise ValueError("a defect")

    with caplog.at_level(logging.ERROR):
        await asyncio.wait_for(keep_running("it", fail_at_first, asyncio.Event()), 10)
    assert len(runs) == 3
    assert caplog.text.count("ValueError: a defect") == 2


async def test_stop_ends_the_wait_for_the_next_start(monkeypatch: Any) -> None:
    monkeypatch.setattr(worker, "START_AGAIN_AFTER", 3600.0)
    stop = asyncio.Event()

    async def fail() -> None:
        stop.set()
        raise ValueError("a defect")

    await asyncio.wait_for(keep_running("it", fail, stop), 10)


async def test_cancelled_job_is_not_started_again() -> None:
    runs: list[int] = []

    async def hang() -> None:
        runs.append(1)
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("it", hang, asyncio.Event()))
    while not runs:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [1]
