"""Several requests of one session at the same time, really in parallel: one order, and no cart comes back."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client as Browser

from orders import desk
from orders.models import Order
from orders.services import Decision
from orders.storefront import session
from tests.e2e.storefront import cart_of, fill_cart, open_form, page_of, read
from tests.faults import count_blocked, pausing
from tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("shop")

ROUNDS = 5
CLICKS = 6


def tab_of(browser: Browser) -> Browser:
    """Another tab of the same browser."""
    tab = Browser()
    tab.cookies.update(browser.cookies)
    return tab


def in_thread(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, for a thread of its own, whose connection nobody else would close."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            connection.close()

    return run


def send_at_once(browser: Browser, form: dict[str, str]) -> list[Any]:
    """The form, sent from several tabs at the same moment."""
    together = threading.Barrier(CLICKS)

    def click(tab: Browser) -> Any:
        together.wait(10)
        return tab.post("/checkout/", form)

    with ThreadPoolExecutor(CLICKS) as pool:
        return list(pool.map(in_thread(click), [tab_of(browser) for _ in range(CLICKS)]))


def unlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the session's row unlocked."""
    monkeypatch.setattr(session, "lock_row", lambda key: Session.objects.filter(session_key=key).exists())


@pytest.mark.parametrize("is_locked", [True, False])
def test_parallel_clicks_place_one_order(monkeypatch: pytest.MonkeyPatch, is_locked: bool) -> None:
    """Either guard is enough: the session's lock, or the id the order has before it exists."""
    if not is_locked:
        unlock(monkeypatch)
    for _ in range(ROUNDS):
        browser = Browser()
        fill_cart(browser)
        form = open_form(browser)
        answers = send_at_once(browser, form)
        placed = Order.objects.get(pk=form["order_id"])
        assert {answer.get("Location") for answer in answers} == {page_of(placed)}
        assert cart_of(browser) == {}
    assert Order.objects.count() == ROUNDS


def test_without_both_guards_parallel_clicks_order_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the test above would see it."""
    place_order = desk.place_order

    def place_anew(**order: Any) -> Decision:
        return place_order(**{**order, "order_id": uuid4()})

    unlock(monkeypatch)
    monkeypatch.setattr(desk, "place_order", place_anew)
    for _ in range(ROUNDS):
        browser = Browser()
        fill_cart(browser)
        send_at_once(browser, open_form(browser))
    assert Order.objects.count() > ROUNDS


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_tab_that_changes_the_cart_while_it_is_ordered(
    monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    """The lock keeps an emptied cart empty. The control, without it: the cart comes back, and ordering it
    says that it was ordered."""
    if not is_locked:
        unlock(monkeypatch)
    browser = Browser()
    fill_cart(browser, ("MUG-STONE", 2))
    form = open_form(browser)
    with ThreadPoolExecutor(2) as pool, pausing("django_session", "UPDATE") as pause:
        ordering = pool.submit(in_thread(tab_of(browser).post), "/checkout/", form)
        wait_until(pause.is_reached, "the order is about to empty the cart")
        adding = pool.submit(
            in_thread(tab_of(browser).post), "/cart/add/", {"sku": "PEN-BRASS", "quantity": "1"}
        )
        wait_until(
            lambda: count_blocked("django_session") == 2,
            "the other tab waits as well, for the row or to write",
        )
        pause.release()
        placed = Order.objects.get(pk=form["order_id"]) if ordering.result(20) else None
        assert adding.result(20).status_code == 302
    assert placed is not None
    expected = {"PEN-BRASS": 1} if is_locked else {"MUG-STONE": 2, "PEN-BRASS": 1}
    assert cart_of(browser) == expected

    again = open_form(browser)
    answer = browser.post("/checkout/", again)
    if is_locked:
        assert again["order_id"] != form["order_id"]
        assert answer["Location"] == page_of(Order.objects.get(pk=again["order_id"]))
    else:
        assert f"had already become order {placed.number}" in read(answer)
        assert Order.objects.count() == 1


def test_two_tabs_that_put_something_in_lose_nothing() -> None:
    browser = Browser()
    fill_cart(browser, ("MUG-STONE", 1))
    skus = ["PEN-BRASS", "TEE-M", "TEE-L", "NOTE-A5", "LAMP-DESK", "BAG-ROLL"]

    def add(sku: str) -> int:
        return int(tab_of(browser).post("/cart/add/", {"sku": sku, "quantity": "1"}).status_code)

    with ThreadPoolExecutor(len(skus)) as pool:
        assert set(pool.map(in_thread(add), skus)) == {302}
    assert cart_of(browser) == dict.fromkeys(["MUG-STONE", *skus], 1)
