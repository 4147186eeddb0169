"""The shop for everybody: axe on every kind of page, keyboard alone, narrow screens, the strict policy."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone
from playwright.sync_api import Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from inventory.models import Product
from orders.models import Order
from tests.browser.storefront import EMAIL, SHIFTS, add, open_tab, read_shifts, see_headline, send
from tests.browser.test_csp import Watch
from tests.desk import place
from tests.e2e.doors import set_status
from tests.e2e.order_page import charge, write_mail, write_trail
from tests.e2e.storefront import add_products, page_of, set_available, set_price

pytestmark = pytest.mark.usefixtures("shop")

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}

TOO_WIDE = """
() => document.documentElement.scrollWidth <= innerWidth
    ? []
    : [...document.querySelectorAll("main *")]
        .filter(element => element.getBoundingClientRect().right > innerWidth)
        .map(element => element.outerHTML.slice(0, 120))
"""


# Text that is wider than the box it stands in.
STICKS_OUT = """
() => [...document.querySelectorAll("main .offer *, main .lines *, main .sum, main .sum *")]
    .filter(element => element.clientWidth && !element.matches(".unseen, input"))
    .filter(element => element.scrollWidth > element.clientWidth + 1)
    .map(element => element.outerHTML.slice(0, 120))
"""


def find_violations(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is."""
    found: list[dict[str, Any]] = Axe().run(page, options=RULES).response["violations"]
    return [f"{rule['id']}: {node['html'][:150]}" for rule in found for node in rule["nodes"]]


def find_too_wide(page: Page) -> list[str]:
    """What makes the page scroll sideways."""
    found: list[str] = page.evaluate(TOO_WIDE)
    return found


def place_in(status: str, *trail: tuple[str, str], **changes: Any) -> Order:
    """An order that its saga has left in this state."""
    placed = place()
    set_status(placed, status)
    Order.objects.filter(pk=placed.pk).update(**changes)
    write_trail(placed, *trail)
    return placed


def list_orders() -> dict[str, Order]:
    """An order of each kind."""
    begun = [("create_order", "done"), ("reserve_inventory", "done")]
    done = [*begun, ("process_payment", "done"), ("send_confirmation_email", "done")]
    orders = {
        "placed": place(),
        "running": place_in("created", *begun, ("process_payment", "running")),
        "late": place_in("created", *begun, ("process_payment", "lost")),
        "completed": place_in("completed", *done, ("complete_order", "done")),
        "shipped": place_in("shipped", *done, ("complete_order", "done"), shipped_at=timezone.now()),
        "turning back": place_in(
            "cancelling", *begun, ("refund_payment", "failed"), failure_type="PaymentRefused"
        ),
        "rolled back": place_in(
            "cancelled",
            *begun,
            ("process_payment", "failed"),
            ("refund_payment", "nothing_to_undo"),
            ("release_inventory", "done"),
            ("cancel_order", "done"),
            ("send_cancellation_email", "done"),
            failure_type="PaymentRefused",
        ),
    }
    charge(orders["completed"])
    write_mail(orders["completed"])
    return orders


def walk(page: Page, url: str) -> Iterator[str]:
    """Every kind of page of the shop, opened one after the other; gives what each is."""
    set_available("LAMP-DESK", 3)
    set_available("BAG-ROLL", 0)
    add_products(30)
    page.goto(f"{url}/?page=2")
    yield "catalogue"
    add(page, "Desk lamp")
    yield "catalogue with a notice"
    page.goto(f"{url}/?q=bulk&page=2")
    yield "search"
    add(page, "Bulk product 00026")
    page.goto(f"{url}/?q=zeppelin")
    yield "search without a find"
    page.goto(f"{url}/cart/")
    yield "cart"
    page.get_by_label("Quantity of Desk lamp").fill("")
    page.get_by_role("button", name="Update quantities").click()
    yield "cart with an error"
    page.goto(f"{url}/checkout/")
    yield "checkout"
    page.get_by_label("E-mail").fill("nonsense")
    send(page)
    yield "checkout with an error"
    page.get_by_label("E-mail").fill(EMAIL)
    set_price("LAMP-DESK", "90.00")
    send(page)
    yield "checkout with a new price"
    set_available("LAMP-DESK", 0)
    send(page)
    yield "sold out"
    page.goto(f"{url}/cart/")
    yield "cart with a problem"
    page.get_by_role("button", name="Adjust my cart to what is left").click()
    yield "checkout with a notice"
    other = page.context.new_page()
    other.goto(f"{url}/checkout/")
    send(page)
    yield "order just placed"
    other.get_by_label("E-mail").fill("eve@example.com")
    send(other)
    other.close()
    page.goto(f"{url}/cart/")
    yield "empty cart"
    for state, placed in list_orders().items():
        page.goto(url + page_of(placed))
        yield f"order {state}"
        if state == "completed":
            page.get_by_role("link", name="Cancel this order").click()
            yield "cancel"
    page.goto(f"{url}/no/such/page")
    yield "not found"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_every_page_is_accessible_and_fits(
    live_server: LiveServer, page: Page, width: int, scheme: Any
) -> None:
    page = open_tab(page, width=width, color_scheme=scheme, reduced_motion="reduce")
    watch = Watch(page)
    page.add_init_script(SHIFTS)
    seen: list[str] = []
    for state in walk(page, live_server.url):
        seen.append(state)
        assert find_violations(page) == [], state
        assert find_too_wide(page) == [], state
        assert read_shifts(page) == [], state
        assert page.get_by_role("heading", level=1).count() == 1, state
    assert len(seen) == len(set(seen)) == 23
    assert watch.found == []


