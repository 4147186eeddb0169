"""The admin's front page: what it shows to whom, its self-update, and what it says of the engine."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from temporalio.api.taskqueue.v1 import PollerInfo
from temporalio.client import Client

from config import temporal as config_temporal
from config.temporal import run_in_db
from inventory.models import Product
from orders import health
from orders.models import AttentionFlag, CancelRequest, OutboxMessage
from tests.conftest import until
from tests.desk import place
from tests.e2e.doors import log_in, make_user, set_status
from tests.processes import Crew, wait_until

FRONT = "/admin/"
LIVE = "/admin/front/"


@pytest.fixture
def elsewhere(settings: Any) -> Iterator[Callable[[str], None]]:
    """Points this process at another Temporal for the time of a test: `elsewhere("host:port")`."""

    def move(address: str) -> None:
        settings.TEMPORAL_ADDRESS = address
        config_temporal._background_of.cache_clear()

    yield move
    config_temporal._background_of.cache_clear()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def read(browser: Browser, address: str = FRONT) -> str:
    """The page as a person reads it: without tags, on one line."""
    answer = browser.get(address)
    assert answer.status_code == 200
    return read_text(answer.content.decode())


def read_text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


# --- the page --------------------------------------------------------------------------------------------


def test_front_page_is_where_the_admin_begins(boss: Browser) -> None:
    assert reverse("admin:index") == FRONT
    html = boss.get(FRONT).content.decode()
    assert "Needs attention" in html
    for name in ("orders_order_changelist", "orders_rollback_changelist", "orders_order_add"):
        assert f'href="{reverse(f"admin:{name}")}"' in html
    # The stock list of apps stays.
    assert reverse("admin:auth_user_changelist") in html


def test_nobody_sees_it_without_logging_in(counter: None) -> None:
    for address in (FRONT, LIVE):
        answer = Browser().get(address)
        assert (answer.status_code, answer.headers["Location"]) == (302, f"/admin/login/?next={address}")


def test_each_item_links_to_its_order_and_its_actions(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelling")
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "it has failed 11 times")
    html = boss.get(FRONT).content.decode()
    assert f"The refund for order {order.number} is stuck: it has failed 11 times" in read_text(html)
    links = [unescape(link) for link in re.findall(r'href="([^"]+)"', html)]
    assert f"/admin/orders/order/{order.pk}/change/" in links
    for slug in ("retry", "resolve"):
        assert f"/admin/orders/order/act/{slug}/?order={order.pk}&undo=refund_payment" in links


def test_low_product_links_to_its_page_and_its_booking(boss: Browser) -> None:
    product = Product.objects.create(sku="LOW", name="Low", price=1)
    html = boss.get(FRONT).content.decode()
    assert f'href="/admin/inventory/product/{product.pk}/change/"' in html
    assert f'href="/admin/inventory/product/{product.pk}/stock/"' in html


def test_nothing_to_do_is_said_calmly(boss: Browser) -> None:
    assert "Nothing needs you." in read(boss)


def test_numbers_of_today_are_shown(boss: Browser) -> None:
    place()
    set_status(place(), "cancelled")
    page = read(boss)
    assert re.search(r"Orders accepted today 2 0 by this time yesterday", page)
    assert re.search(r"Taken today, less refunds 0\.00 EUR", page)
    assert re.search(r"Rollbacks begun today 1 0 by this time yesterday 1 of today's orders \(50\s%\)", page)
    assert re.search(r"In progress now 1 ", page)


@pytest.mark.parametrize(
    ("permissions", "shown"),
    [
        ((), set()),
        (("add_order",), {"Place an order"}),
        (("view_product",), {"Needs attention"}),
        (("view_order",), {"Needs attention", "Orders accepted today", "Workers and Temporal"}),
        (
            ("view_order", "view_payment"),
            {"Needs attention", "Orders accepted today", "Taken today", "Workers and Temporal"},
        ),
    ],
)
def test_everybody_sees_a_page_of_their_own(
    counter: None, permissions: tuple[str, ...], shown: set[str]
) -> None:
    page = read(log_in("staff", *permissions))
    words = {"Needs attention", "Orders accepted today", "Taken today", "Workers and Temporal"}
    words.add("Place an order")
    assert {word for word in words if word in page} == shown


def test_what_people_and_servers_wrote_is_escaped(boss: Browser) -> None:
    hostile = "<script>alert(1)</script><b onmouseover='x'>"
    order = place()
    set_status(order, "completed")
    AttentionFlag.objects.raise_flag(order.pk, "refunded_twice", hostile)
    CancelRequest.objects.create(
        order=order, refund=400, reason=hostile, requested_by=make_user("<i>mallory</i>")
    )
    OutboxMessage.objects.update(created_at=timezone.now() - timedelta(hours=1), last_error=hostile)
    Product.objects.create(sku="<u>", name=hostile, price=1)
    html = boss.get(FRONT).content.decode()
    assert "alert(1)" in html
    for tag in ("<script>alert", "<b ", "<i>", "<u>"):
        assert tag not in html


def test_queries_do_not_grow_with_the_queue(boss: Browser) -> None:
    boss.get(FRONT)
    counts = []
    for _ in range(2):
        for _ in range(3):
            order = place()
            set_status(order, "cancelling")
            AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "stuck")
            Product.objects.create(sku=f"LOW-{order.number}", name="Low", price=1)
        with CaptureQueriesContext(connection) as captured:
            boss.get(LIVE)
        counts.append(len(captured))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("query", ["?x=%00", "?only=%00&page=99999999999999999999999", "?_popup=1&e=1"])
def test_odd_parameters_change_nothing(boss: Browser, query: str) -> None:
    for address in (FRONT, LIVE):
        assert boss.get(address + query).status_code == 200


# --- the part that updates itself ------------------------------------------------------------------------


def test_live_part_is_unchanged_until_something_happens(boss: Browser) -> None:
    first = boss.get(LIVE)
    assert first.status_code == 200
    assert "<html" not in first.content.decode()
    again = boss.get(LIVE, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    place()
    changed = boss.get(LIVE, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_live_part_is_what_the_page_begins_with(boss: Browser) -> None:
    place()
    assert boss.get(LIVE).content.decode() in boss.get(FRONT).content.decode()


def test_page_says_where_its_live_parts_come_from(boss: Browser) -> None:
    html = boss.get(FRONT).content.decode()
    assert f'data-live-url="{LIVE}"' in html
    assert 'data-live-summary="Nothing needs attention."' in html
    assert re.findall(r'data-live-section="(\w+)"', html) == ["alarm", "numbers", "queue", "engine"]
    AttentionFlag.objects.raise_flag(place().pk, "process_payment", "it keeps failing")
    assert 'data-live-summary="1 item needs attention."' in boss.get(LIVE).content.decode()


def test_live_part_is_only_read(boss: Browser) -> None:
    assert boss.post(LIVE).status_code == 405


# --- the engine ------------------------------------------------------------------------------------------


def test_stopped_temporal_is_said_and_does_not_hold_the_page(
    boss: Browser, elsewhere: Callable[[str], None], closed_port: str
) -> None:
    elsewhere(closed_port)
    page = read(boss)
    assert "Temporal is not reachable. Orders are still accepted" in page
    assert f"(no connection to {closed_port}.)" in page
    assert "Unknown while Temporal is not reachable." in page


def test_temporal_that_never_answers_is_given_up_in_time(
    boss: Browser, elsewhere: Callable[[str], None], silent_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIME_LIMIT", 0.2)
    elsewhere(silent_port)
    assert "Temporal is not reachable." in read(boss)
    # The next page does not ask again.
    asked = health._answers.copy()
    assert "Temporal is not reachable." in read(boss)
    assert health._answers == asked


def test_address_that_is_not_set_is_an_answer(boss: Browser, elsewhere: Callable[[str], None]) -> None:
    elsewhere("")
    assert "Temporal is not reachable." in read(boss)


def test_no_worker_is_an_alarm(shop: None) -> None:
    page = read(log_in("viewer", "view_order"))
    assert "No worker is running. Orders are still accepted, but none of them moves" in page
    assert "None has asked for work in the last 5 minutes." in page


async def test_worker_is_shown_with_its_last_poll(worker: Client) -> None:
    browser = await run_in_db(log_in, name="boss", superuser=True)

    async def page() -> str:
        health._answers.clear()
        text = await run_in_db(read, browser=browser)
        return text if f"test-{os.getpid()}" in text else ""

    text = await until(page, what="the worker")
    assert re.search(rf"polling test-{os.getpid()} last poll at \d\d:\d\d:\d\d", text)
    assert "No worker is running" not in text


def test_every_process_of_a_crew_is_shown(start: Callable[..., Crew]) -> None:
    crew = start(2)
    crew.wait_ready(2)
    browser = log_in("viewer", "view_order")
    pids = {str(pid) for pid in crew.pids_of()}

    def are_shown() -> bool:
        health._answers.clear()
        return set(re.findall(r"polling worker-\d@[^: ]+:(\d+)", read(browser))) == pids

    wait_until(are_shown, f"{pids} are shown")


def test_worker_that_no_longer_asks_is_silent_unless_it_was_replaced() -> None:
    now = datetime.now(UTC)

    def poll(identity: str, age: int) -> PollerInfo:
        info = PollerInfo(identity=identity)
        info.last_access_time.FromDatetime(now - timedelta(seconds=age))
        return info

    signs = health._merge_polls(
        [
            poll("worker-1@host:10", 200),
            poll("worker-1@host:20", 200),
            poll("worker-1@host:20", 5),
            poll("worker-2@host:11", 200),
            poll("worker-3@host:12", 60),
        ]
    )
    assert [(sign.identity, sign.is_silent, sign.is_replaced) for sign in signs] == [
        ("worker-1@host:10", True, True),
        ("worker-1@host:20", False, False),
        ("worker-2@host:11", True, False),
        ("worker-3@host:12", False, False),
    ]
    assert health.EngineState(workers=signs).is_worked
    assert not health.EngineState(workers=signs[2:3]).is_worked
