"""The fixed pool of database threads: how long one waits for it, when a thread counts as free, and how its
connection gets over an outage."""

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from django.db import OperationalError, connection

from config import temporal
from config.temporal import DatabaseBusy, run_in_db, run_on_database_thread
from tests.faults import connect


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


def find_server() -> int:
    """The server process of this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found: int = cursor.fetchone()[0]
        return found


async def find_servers(size: int) -> list[int]:
    """Those of all connections of the pool, each of whose threads does something in a transaction."""
    together = threading.Barrier(size)

    def find_with_the_others() -> int:
        together.wait(10)  # so that every thread takes exactly one of these
        return find_server()

    servers = await asyncio.gather(*(run_in_db(find_with_the_others) for _ in range(size)))
    assert len(set(servers)) == size
    return servers


async def end_servers(size: int) -> None:
    """As an outage does: every connection of the pool is open, and ended by the server."""
    servers = await find_servers(size)
    with connect() as db:
        for server in servers:
            # Waits, at most so many milliseconds, until it has ended.
            assert db.execute("SELECT pg_terminate_backend(%s, 10000)", [server]).fetchone() == (True,)


async def test_one_connection_fails_after_an_outage_and_all_are_asked_then(
    transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal, "HEALTHY_FOR", 60.0)
    size = settings.WORKER_DB_THREADS
    await end_servers(size)
    with pytest.raises(OperationalError):
        await run_in_db(find_server)
    await find_servers(size)


async def test_connection_is_asked_again_when_it_has_not_been_for_a_while(
    transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal, "HEALTHY_FOR", 0.0)
    size = settings.WORKER_DB_THREADS
    await end_servers(size)
    await find_servers(size)