@pytest.mark.parametrize(
    ("markup", "rule"),
    [
        ('<input type="text">', "label"),
        ('<img src="/static/orders/icon.svg">', "image-alt"),
        ("<h5>Deep</h5>", "heading-order"),
        ('<p class="pale">Hardly there</p>', "color-contrast"),
    ],
)
def test_axe_reports_a_page_made_bad(live_server: LiveServer, page: Page, markup: str, rule: str) -> None:
    """The control: the catalogue with something in it that is not accessible."""

    def spoil(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</main>", f"{markup}</main>"))

    def pale(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text() + ".pale { color: #cccccc; }")

    page.route(f"{live_server.url}/", spoil)
    page.route("**/shop.css", pale)
    page.goto(live_server.url)
    assert [found.split(":")[0] for found in find_violations(page)] == [rule]


def test_layout_shift_is_seen(live_server: LiveServer, page: Page) -> None:
    """The control: something that comes in above the rest is noticed."""
    page.add_init_script(SHIFTS)
    page.goto(live_server.url)
    page.evaluate("document.querySelector('main').prepend(document.createElement('hr'), 'Hello')")
    page.wait_for_function("window.shifted.length > 0")


def test_buying_with_the_keyboard_alone(live_server: LiveServer, page: Page) -> None:
    page.goto(live_server.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search the products")).to_be_focused()
    page.keyboard.type("pen")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("pen"))
    page.get_by_label("Quantity of Brass ballpoint pen").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="put in your cart")).to_be_visible()
    page.get_by_role("link", name=re.compile("^Cart")).press("Enter")
    # Enter in a quantity brings the cart up to date, and neither removes a line nor goes on.
    page.get_by_label("Quantity of Brass ballpoint pen").press("Control+A")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your cart is up to date.")).to_be_focused()
    page.get_by_role("button", name="Go to checkout").press("Enter")
    page.get_by_label("E-mail").press_sequentially(EMAIL)
    page.keyboard.press("Tab")
    expect(page.get_by_label("A card that pays")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("A card that is declined")).to_be_checked()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    see_headline(page, "We are working on your order")
    assert str(Order.objects.get().total) == "96.00"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_narrow_screens_and_long_words_fit(live_server: LiveServer, page: Page, width: int) -> None:
    words = {"name": "Donaudampfschifffahrt" * 9, "description": "Kapitän" * 300, "price": "9999999.99"}
    Product.objects.filter(sku="MUG-STONE").update(**words)
    page = open_tab(page, width=width)
    for term in ("W" * 100, "%F0%9D%95%8E" * 100):
        page.goto(f"{live_server.url}/?q={term}")
        assert find_too_wide(page) == [], term
    page.goto(f"{live_server.url}/?q=Donau")
    box = page.locator(".offer").bounding_box()
    assert box is not None
    assert box["height"] < 600  # the description is cut short
    page.get_by_role("button", name=re.compile("^Add to cart")).click()
    expect(page.get_by_role("status").filter(has_text="put in your cart")).to_be_visible()
    for path in ("/?q=Donau", "/", "/cart/", "/checkout/"):
        page.goto(live_server.url + path)
        assert find_too_wide(page) == [], path
        assert page.evaluate(STICKS_OUT) == [], path
    page.get_by_label("E-mail").fill(f"{'long' * 15}@{'example' * 8}.com")
    send(page)
    see_headline(page, "We are working on your order")
    assert find_too_wide(page) == []
