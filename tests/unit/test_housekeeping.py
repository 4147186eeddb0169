"""What has served its time is deleted, in small bites, by one process at a time, and nothing else is."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection, connections, transaction
from django.utils import timezone

from config.temporal import run_in_db
from orders import housekeeping
from orders.housekeeping import EXPIRED, LOCK, clean_up, delete_batch, run_housekeeping
from orders.models import ApiClient, AuditRun, IdempotentRequest, Order, RateLimit
from tests.conftest import until
from tests.desk import place
from tests.faults import connect

pytestmark = pytest.mark.usefixtures("shop")

DAY = timedelta(days=1)
MOMENT = timedelta(seconds=10)


def remember(key: str, *, age: timedelta) -> None:
    """A request that was carried out that long ago."""
    IdempotentRequest.objects.create(
        client=ApiClient.objects.get_or_create(name="shop")[0],
        method="POST",
        path="/api/v1/orders/",
        key=key,
        fingerprint="0" * 64,
        order=Order.objects.first() or place(),
        status=202,
        location="/",
        body="{}",
        created_at=timezone.now() - age,
    )


def limit(*subjects: str, age: timedelta) -> None:
    """Callers whose allowance has been whole again for that long."""
    for subject in subjects:
        RateLimit.objects.create(subject=subject, full_at=timezone.now() - age)


def log_in(*, age: timedelta) -> None:
    store = SessionStore()
    store["cart"] = "x"
    store.save()
    Session.objects.filter(pk=store.session_key).update(expire_date=timezone.now() - age)


def audit(*, age: timedelta) -> None:
    """The result of an audit, with one violation."""
    run = AuditRun.objects.create(
        started_at=timezone.now() - age, seconds=1, orders=1, violations=1, rules={"stock_held": 1}
    )
    run.found.create(rule="stock_held", sentence="TEE-M: 2 held.")


async def delete_all() -> dict[str, int]:
    return await clean_up(asyncio.Event())


def read_keys() -> set[str]:
    return set(IdempotentRequest.objects.values_list("key", flat=True))


async def test_only_what_has_served_its_time_goes() -> None:
    def fill() -> None:
        remember("a day and a bit", age=DAY + MOMENT)
        remember("not yet a day", age=DAY - MOMENT)
        remember("new", age=timedelta())
        limit("idle", age=DAY + MOMENT)
        limit("busy", age=DAY - MOMENT)
        limit("exhausted", age=-DAY)
        log_in(age=MOMENT)
        log_in(age=-MOMENT)
        audit(age=31 * DAY)
        audit(age=29 * DAY)

    await run_in_db(fill)
    gone = {"idempotent requests": 1, "rate limits": 1, "sessions": 1, "webhook deliveries": 0, "audits": 1}
    assert await delete_all() == gone
    assert await run_in_db(read_keys) == {"not yet a day", "new"}
    left = await run_in_db(lambda: set(RateLimit.objects.values_list("subject", flat=True)))
    assert left == {"busy", "exhausted"}
    assert await run_in_db(lambda: Session.objects.filter(expire_date__gt=timezone.now()).count()) == 1
    assert await run_in_db(Session.objects.count) == 1
    assert await run_in_db(Order.objects.count) == 1
    assert await delete_all() == dict.fromkeys(gone, 0)


async def test_requests_are_remembered_for_as_long_as_the_setting_says(settings: Any) -> None:
    settings.IDEMPOTENCY_KEEP = 3 * 86400.0
    await run_in_db(lambda: remember("two days", age=2 * DAY))
    await run_in_db(lambda: remember("four days", age=4 * DAY))
    await delete_all()
    assert await run_in_db(read_keys) == {"two days"}


async def test_the_latest_audit_stays_however_old(settings: Any) -> None:
    settings.AUDIT_KEEP = 3600.0
    for days in (3, 2):
        await run_in_db(audit, age=days * DAY)
    assert (await delete_all())["audits"] == 1
    assert await run_in_db(AuditRun.objects.count) == 1


async def test_many_rows_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 10)
    monkeypatch.setattr(delete_batch, "__kwdefaults__", {"limit": 10})
    sizes: list[int | None] = []

    def delete_and_note(*, name: str) -> int | None:
        sizes.append(delete_batch(name=name))
        return sizes[-1]

    monkeypatch.setattr(housekeeping, "delete_batch", delete_and_note)
    await run_in_db(lambda: limit(*map(str, range(25)), age=2 * DAY))
    assert (await delete_all())["rate limits"] == 25
    assert sizes == [0, 10, 10, 5, 0, 0, 0]


@contextmanager
def holding(statement: str, *parameters: object) -> Iterator[None]:
    """Another process in the middle of a transaction that has done this."""
    with connect() as other:
        other.execute("BEGIN")
        other.execute(statement, parameters)
        yield


async def test_a_second_housekeeper_leaves_it_to_the_first() -> None:
    await run_in_db(lambda: limit("idle", age=2 * DAY))
    with holding("SELECT pg_advisory_xact_lock(%s)", LOCK):
        assert (await delete_all())["rate limits"] == 0
        assert await run_in_db(RateLimit.objects.count) == 1
    assert (await delete_all())["rate limits"] == 1


def test_housekeepers_at_once_delete_each_row_once() -> None:
    """Four threads on four connections; what each says it deleted adds up."""
    limit(*map(str, range(200)), age=2 * DAY)

    def keep_house() -> int:
        deleted = 0
        deadline = time.monotonic() + 30
        try:
            while RateLimit.objects.exists():
                assert time.monotonic() < deadline
                with transaction.atomic():
                    deleted += delete_batch(name="rate limits", limit=7) or 0
        finally:
            connections.close_all()
        return deleted

    with ThreadPoolExecutor(4) as threads:
        shares = [done.result() for done in [threads.submit(keep_house) for _ in range(4)]]
    assert sum(shares) == 200


async def test_row_that_is_being_used_again_stays() -> None:
    """A caller comes back while its idle limit is about to be deleted: nobody waits, and the row stays."""
    await run_in_db(lambda: limit("back again", age=2 * DAY))
    await run_in_db(lambda: limit("idle", age=2 * DAY))
    with holding("UPDATE orders_ratelimit SET full_at = now() WHERE subject = 'back again'"):
        async with asyncio.timeout(5):
            assert (await delete_all())["rate limits"] == 1
    assert await run_in_db(lambda: RateLimit.objects.get().subject) == "back again"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("idempotent requests", "idempotent_request_by_age"),
        ("rate limits", "rate_limit_by_age"),
        ("sessions", "django_session_expire_date"),
    ],
)
def test_the_old_are_found_by_an_index(name: str, index: str) -> None:
    remember("model", age=timedelta())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders_idempotentrequest"
            " (method, path, key, fingerprint, status, location, body, client_id, order_id, created_at)"
            " SELECT method, path, key || n, fingerprint, status, location, body, client_id, order_id,"
            " now() - n * interval '10 seconds' FROM orders_idempotentrequest, generate_series(1, 20000) n"
        )
        cursor.execute(
            "INSERT INTO orders_ratelimit"
            " SELECT 'client ' || n, now() - n * interval '10 seconds' FROM generate_series(1, 20000) n"
        )
        cursor.execute(
            "INSERT INTO django_session SELECT 'session ' || n, 'x', now() + (n - 10) * interval '10 seconds'"
            " FROM generate_series(1, 20000) n"
        )
        cursor.execute("ANALYZE orders_idempotentrequest, orders_ratelimit, django_session")
    with transaction.atomic():
        plan = EXPIRED[name]().select_for_update(skip_locked=True)[:1000].explain()
    assert f"Index Scan using {index}" in plan, plan
    assert "Seq Scan" not in plan


# --- the loop of a worker -------------------------------------------------------------------------------


async def test_worker_keeps_house_again_and_again_and_says_so(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.HOUSEKEEPING_INTERVAL = 0.05
    caplog.set_level(logging.INFO, "orders.housekeeping")
    stop = asyncio.Event()
    running = asyncio.create_task(run_housekeeping(stop))
    for subject in ("first", "second"):
        await run_in_db(lambda subject=subject: limit(subject, age=2 * DAY))

        async def is_gone() -> bool:
            return not await run_in_db(RateLimit.objects.exists)

        await until(is_gone, what="the idle limit is gone")
    stop.set()
    await asyncio.wait_for(running, 5)
    lines = [record.getMessage() for record in caplog.records]
    said = "deleted what had served its time: 0 idempotent requests, 1 rate limits, 0 sessions, "
    assert lines == 2 * [f"{said}0 webhook deliveries, 0 audits"]


async def test_stopping_does_not_wait_for_the_interval_nor_for_the_rest(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HOUSEKEEPING_INTERVAL = 3600.0
    monkeypatch.setattr(delete_batch, "__kwdefaults__", {"limit": 1})
    monkeypatch.setattr(housekeeping, "BATCH", 1)
    await run_in_db(lambda: limit(*map(str, range(300)), age=2 * DAY))
    stop = asyncio.Event()
    running = asyncio.create_task(run_housekeeping(stop))

    async def has_begun() -> bool:
        return await run_in_db(RateLimit.objects.count) < 300

    await until(has_begun, what="some are gone")
    stop.set()
    await asyncio.wait_for(running, 5)
    assert await run_in_db(RateLimit.objects.exists)


async def test_database_away_is_survived(
    settings: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection of the database threads is cut, again and again, while the rounds go on."""
    settings.HOUSEKEEPING_INTERVAL = 0.05
    stop = asyncio.Event()
    await run_in_db(lambda: limit("idle", age=2 * DAY))
    with connect() as other:
        other.execute("BEGIN")
        # The rounds stop at the lock, so that the cut comes in the middle of one.
        other.execute("LOCK TABLE orders_ratelimit IN ACCESS EXCLUSIVE MODE")
        running = asyncio.create_task(run_housekeeping(stop))

        async def was_cut() -> bool:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE %s AND wait_event_type = 'Lock'",
                ["%orders_ratelimit%"],
            )
            return "has to wait for the next round" in caplog.text

        await until(was_cut, what="a round has failed and said so")
        assert not running.done()

    async def is_gone() -> bool:
        return not await run_in_db(RateLimit.objects.exists)

    await until(is_gone, what="a later round has done it")
    stop.set()
    await asyncio.wait_for(running, 5)
