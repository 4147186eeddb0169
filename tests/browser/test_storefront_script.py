"""What the shop's script does on slow and broken lines: nothing is sent twice, nothing untrue is said."""

import re

import pytest
from playwright.sync_api import Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from orders.models import Order
from tests.browser.storefront import Gate, add, go_to_checkout, send
from tests.desk import place
from tests.e2e.doors import set_status
from tests.e2e.storefront import page_of

pytestmark = pytest.mark.usefixtures("shop")

SKU = re.compile(r'name="sku"\s+(\S+)')


def click_add(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Add to cart: {name}").click()


def see_notice(page: Page, text: str) -> None:
    expect(page.locator("#notice")).to_contain_text(text)


def see_cart(page: Page, url: str, **quantities: int) -> None:
    """This is in the cart, and nothing else. Names are given with _ for blanks."""
    page.goto(f"{url}/cart/")
    expect(page.get_by_role("spinbutton")).to_have_count(len(quantities))
    for name, quantity in quantities.items():
        label = f"Quantity of {name.replace('_', ' ')}"
        expect(page.get_by_label(label)).to_have_value(str(quantity))


def test_two_products_at_once_are_both_put_in(live_server: LiveServer, page: Page) -> None:
    """On a slow line, before there is a session: each POST on its own would begin one."""
    page.goto(live_server.url)
    gate = Gate(page, "/cart/add/")
    click_add(page, "Stoneware mug")
    click_add(page, "Desk lamp")
    gate.wait_for_first()
    gate.open()
    see_notice(page, "1 × Desk lamp put in your cart.")  # noqa: RUF001
    expect(page.locator("#cart-link")).to_have_text("Cart 2 items")
    see_cart(page, live_server.url, Stoneware_mug=1, Desk_lamp=1)


def test_a_double_click_puts_in_once(live_server: LiveServer, page: Page) -> None:
    page.goto(live_server.url)
    gate = Gate(page, "/cart/add/")
    page.get_by_role("button", name="Add to cart: Stoneware mug").dblclick()
    click_add(page, "Desk lamp")
    gate.wait_for_first()
    gate.open()
    see_notice(page, "Desk lamp")
    assert [SKU.findall(body) for body in gate.seen] == [["MUG-STONE"], ["LAMP-DESK"]]
    # Answered, it may be put in again.
    add(page, "Stoneware mug")
    see_cart(page, live_server.url, Stoneware_mug=2, Desk_lamp=1)


def test_the_cart_is_shown_with_what_is_on_its_way(live_server: LiveServer, page: Page) -> None:
    page.goto(live_server.url)
    gate = Gate(page, "/cart/add/")
    click_add(page, "Stoneware mug")
    click_add(page, "Desk lamp")
    page.locator("#cart-link").click()
    gate.wait_for_first()
    gate.open()
    expect(page.get_by_role("spinbutton")).to_have_count(2)


@pytest.mark.parametrize("loss", ["line", "502"])
def test_a_lost_answer_puts_in_nothing_twice(live_server: LiveServer, page: Page, loss: str) -> None:
    def lose(route: Route) -> None:
        route.fetch(max_redirects=0)
        if loss == "line":
            route.abort("connectionreset")
        else:
            route.fulfill(status=502, body="Bad gateway")

    page.goto(live_server.url)
    page.route("**/cart/add/", lose, times=1)
    click_add(page, "Stoneware mug")
    see_notice(page, "We do not know whether Stoneware mug was added: see your cart.")
    page.get_by_role("link", name="see your cart").click()
    see_cart(page, live_server.url, Stoneware_mug=1)


def test_a_form_that_is_too_old_is_told_of(live_server: LiveServer, page: Page) -> None:
    page.goto(live_server.url)
    page.context.clear_cookies()
    click_add(page, "Stoneware mug")
    expect(page.get_by_role("heading", level=1)).to_have_text("This page had been open for too long")


def test_errors_stay_until_the_next_product(live_server: LiveServer, page: Page) -> None:
    page.clock.install()
    page.goto(live_server.url)
    add(page, "Stoneware mug")
    page.mouse.move(0, 0)
    page.clock.run_for(7_000)
    expect(page.locator("#notice")).to_be_empty()
    page.route("**/cart/add/", lambda route: route.abort("connectionreset"), times=1)
    click_add(page, "Desk lamp")
    see_notice(page, "We do not know whether Desk lamp was added")
    page.clock.run_for(60_000)
    see_notice(page, "We do not know whether Desk lamp was added")
    add(page, "Stoneware mug")
    expect(page.locator("#notice .error")).to_have_count(0)


def test_a_double_click_sends_the_order_once(live_server: LiveServer, page: Page) -> None:
    """The server takes a form once anyway; here the second click does not even reach it."""
    go_to_checkout(page, live_server.url)
    gate = Gate(page, "/checkout/")
    box = page.get_by_role("button", name=re.compile("^Order and pay")).bounding_box()
    assert box is not None
    # The mouse itself: a locator's click would wait for the next page.
    with page.expect_request("**/checkout/"):
        page.mouse.click(box["x"] + 20, box["y"] + 20)
    page.mouse.click(box["x"] + 20, box["y"] + 20)
    gate.open()
    expect(page).to_have_url(re.compile("/order/"))
    assert len(gate.seen) == 1


def test_a_stopped_order_can_be_sent_again(live_server: LiveServer, page: Page) -> None:
    page.clock.install()
    go_to_checkout(page, live_server.url)
    page.route("**/checkout/", lambda route: route.abort("aborted"), times=1)
    with page.expect_event("requestfailed"):
        send(page)
    assert not Order.objects.exists()
    page.clock.run_for(11_000)
    send(page)
    expect(page).to_have_url(re.compile("/order/"))
    assert Order.objects.count() == 1


def test_the_focus_is_not_lost_with_the_cancel_link(live_server: LiveServer, page: Page) -> None:
    placed = place()
    page.clock.install()
    page.goto(live_server.url + page_of(placed))
    page.get_by_role("link", name="Cancel this order").focus()
    set_status(placed, "cancelled")
    page.clock.run_for(15_000)
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("Your order was cancelled")
    expect(heading).to_be_focused()
    region = page.locator("[data-live-announce]")
    expect(region).to_contain_text("Your order was cancelled")
    page.clock.run_for(3_000)
    expect(region).to_be_empty()
