"""The fixed pool of database threads: how long one waits for it, and when a thread counts as free."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from config.temporal import DatabaseBusy, run_on_database_thread


async def fill(size: int, seconds: float) -> list["asyncio.Task[None]"]:
    busy = [asyncio.create_task(run_on_database_thread(lambda: time.sleep(seconds))) for _ in range(size)]
    await asyncio.sleep(0)  # each has asked for its thread
    return busy


@pytest.mark.parametrize("cancelled", [False, True], ids=["running", "given up"])
async def test_thread_is_free_when_its_work_is_done_and_not_when_the_caller_gives_up(
    settings: Any, cancelled: bool
) -> None:
    settings.WORKER_DB_WAIT = 0.3
    busy = await fill(settings.WORKER_DB_THREADS, 1.5)
    if cancelled:
        await asyncio.sleep(0.1)
        for task in busy:
            task.cancel()
    with pytest.raises(DatabaseBusy):
        await run_on_database_thread(lambda: None)
    settings.WORKER_DB_WAIT = 5.0
    await run_on_database_thread(lambda: None)  # and then it is free again
    for task in busy:
        with contextlib.suppress(asyncio.CancelledError):
            await task
