"""Temporal, the workers or the database away: the shop keeps answering, says so, and catches up by itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from django.contrib.auth.models import User

from orders.models import Order, OrderStatus
from orders.selectors import get_order
from tests.crash.shopping import ask, post_cancel, post_order, read_gateway, status_of
from tests.crash.visiting import PASSWORD, Visitor, check_problem
from tests.desk import check_stock_sums, read_trail
from tests.own_services import PATIENCE, Web, own_postgres, own_temporal, serving, silence
from tests.processes import PROJECT, Crew, build_environment, wait_until

# Servers and processes start several times over, on whatever else the machine has to do.
pytestmark = pytest.mark.timeout(300)

PREPARE = f"""
from django.contrib.auth.models import User
from inventory.catalogue import seed_catalogue
from tests.crash.shopping import make_key
seed_catalogue()
User.objects.create_superuser("boss", password="{PASSWORD}")
print(make_key())
"""


@contextmanager
def visiting(web: Web, secret: str, *, is_known: bool = False) -> Iterator[Visitor]:
    """A visitor who is logged in; in the test's database the user has to be made first."""
    if not is_known:
        User.objects.create_superuser("boss", password=PASSWORD)
    with httpx.Client(base_url=web.address, timeout=PATIENCE, follow_redirects=True) as browser:
        visitor = Visitor(browser, web.address, secret, user="boss")
        assert visitor.log_in().status_code == 200
        yield visitor


def test_shop_answers_and_takes_orders_while_temporal_is_down_and_they_finish_when_it_is_back(
    start: Callable[..., Crew], secret: str, tmp_path: Path
) -> None:
    with own_temporal(tmp_path) as temporal:
        crew = start(1, TEMPORAL_ADDRESS=temporal.address)
        crew.wait_ready(1)
        limits = {"OUTBOX_ATTENTION_AFTER": "2"}
        with (
            serving(TEMPORAL_ADDRESS=temporal.address, **limits) as web,
            visiting(web, secret) as shop,
        ):
            before = shop.place()
            wait_until(lambda: status_of(before) == OrderStatus.COMPLETED, "an order before the outage")

            temporal.kill()
            orders = [shop.place() for _ in range(5)]
            unwanted = shop.place()
            assert post_cancel(web.address, secret, unwanted).status_code == 202
            too_late = post_cancel(web.address, secret, before)  # it is completed: a saga of its own
            assert too_late.status_code == 202
            shop.check_everything_answers(orders[0])
            shop.wait_for("/admin/", "Temporal is not reachable")
            assert {status_of(order) for order in orders} == {OrderStatus.PENDING}
            assert {shop.fetch(order)["status"] for order in (before, unwanted)} == {"cancelling", "pending"}
            wait_until(
                lambda: all(shop.fetch(order)["needs_attention"] for order in [*orders, unwanted, before]),
                "all need attention",
            )
            assert shop.read("/admin/").count("Temporal has not been told to start order") == 6

            temporal.start()
            wait_until(
                lambda: (
                    {status_of(order) for order in orders} == {OrderStatus.COMPLETED}
                    and {status_of(order) for order in (before, unwanted)} == {OrderStatus.CANCELLED}
                ),
                "all have ended",
                within=60,
            )
            assert not any(shop.fetch(order)["needs_attention"] for order in [*orders, unwanted, before])
            shop.check_everything_answers(orders[0])
        assert len(crew.pids_of()) == 1  # neither it nor the web process was restarted
        crew.clean_up()
    for order in orders:
        assert read_gateway(order) == ["charge"]
        assert [state for _, state in read_trail(get_order(Order.objects.get(pk=order).pk))] == ["done"] * 5
    assert read_gateway(before) == ["charge", "refund"]
    assert read_gateway(unwanted).count("charge") == read_gateway(unwanted).count("refund")
    check_stock_sums()


