"""What a load is made of: its figures, its plan, what processes take, and how its orders are followed."""

import os
import statistics
import subprocess
import sys
from collections import Counter

import httpx
import pytest

from inventory.models import Product, StockItem
from orders.management.load import course as course_module
from orders.management.load.course import Course
from orders.management.load.doors import ApiDoor, DeskDoor, Door, name_problem
from orders.management.load.figures import estimate_interval, find_percentile, summarise
from orders.management.load.goods import count_units, stocked
from orders.management.load.outcome import read_outcome
from orders.management.load.plan import DECLINED, SKUS, Plan
from orders.management.load.processes import (
    Meter,
    has_proc,
    iterate_family,
    parse_stat,
    read_memory,
    read_stats,
)
from orders.models import Order
from tests.processes import wait_until

needs_proc = pytest.mark.skipif(not has_proc(), reason="this system has no /proc")


def test_percentiles_lie_between_their_neighbours() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert [find_percentile(values, share) for share in (0, 0.5, 1)] == [1.0, 3.0, 5.0]
    assert find_percentile(values, 0.95) == pytest.approx(4.8)
    assert find_percentile([7.0], 0.99) == 7.0
    assert summarise(range(1, 102)) == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    assert summarise([]) == {"p50": None, "p95": None, "p99": None}
    with pytest.raises(ValueError, match="nothing"):
        find_percentile([], 0.5)


def test_interval_holds_the_median_and_is_the_same_each_time() -> None:
    values = [0.52, 0.48, 0.50, 0.61, 0.47, 0.55, 0.49]
    low, high = estimate_interval(values)
    assert (low, high) == estimate_interval(values)
    assert min(values) <= low < statistics.median(values) < high <= max(values)
    narrow = estimate_interval(values, share=0.5)
    assert low <= narrow[0] <= narrow[1] <= high
    assert estimate_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="nothing"):
        estimate_interval([])


@pytest.mark.parametrize(("share", "declined"), [(0.0, 0), (0.3, 30), (0.25, 25), (1.0, 100)])
def test_declined_orders_are_exactly_their_share_and_spread_evenly(share: float, declined: int) -> None:
    plan = Plan(orders=100, concurrency=1, decline_rate=share)
    are_declined = [plan.make_wish(index).token == DECLINED for index in range(100)]
    assert sum(are_declined) == declined
    for tenth in range(0, 100, 20):
        assert sum(are_declined[tenth : tenth + 20]) == round(20 * share)


def test_wishes_are_for_different_goods_unless_one_is_hot() -> None:
    def count(plan: Plan) -> Counter[str]:
        return Counter(item.sku for index in range(plan.orders) for item in plan.make_wish(index).items)

    spread, hot = (Plan(orders=150, concurrency=1, lines=2, is_hot=is_hot) for is_hot in (False, True))
    assert set(count(spread).values()) == {3}
    assert set(count(hot)) == set(SKUS[:2])
    assert max(count(spread).values()) <= count_units(spread)
    assert max(count(hot).values()) <= count_units(hot)
    assert len({spread.make_wish(index).key for index in range(150)}) == 150


def test_stat_is_read_whatever_the_process_is_called() -> None:
    text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100 200 300"
    stat = parse_stat(text, ticks=100)
    assert (stat.pid, stat.parent, stat.own, stat.reaped) == (42, 7, 2.0, 0.5)


BURN = "import time\nwhile time.process_time() < 0.3: pass"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("ended", flush=True)
sys.stdin.read()
"""


@needs_proc
def test_processor_time_of_a_family_includes_children_that_have_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        meter = Meter({"family": parent.pid, "nobody": None})
        assert parent.stdout.readline() == "ended\n"
        spent = meter.measure()
        stats = read_stats()
        assert [stat.pid for stat in iterate_family(parent.pid, stats)] == [parent.pid]
        assert parent.pid in [stat.pid for stat in iterate_family(os.getpid(), stats)]
        memory = read_memory(parent.pid)
        parent.stdin.close()
    assert spent["family"] is not None
    assert spent["family"] >= 0.25
    # This process has only waited: what its children take is not its own.
    assert spent["client"] is not None
    assert spent["client"] < spent["family"]
    assert spent["nobody"] is None
    assert memory is not None
    assert 0 < memory[0] <= memory[1]
    assert read_memory(parent.pid) is None


def ignore(ended: int, in_flight: int, rate: float) -> None:
    """Nobody watches."""


@pytest.mark.usefixtures("shop")
def test_no_more_orders_are_unfinished_at_once_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "PATIENCE", 0.5)  # nobody works: none of them ever ends
    plan = Plan(orders=10, concurrency=3)
    course = Course(plan, DeskDoor)
    with stocked(count_units(plan)):
        course.run(ignore)
    assert Order.objects.filter(customer_email=plan.email).count() == 3
    outcome = read_outcome(plan, since=course.began_at, accepted_at=course.accepted_at)
    assert (outcome.unfinished, outcome.ended, course.ended) == (3, 0, 0)
    assert len(course.accept_ms) == 3
    # The shop sells them no longer, and holds what was received.
    assert not Product.objects.filter(sku__in=SKUS, is_active=True).exists()
    assert StockItem.objects.filter(product__sku__in=SKUS).count() == len(SKUS)


@pytest.mark.usefixtures("shop")
def test_open_loop_places_all_however_many_are_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "PATIENCE", 0.5)
    plan = Plan(orders=10, concurrency=3, rate=50.0)
    course = Course(plan, DeskDoor)
    with stocked(count_units(plan)):
        course.run(ignore)
    accepted = Order.objects.filter(customer_email=plan.email).order_by("accepted_at")
    times = [order.accepted_at for order in accepted]
    assert len(times) == 10
    # The last is due after 9/50 s, however long the first ones took.
    assert (times[-1] - course.began_at).total_seconds() >= 0.17
    assert read_outcome(plan, since=course.began_at, accepted_at=course.accepted_at).unfinished == 10


@pytest.mark.usefixtures("shop")
def test_refusals_are_counted_by_kind() -> None:
    plan = Plan(orders=5, concurrency=2)
    course = Course(plan, DeskDoor)
    course.run(ignore)  # nobody has made the goods
    assert course.errors == {"InvalidOrder": 5}

    def open_dead_door() -> Door:
        return ApiDoor("http://127.0.0.1:9", "no-key")

    course = Course(plan, open_dead_door)
    course.run(ignore)
    assert course.errors == {"ConnectError": 5}


def test_problems_of_the_api_are_named() -> None:
    problem = httpx.Response(
        409,
        headers={"Content-Type": "application/problem+json"},
        json={"type": "urn:problem-type:order-desk:short-of-stock"},
    )
    assert name_problem(problem) == "409 short-of-stock"
    assert name_problem(httpx.Response(502, text="<h1>Bad Gateway</h1>")) == "502"


@pytest.mark.usefixtures("shop")
def test_what_a_thread_cannot_cope_with_ends_the_course() -> None:
    def open_no_door() -> Door:
        raise RuntimeError("no door")

    course = Course(Plan(orders=5, concurrency=2), open_no_door)
    with pytest.raises(RuntimeError, match="no door"):
        course.run(ignore)
    wait_until(lambda: course.is_over, "the course is over")
