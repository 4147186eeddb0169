"""The bridge between Django and Temporal: the client, the background loop, database work from async code."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from contextvars import ContextVar, copy_context
from datetime import timedelta
from functools import lru_cache
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction
from temporalio import activity
from temporalio.client import Client
from temporalio.common import MetricHistogramTimedelta

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseBusy(Exception):
    """No database thread became free in time. Temporal asks again later."""


class Attempt(Protocol):
    """What records an attempt of an activity (the trail); runs inside the activity's own transactions."""

    def flush(self, result: object, *, last: bool) -> None:
        """Write what is known now; `last` marks the transaction that holds the effect."""


current_attempt: ContextVar[Attempt | None] = ContextVar("current_attempt", default=None)


@lru_cache(maxsize=1)
def database_threads(pid: int) -> ThreadPoolExecutor:
    """This process's fixed pool: one thread is one database connection."""
    return ThreadPoolExecutor(settings.WORKER_DB_THREADS, thread_name_prefix=f"db-{pid}")


_free_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def run_in_db(work: Callable[..., T], /, *, last: bool = True, **arguments: Any) -> T:
    """Run `work(**arguments)` in one transaction on a database thread and return its result.

    Inside an activity the trail is flushed in the same transaction: with `last=False` the attempt is
    written ahead as running, with `last=True` its outcome is written, so that effect and trail commit
    together or not at all. A refusal that `work` returns is such an outcome, too; the caller then raises it.
    Raises DatabaseBusy when no thread is free within WORKER_DB_WAIT seconds, and whatever `work` raises.
    """

    def transact() -> T:
        global _failed_at
        renew_connection()
        try:
            with transaction.atomic():
                result = work(**arguments)
                attempt = current_attempt.get()
                if attempt is not None:
                    attempt.flush(result, last=last)
                return result
        except (OperationalError, InterfaceError):
            _failed_at = time.monotonic()
            raise
        finally:
            close_old_connections()

    return await run_on_database_thread(transact)


# For how many seconds a connection counts as working once it was found so.
HEALTHY_FOR = 1.0
# When this thread's connection was last asked (`at`), and when one of the process last failed.
_asked = threading.local()
_failed_at = -math.inf


def renew_connection() -> None:
    """Let go of this thread's connection if it is broken or old, so that the next statement opens another.

    As close_old_connections, but asking a connection whether it works is a statement of its own: one that
    did within the last HEALTHY_FOR seconds is not asked again, unless any of the process has failed since.
    """
    close_old_connections()
    now = time.monotonic()
    asked_at: float = getattr(_asked, "at", -math.inf)
    if _failed_at < asked_at and now < asked_at + HEALTHY_FOR:
        connection.health_check_done = True  # type: ignore[attr-defined]  # unknown to the stubs
    else:
        _asked.at = now  # by the transaction that begins now


async def run_on_database_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread of the fixed pool, waiting at most WORKER_DB_WAIT seconds for one."""
    loop = asyncio.get_running_loop()
    free = _free_threads.setdefault(loop, asyncio.Semaphore(settings.WORKER_DB_THREADS))
    asked = time.monotonic()
    try:
        # Nothing to wait for is the rule, and then it need not be timed.
        async with asyncio.timeout(settings.WORKER_DB_WAIT) if free.locked() else nullcontext():
            await free.acquire()
    except TimeoutError:
        raise DatabaseBusy(f"no database thread was free within {settings.WORKER_DB_WAIT:.0f} s") from None
    try:
        if activity.in_activity():
            wait = timedelta(seconds=time.monotonic() - asked)
            _build_histogram(activity.info().activity_type).record(wait)
        running = database_threads(os.getpid()).submit(copy_context().run, work)
    except BaseException:
        free.release()
        raise
    # Free when the thread is, not when the caller gives up: a cancelled attempt leaves its transaction
    # running. sync_to_async would hide that moment.
    running.add_done_callback(lambda _: _release(loop, free))
    return await asyncio.wrap_future(running)


@lru_cache
def _build_histogram(activity_type: str) -> MetricHistogramTimedelta:
    """The histogram of waits in activities of this type, which its meter puts onto each of them."""
    return activity.metric_meter().create_histogram_timedelta(
        "database_thread_wait", "Time an activity waited for a database thread"
    )


def _release(loop: asyncio.AbstractEventLoop, free: asyncio.Semaphore) -> None:
    # A loop that has ended has nobody left who waits for a thread.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(free.release)


async def connect_temporal(*, lazy: bool = False, identity: str | None = None) -> Client:
    """A client for TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE. `lazy` connects at the first call instead."""
    if not settings.TEMPORAL_ADDRESS:
        raise RuntimeError(
            "TEMPORAL_ADDRESS is not set: name the Temporal server, for example localhost:7233."
        )
    return await Client.connect(
        settings.TEMPORAL_ADDRESS, namespace=settings.TEMPORAL_NAMESPACE, lazy=lazy, identity=identity
    )


class BackgroundLoop:
    """One event loop in a daemon thread, with one lazily connected client, for synchronous Django code."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="temporal", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start `work` on the loop and return at once."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def client(self) -> Client:
        """The loop's client; to be awaited on the loop."""
        if self._client is None:
            self._client = await connect_temporal(lazy=True)
        return self._client


@lru_cache(maxsize=1)
def _background_of(pid: int) -> BackgroundLoop:
    return BackgroundLoop()


def background() -> BackgroundLoop:
    """This process's background loop. Keyed by pid: the SDK's core does not survive a fork."""
    return _background_of(os.getpid())