def test_shop_answers_while_temporal_hangs(secret: str) -> None:
    """It takes connections and never says a word: nobody waits for it for long."""
    with (
        silence() as silent,
        serving(TEMPORAL_ADDRESS=silent) as web,
        visiting(web, secret) as shop,
    ):
        order = shop.place()
        assert post_cancel(web.address, secret, order).status_code == 202
        shop.check_everything_answers(order)
        shop.check_every_thread_answers()
        shop.wait_for("/admin/", "Temporal is not reachable")


def test_shop_answers_and_takes_orders_without_a_worker_and_they_finish_when_one_comes(
    start: Callable[..., Crew], secret: str
) -> None:
    with serving(ATTENTION_WAITING_AFTER="1") as web, visiting(web, secret) as shop:
        orders = [shop.place() for _ in range(5)]
        unwanted = shop.place()
        assert post_cancel(web.address, secret, unwanted).status_code == 202
        shop.check_everything_answers(orders[0])
        shop.wait_for("/admin/", "No worker is running")
        assert {status_of(order) for order in orders} == {OrderStatus.PENDING}
        number = Order.objects.get(pk=orders[0]).number
        sentence = f"Order {number} over 9.90 EUR does not move: it is pending, and no step has run yet"
        shop.wait_for("/admin/", sentence)

        start(1)
        wait_until(
            lambda: (
                {status_of(order) for order in orders} == {OrderStatus.COMPLETED}
                and status_of(unwanted) == OrderStatus.CANCELLED
            ),
            "all have ended",
        )
    for order in orders:
        assert read_gateway(order) == ["charge"]
    check_stock_sums()


def prepare_database(url: str) -> str:
    """The schema, a stocked shop, a log-in, and a machine client, whose key it gives."""
    environment = {**os.environ, **build_environment(), "DATABASE_URL": url}
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "migrate", "-v0"], cwd=PROJECT, env=environment, check=True, timeout=60)
    answer = subprocess.run(
        [*manage, "shell", "-v0", "-c", PREPARE],
        cwd=PROJECT, env=environment, check=True, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    return answer.stdout.strip().splitlines()[-1]


def test_shop_says_so_while_the_database_is_down_and_goes_on_when_it_is_back(
    start: Callable[..., Crew],
) -> None:
    with own_postgres() as postgres:
        secret = prepare_database(postgres.url)
        crew = start(1, DATABASE_URL=postgres.url)
        crew.wait_ready(1)
        with serving(DATABASE_URL=postgres.url) as web, visiting(web, secret, is_known=True) as shop:
            orders = [shop.place() for _ in range(10)]
            shop.check_every_thread_answers()

            postgres.kill()
            shop.check_everything_says_so(orders[0])
            refused = post_order(web.address, secret, key="sent again")
            check_problem(refused)
            shop.check_everything_says_so(orders[0])

            postgres.start()
            wait_until(lambda: shop.browser.get("/readyz").status_code == 200, "the site is ready again")
            shop.check_every_thread_answers()
            shop.check_everything_answers(orders[0])
            orders.append(shop.place("sent again"))
            wait_until(
                lambda: {shop.fetch(order)["status"] for order in orders} == {"completed"},
                "all are completed",
                within=60,
            )
        assert len(crew.pids_of()) == 1
        crew.clean_up()
    for order in orders:
        assert read_gateway(order) == ["charge"]


def test_database_that_never_answers_holds_nobody_for_long(shop: None) -> None:
    """It takes connections and never says a word, as behind a broken network."""
    with silence() as silent, serving(DATABASE_URL=f"postgresql://orders:x@{silent}/orders") as web:
        check_problem(ask(web.address, "odk_unknown", "/products/"))
        answer = httpx.get(f"{web.address}/readyz", timeout=PATIENCE)
        assert answer.status_code == 503
        assert httpx.get(f"{web.address}/healthz", timeout=PATIENCE).status_code == 200
