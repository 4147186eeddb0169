"""Customers in a real browser, with real workers: buying, being declined, watching, cancelling."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from orders.models import Order
from tests.browser.storefront import (
    EMAIL,
    MASKED,
    SHIFTS,
    add,
    go_to_checkout,
    only_order,
    open_tab,
    read_shifts,
    see_headline,
    see_way,
    send,
)
from tests.browser.test_csp import Watch
from tests.desk import check_stock_sums, read_books
from tests.e2e.storefront import page_of, set_available, set_price
from tests.gateway import run_server
from tests.processes import Crew

Start = Callable[..., Crew]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_customer_buys_and_watches_it_complete(
    start: Start, live_server: LiveServer, page: Page, width: int
) -> None:
    page = open_tab(page, width=width)
    watch = Watch(page)
    page.add_init_script(SHIFTS)
    page.goto(live_server.url)
    page.evaluate("window.isTheSamePage = true")
    add(page, "Stoneware mug", 2)
    add(page, "Brass ballpoint pen")
    assert page.evaluate("window.isTheSamePage") is True  # putting in needs no new page
    expect(page.locator("#cart-link")).to_have_text("Cart 3 items")
    page.get_by_role("link", name=re.compile("^Cart")).click()
    page.get_by_label("Quantity of Stoneware mug").fill("1")
    page.get_by_role("button", name="Go to checkout").click()  # takes the quantity along
    expect(page.locator(".total")).to_contain_text("46.50 EUR")
    page.get_by_label("E-mail").fill(EMAIL)
    send(page)

    see_headline(page, "We are working on your order")
    page.evaluate("window.isTheSamePage = true")
    start(1, SHOP_URL=live_server.url).wait_ready(1)
    see_headline(page, "Your order is confirmed")
    see_way(
        page,
        "We have received your order",
        "Your items are set aside",
        "Payment of 46.50 EUR taken",
        "Confirmation sent",
        f"to {MASKED}",
        "Your order is ready to be shipped",
    )
    assert page.evaluate("window.isTheSamePage") is True
    assert read_shifts(page) == []
    assert watch.found == []

    placed = only_order()
    assert (str(placed.total), placed.status, placed.placed_by) == ("46.50", "completed", None)
    mails = httpx.get(f"{os.environ['MAIL_SINK_URL']}/messages.json", params={"to": EMAIL}).json()
    assert any(str(placed.pk) in mail["message_id"] for mail in mails)
    # The link in the mail, opened somewhere else.
    mail = placed.emails.get()
    link = re.search(r"http\S+", mail.text)
    assert link is not None
    assert link[0] == live_server.url + page_of(placed)
    elsewhere = open_tab(page, width=width)
    elsewhere.goto(link[0])
    see_headline(elsewhere, "Your order is confirmed")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_declined_card_is_seen_rolling_back(
    start: Start, live_server: LiveServer, page: Page, width: int
) -> None:
    page = open_tab(page, width=width)
    page.add_init_script(SHIFTS)
    go_to_checkout(page, live_server.url)
    page.get_by_label("A card that is declined").check()
    send(page)
    see_headline(page, "We are working on your order")
    start(1).wait_ready(1)
    see_headline(page, "Your order was cancelled")
    expect(page.locator(".lead")).to_have_text("The bank declined the payment. Nothing was charged.")
    see_way(
        page,
        "Your items are set aside",
        "The bank declined the payment",
        "Nothing was charged",
        "Your items are back on sale",
        "Your order is cancelled",
        "Cancellation sent",
        f"to {MASKED}",
    )
    expect(page.get_by_role("link", name="Cancel this order")).to_have_count(0)
    assert read_shifts(page) == []
    books = read_books(only_order().pk)
    assert (books.net, books.held) == (0, 0)
    check_stock_sums()


def test_a_bank_that_does_not_answer_is_waited_for(
    start: Start, live_server: LiveServer, page: Page, tmp_path: Path
) -> None:
    with run_server(tmp_path / "ledger.sqlite") as gateway:
        gateway.set_fault(operation="charge", fault="error_500").raise_for_status()
        start(1, PAYMENT_GATEWAY_URL=gateway.url).wait_ready(1)
        page.add_init_script(SHIFTS)
        go_to_checkout(page, live_server.url)
        send(page)
        see_way(page, "Your items are set aside", "The bank does not answer yet; we keep trying")
        expect(page.locator(".lead")).to_contain_text("Somebody at the shop looks after it", timeout=40_000)
        assert "500" not in page.locator("main").inner_text()
        gateway.http.delete("/faults").raise_for_status()
        see_headline(page, "Your order is confirmed")
        assert read_shifts(page) == []


def test_selling_out_between_cart_and_checkout_keeps_the_cart(
    shop: None, live_server: LiveServer, page: Page
) -> None:
    go_to_checkout(page, live_server.url, quantity=5)
    set_available("MUG-STONE", 3)
    send(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Not all of it is left")
    expect(page.locator("main [autofocus]")).to_be_focused()
    expect(page.get_by_text("Only 3 left; you have 5 in your cart.")).to_be_visible()
    assert not Order.objects.exists()
    page.get_by_role("button", name="Adjust my cart to what is left").click()
    expect(page.get_by_role("status")).to_contain_text("Stoneware mug: now 3 instead of 5.")
    expect(page.get_by_label("E-mail")).to_have_value(EMAIL)
    send(page)
    see_headline(page, "We are working on your order")
    assert str(only_order().total) == "43.50"


def test_a_new_price_is_seen_before_it_is_paid(shop: None, live_server: LiveServer, page: Page) -> None:
    go_to_checkout(page, live_server.url)
    set_price("MUG-STONE", "30.60")
    send(page)
    expect(page.locator(".warning")).to_contain_text("The total is now 61.20 EUR, not 29.00 EUR.")
    expect(page.locator(".warning")).to_be_focused()
    page.get_by_role("button", name="Order and pay 61.20 EUR").click()
    see_headline(page, "We are working on your order")
    assert str(only_order().total) == "61.20"


@pytest.mark.parametrize("has_script", [True, False])
def test_a_double_click_orders_once(
    shop: None, live_server: LiveServer, page: Page, has_script: bool
) -> None:
    page = open_tab(page, java_script_enabled=has_script)
    go_to_checkout(page, live_server.url)
    page.get_by_role("button", name=re.compile("^Order and pay")).dblclick()
    see_headline(page, "We are working on your order")
    assert Order.objects.count() == 1


def test_back_and_reload_order_nothing_more(shop: None, live_server: LiveServer, page: Page) -> None:
    go_to_checkout(page, live_server.url)
    send(page)
    see_headline(page, "We are working on your order")
    page.reload()
    see_headline(page, "We are working on your order")
    page.go_back()
    if page.get_by_role("button", name=re.compile("^Order and pay")).count():
        # The browser shows the old form as it was: sending it leads to its order.
        page.get_by_label("E-mail").fill(EMAIL)
        send(page)
        see_headline(page, "We are working on your order")
    else:
        expect(page.get_by_text("There is nothing in it yet.")).to_be_visible()
        page.get_by_role("link", name="your order").click()
        see_headline(page, "We are working on your order")
    assert Order.objects.count() == 1


def test_two_tabs_of_one_cart_order_once(shop: None, live_server: LiveServer, page: Page) -> None:
    page = open_tab(page)
    go_to_checkout(page, live_server.url)
    other = page.context.new_page()
    other.goto(f"{live_server.url}/checkout/")
    other.get_by_label("E-mail").fill("eve@example.com")
    send(page)
    see_headline(page, "We are working on your order")
    send(other)
    expect(other.get_by_role("heading", level=1)).to_have_text("This order was already placed")
    other.get_by_role("link", name=re.compile("See order")).click()
    see_headline(other, "We are working on your order")
    assert only_order().customer_email == EMAIL


def test_a_customer_cancels_and_gets_the_money_back(
    start: Start, live_server: LiveServer, page: Page
) -> None:
    start(1).wait_ready(1)
    go_to_checkout(page, live_server.url)
    send(page)
    see_headline(page, "Your order is confirmed")
    page.add_init_script(SHIFTS)
    page.get_by_role("link", name="Cancel this order").click()
    expect(page.get_by_text("You get 29.00 EUR back the way you paid.")).to_be_visible()
    page.get_by_role("button", name="Cancel the order").click()
    see_headline(page, "Your order was cancelled")
    expect(page.locator(".lead")).to_have_text("You requested it. 29.00 EUR refunded.")
    see_way(page, "Payment of 29.00 EUR taken", "29.00 EUR refunded", "Cancellation sent")
    assert read_shifts(page) == []
    books = read_books(only_order().pk)
    assert (books.net, books.held) == (0, 0)


def test_the_whole_journey_without_a_script(start: Start, live_server: LiveServer, page: Page) -> None:
    start(1).wait_ready(1)
    page = open_tab(page, java_script_enabled=False, width=390)
    page.goto(f"{live_server.url}/?q=mug")
    add(page, "Stoneware mug", 2)
    expect(page.get_by_text("put in your cart")).to_be_focused()
    page.get_by_role("link", name="Go to your cart").click()
    page.get_by_label("Quantity of Stoneware mug").fill("0.5")
    page.get_by_label("Quantity of Stoneware mug").press("Enter")
    expect(page.locator(".problems")).to_contain_text("Stoneware mug: A quantity is a whole number.")
    expect(page.locator(".problems")).to_be_focused()
    page.goto(live_server.url)
    add(page, "Desk lamp")
    page.get_by_role("link", name="Go to your cart").click()
    page.get_by_label("Quantity of Stoneware mug").fill("3")
    page.get_by_role("button", name="Remove Desk lamp").click()
    expect(page.get_by_text("Desk lamp was taken out of your cart.")).to_be_visible()
    expect(page.get_by_label("Quantity of Stoneware mug")).to_have_value("3")
    page.get_by_role("button", name="Go to checkout").click()
    send(page)
    expect(page.locator(".problems")).to_be_focused()
    page.get_by_role("link", name="Give your e-mail address, for example ada@example.com.").click()
    expect(page.get_by_label("E-mail")).to_be_focused()
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("A card whose answer gets lost").check()
    send(page)
    for _ in range(50):
        if page.get_by_role("heading", name="Your order is confirmed").count():
            break
        page.get_by_role("link", name="Refresh").click()
    see_way(page, "Payment of 43.50 EUR taken", "Your order is ready to be shipped")
    page.get_by_role("link", name="Cancel this order").click()
    page.get_by_role("button", name="Cancel the order").click()
    for _ in range(50):
        if page.get_by_text("43.50 EUR refunded.").count():
            break
        page.get_by_role("link", name="Refresh").click()
    expect(page.locator(".lead")).to_contain_text("You requested it. 43.50 EUR refunded.")
    assert read_books(only_order().pk).events == ["charged", "refunded"]
