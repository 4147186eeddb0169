"""Following an order by its trail: ETags, and long polls that wait for news and no longer."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from orders.api import waiting
from orders.models import ApiClient as MachineClient
from orders.models import Order, TrailEntry
from tests.e2e.api import ORDERS, client_of, make_client, make_order, read_problem
from tests.local_services import wait_until


@pytest.fixture
def shop_client(shop: None) -> MachineClient:
    return make_client()


@pytest.fixture
def order(shop_client: MachineClient) -> Order:
    return make_order(shop_client)


@pytest.fixture
def api(shop_client: MachineClient) -> APIClient:
    return client_of(shop_client)


@pytest.fixture
def aside() -> Iterator[Callable[..., "Future[Any]"]]:
    """Runs calls in threads of their own, which give their connections back."""
    with ThreadPoolExecutor(10) as pool:

        def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            finally:
                connections.close_all()

        yield lambda function, *args, **options: pool.submit(call, function, *args, **options)


def trail_of(order: Order) -> str:
    return f"{ORDERS}{order.pk}/trail/"


def count_waiting() -> int:
    return waiting._waiting.total()


def add_step(order: Order, name: str = "create_order", state: str = "done") -> TrailEntry:
    now = timezone.now()
    return TrailEntry.objects.create(
        order=order, name=name, kind="step", state=state, started_at=now,
        finished_at=None if state == "running" else now, ms=12, worker="w",
    )  # fmt: skip


def test_the_trail_says_what_the_order_says_of_it(api: APIClient, order: Order) -> None:
    add_step(order)
    add_step(order, "reserve_inventory", "running")
    whole = api.get(f"{ORDERS}{order.pk}/").json()
    response = api.get(trail_of(order))
    body = response.json()
    shared = ("number", "status", "is_settled", "cancel_requested", "failed_step", "failure", "trail")
    assert {name: body[name] for name in shared} == {name: whole[name] for name in shared}
    assert body["order"] == whole["id"]
    assert [(step["name"], step["status"]) for step in body["trail"]] == [
        ("create_order", "done"),
        ("reserve_inventory", "running"),
    ]
    assert api.get(body["links"]["order"]).json() == whole
    assert "Preference-Applied" not in response.headers


def test_it_is_read_by_one_query(api: APIClient, order: Order) -> None:
    address = trail_of(order)
    api.get(address)
    counts = []
    for name in ("create_order", "reserve_inventory"):
        with CaptureQueriesContext(connection) as queries:
            api.get(address)
        counts.append(len([query for query in queries if "orders_trailentry" in query["sql"]]))
        add_step(order, name)
    assert counts == [1, 1]


def test_an_unchanged_trail_is_a_304_and_every_change_is_not(api: APIClient, order: Order) -> None:
    address = trail_of(order)
    entry = add_step(order, state="failed")
    changes: list[Callable[[], object]] = [
        lambda: TrailEntry.objects.filter(pk=entry.pk).update(attempts=2),
        lambda: TrailEntry.objects.filter(pk=entry.pk).update(state="done"),
        lambda: add_step(order, "reserve_inventory"),
        lambda: Order.objects.filter(pk=order.pk).update(status="created"),
        lambda: Order.objects.filter(pk=order.pk).update(cancel_requested_at=timezone.now()),
    ]
    seen = set()
    for change in changes:
        etag = api.get(address).headers["ETag"]
        seen.add(etag)
        assert api.get(address, HTTP_IF_NONE_MATCH=etag).status_code == 304
        assert api.get(address, HTTP_IF_NONE_MATCH=f"W/{etag}").status_code == 304
        change()
        assert api.get(address, HTTP_IF_NONE_MATCH=etag).status_code == 200
    assert len(seen) == len(changes)


# --- waiting ---------------------------------------------------------------------------------------------


def test_a_wait_for_news_ends_with_the_first_change(
    api: APIClient, order: Order, aside: Callable[..., "Future[Any]"]
) -> None:
    address = trail_of(order)
    etag = api.get(address).headers["ETag"]
    answer = aside(api.get, address, HTTP_IF_NONE_MATCH=etag, HTTP_PREFER="wait=15")
    wait_until(lambda: count_waiting() == 1)
    began = time.monotonic()
    add_step(order)
    response = answer.result(15)
    assert time.monotonic() - began < 5
    assert (response.status_code, len(response.json()["trail"])) == (200, 1)
    assert response.headers["Preference-Applied"] == "wait=15"
    assert count_waiting() == 0


def test_a_wait_without_an_etag_ends_when_the_order_is_settled(
    api: APIClient, order: Order, aside: Callable[..., "Future[Any]"]
) -> None:
    answer = aside(api.get, trail_of(order), HTTP_PREFER="wait=15")
    wait_until(lambda: count_waiting() == 1)
    add_step(order)
    Order.objects.filter(pk=order.pk).update(status="created")
    add_step(order, "reserve_inventory")
    assert not answer.done()
    Order.objects.filter(pk=order.pk).update(status="completed", completed_at=timezone.now())
    body = answer.result(15).json()
    assert (body["status"], body["is_settled"], len(body["trail"])) == ("completed", True, 2)


def test_a_settled_order_and_a_known_change_are_answered_at_once(api: APIClient, order: Order) -> None:
    etag = api.get(trail_of(order)).headers["ETag"]
    Order.objects.filter(pk=order.pk).update(status="completed", completed_at=timezone.now())
    began = time.monotonic()
    for known in ("", etag):
        response = api.get(trail_of(order), HTTP_PREFER="wait=20", HTTP_IF_NONE_MATCH=known)
        assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=20")
    assert time.monotonic() - began < 5


def test_when_the_time_is_up_there_is_a_304_or_what_there_is(api: APIClient, order: Order) -> None:
    etag = api.get(trail_of(order)).headers["ETag"]
    began = time.monotonic()
    response = api.get(trail_of(order), HTTP_PREFER="wait=1", HTTP_IF_NONE_MATCH=etag)
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["Preference-Applied"] == "wait=1"
    assert 1 <= time.monotonic() - began < 5
    response = api.get(trail_of(order), HTTP_PREFER="wait=1")
    assert (response.status_code, response.json()["is_settled"]) == (200, False)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("wait=20", 20),
        ("wait=21", 20),
        ("wait=999999999", 20),
        ("respond-async, WAIT = 5; x=1", 5),
        ('wait="7"', 7),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=" + "9" * 5000, 0),
        ("wait=\N{SUPERSCRIPT TWO}", 0),
        ("wait", 0),
        ("waiter=5", 0),
        ("", 0),
    ],
)
def test_the_preference_is_read_as_the_rfc_has_it_and_capped(prefer: str, seconds: int) -> None:
    class Asked:
        headers = {"Prefer": prefer}

    assert waiting.read_wait(Asked()) == seconds  # type: ignore[arg-type]


def test_only_so_many_wait_at_once_and_the_others_are_answered_at_once(
    api: APIClient, order: Order, settings: Any, aside: Callable[..., "Future[Any]"]
) -> None:
    settings.API_LONG_POLLS = 2
    others, third = make_client("another"), make_client("a third")
    orders = [order, make_order(others), make_order(third)]
    callers = [api, client_of(others), client_of(third)]
    waiters = [
        aside(callers[place].get, trail_of(orders[place]), HTTP_PREFER="wait=20") for place in range(2)
    ]
    wait_until(lambda: count_waiting() == 2)
    began = time.monotonic()
    response = callers[2].get(trail_of(orders[2]), HTTP_PREFER="wait=20")
    assert time.monotonic() - began < 5
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers
    Order.objects.update(status="completed", completed_at=timezone.now())
    assert all(waiter.result(15).headers["Preference-Applied"] == "wait=20" for waiter in waiters)
    assert count_waiting() == 0


@pytest.mark.parametrize(("places", "own"), [(1, 1), (3, 1), (4, 2), (5, 2)])
def test_a_client_takes_half_of_the_places_at_most(
    api: APIClient, order: Order, settings: Any, aside: Callable[..., "Future[Any]"], places: int, own: int
) -> None:
    settings.API_LONG_POLLS = places
    waiters = [aside(api.get, trail_of(order), HTTP_PREFER="wait=20") for _ in range(own)]
    wait_until(lambda: count_waiting() == own)
    began = time.monotonic()
    refused = api.get(trail_of(order), HTTP_PREFER="wait=20")
    assert time.monotonic() - began < 5
    assert (refused.status_code, "Preference-Applied" in refused.headers) == (200, False)
    if places > own:
        other = make_client("another")
        waiters.append(aside(client_of(other).get, trail_of(make_order(other)), HTTP_PREFER="wait=20"))
        wait_until(lambda: count_waiting() == own + 1)
    Order.objects.update(status="completed", completed_at=timezone.now())
    assert all(waiter.result(15).headers["Preference-Applied"] == "wait=20" for waiter in waiters)
    assert not waiting._waiting


def test_a_failing_wait_gives_its_place_back(api: APIClient, counter: None) -> None:
    read_problem(api.get(f"{ORDERS}00000000-0000-4000-8000-000000000000/trail/", HTTP_PREFER="wait=9"), 404)
    assert count_waiting() == 0


def test_a_wait_holds_no_transaction(
    api: APIClient, order: Order, aside: Callable[..., "Future[Any]"]
) -> None:
    """Seen from outside: while it waits, its connection is in no transaction and holds no lock."""
    answer = aside(api.get, trail_of(order), HTTP_PREFER="wait=15")
    wait_until(lambda: count_waiting() == 1)
    states: set[str] = set()

    def look() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND query LIKE '%%trailentry%%'"
            )
            states.update(row[0] for row in cursor.fetchall())
        return "idle" in states

    wait_until(look)
    assert not {state for state in states if "in transaction" in state}
    Order.objects.filter(pk=order.pk).update(status="completed", completed_at=timezone.now())
    assert answer.result(15).status_code == 200
