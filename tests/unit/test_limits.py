"""The allowance of a caller: spent at once or evenly, the same for all threads, and honest about the wait."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.utils import timezone

from orders.limits import spend
from orders.models import RateLimit


def let_pass(seconds: float) -> None:
    """As if that many seconds had gone by."""
    RateLimit.objects.update(full_at=F("full_at") - timedelta(seconds=seconds))


def spend_all(per_minute: int) -> None:
    assert [spend(subject="till", per_minute=per_minute) for _ in range(per_minute)] == [0] * per_minute


# --- one caller -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 7, 13, 30])
def test_a_minutes_allowance_may_be_spent_at_once_and_no_more(db: None, per_minute: int) -> None:
    spend_all(per_minute)
    assert spend(subject="till", per_minute=per_minute) > 0


@pytest.mark.parametrize("per_minute", [1, 7, 30])
def test_the_allowance_comes_back_evenly(db: None, per_minute: int) -> None:
    spend_all(per_minute)
    let_pass(60 / per_minute)
    assert spend(subject="till", per_minute=per_minute) == 0
    assert spend(subject="till", per_minute=per_minute) > 0
    let_pass(3600)
    spend_all(per_minute)
    assert spend(subject="till", per_minute=per_minute) > 0


def test_a_refused_request_costs_nothing(db: None) -> None:
    spend_all(6)
    before = RateLimit.objects.get().full_at
    assert {spend(subject="till", per_minute=6) for _ in range(20)} <= {8, 9, 10}
    assert RateLimit.objects.get().full_at == before


def test_callers_have_an_allowance_each(db: None) -> None:
    spend_all(3)
    assert spend(subject="shop", per_minute=3) == 0
    assert spend(subject="till", per_minute=3) > 0


@pytest.mark.parametrize("per_minute", [1_000_000, 2**31 - 1])
def test_a_limit_out_of_reach_refuses_nothing(db: None, per_minute: int) -> None:
    assert {spend(subject="till", per_minute=per_minute) for _ in range(50)} == {0}


def test_counting_changes_nothing_about_how_other_work_is_committed(transactional_db: None) -> None:
    def read_setting() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            return str(cursor.fetchone()[0])

    before = read_setting()
    assert before != "off"
    with transaction.atomic():
        assert spend(subject="till", per_minute=5) == 0
        assert read_setting() == before
    assert spend(subject="till", per_minute=5) == 0
    assert read_setting() == before


# --- how long to wait -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 6, 40])
@pytest.mark.parametrize("full_in", [60.5, 61.5, 75.5, 119.5])
def test_the_wait_is_whole_seconds_enough_and_not_too_long(db: None, per_minute: int, full_in: float) -> None:
    RateLimit.objects.create(subject="till", full_at=timezone.now() + timedelta(seconds=full_in))
    wait = spend(subject="till", per_minute=per_minute)
    assert wait >= 1
    let_pass(wait - 1)
    assert spend(subject="till", per_minute=per_minute) == 1
    let_pass(1)
    assert spend(subject="till", per_minute=per_minute) == 0


def test_waiting_as_long_as_it_said_is_enough_by_the_real_clock(db: None) -> None:
    spend_all(30)
    time.sleep(spend(subject="till", per_minute=30))  # 2 s: what is tested is this very wait
    assert spend(subject="till", per_minute=30) == 0


# --- many at once -----------------------------------------------------------------------------------------

ALLOWED = 5  # one more comes back after 12 s
THREADS = 40


def ask_at_once(ask: Callable[[threading.Barrier], bool]) -> int:
    """How many of the threads, each with a connection of its own, are let through."""
    together = threading.Barrier(THREADS)

    def ask_and_let_go() -> bool:
        try:
            connections["default"].ensure_connection()
            return ask(together)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(each.result() for each in [pool.submit(ask_and_let_go) for _ in range(THREADS)])


@pytest.mark.parametrize("is_known", [True, False])
def test_exactly_the_allowance_gets_through_at_once(transactional_db: None, is_known: bool) -> None:
    if is_known:
        RateLimit.objects.create(subject="till", full_at=timezone.now() - timedelta(hours=1))

    def ask(together: threading.Barrier) -> bool:
        together.wait(30)
        return spend(subject="till", per_minute=ALLOWED) == 0

    assert ask_at_once(ask) == ALLOWED


def test_without_the_one_statement_more_than_the_allowance_gets_through(transactional_db: None) -> None:
    """The control: the same rule as a read and a write."""
    share = timedelta(seconds=60 / ALLOWED)
    RateLimit.objects.create(subject="till", full_at=timezone.now())

    def ask(together: threading.Barrier) -> bool:
        full_at = RateLimit.objects.get(subject="till").full_at
        together.wait(30)
        now = timezone.now()
        if full_at + share > now + timedelta(minutes=1):
            return False
        RateLimit.objects.filter(subject="till").update(full_at=max(full_at, now) + share)
        return True

    assert ask_at_once(ask) == THREADS
