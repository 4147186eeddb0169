"""What the browser tests of the shop share: ordering by mouse, and measuring what moves by itself."""

import re
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from orders.models import Order

EMAIL = "ada@example.com"
MASKED = "a…@example.com"
# Milliseconds for what a saga does.
PATIENCE = 40_000

SHIFTS = """
window.shifted = [];
new PerformanceObserver(list => {
    for (const entry of list.getEntries()) {
        if (!entry.hadRecentInput) {
            const moved = entry.sources.map(source => source.node?.outerHTML?.slice(0, 200));
            window.shifted.push({value: entry.value, moved});
        }
    }
}).observe({type: "layout-shift", buffered: true});
"""


def open_tab(page: Page, **options: Any) -> Page:
    """A page in a new context of the same browser: `width=390`, `java_script_enabled=False` and the like."""
    width = options.pop("width", 1280)
    browser: Browser | None = page.context.browser
    assert browser is not None
    tab = browser.new_context(viewport={"width": width, "height": 844}, **options).new_page()
    tab.set_default_timeout(15_000)
    return tab


def add(page: Page, name: str, quantity: int = 1) -> None:
    """Put a product of the catalogue, which is open, into the cart."""
    page.get_by_label(f"Quantity of {name}").fill(str(quantity))
    page.get_by_role("button", name=f"Add to cart: {name}").click()
    expect(page.get_by_role("status").filter(has_text="put in your cart")).to_contain_text(
        re.compile(rf"{quantity} . {re.escape(name)} put in your cart")
    )


def go_to_checkout(page: Page, url: str, name: str = "Stoneware mug", quantity: int = 2) -> None:
    """From the catalogue to the checkout, filled in."""
    page.goto(url)
    add(page, name, quantity)
    page.get_by_role("link", name=re.compile("^Cart")).click()
    page.get_by_role("button", name="Go to checkout").click()
    page.get_by_label("E-mail").fill(EMAIL)


def send(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Order and pay")).click()


def see_headline(page: Page, headline: str) -> None:
    """Wait until the order's page says so, without a reload."""
    expect(page.get_by_role("heading", level=1)).to_have_text(headline, timeout=PATIENCE)


def see_way(page: Page, *titles: str) -> None:
    """The order's way has these lines, in this order."""
    for title in titles:
        expect(page.locator(".way li", has_text=title)).to_be_visible(timeout=PATIENCE)
    shown = page.locator(".way").inner_text()
    places = [shown.index(title) for title in titles]
    assert places == sorted(places), shown


def read_shifts(page: Page) -> list[dict[str, Any]]:
    """What has moved although nobody touched the page (SHIFTS must be an init script of it)."""
    found: list[dict[str, Any]] = page.evaluate("window.shifted")
    return found


def only_order() -> Order:
    return Order.objects.get()


class Gate:
    """Counts what a page POSTs to an address, and holds it back until it is opened: a slow line."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        self.seen: list[str] = []
        self.held: list[Route] = []
        self.is_open = False
        page.route(f"**{path}", self.take)

    def take(self, route: Route) -> None:
        if route.request.method != "POST":
            route.fallback()
            return
        self.seen.append(route.request.post_data or "")
        if self.is_open:
            route.fallback()
        else:
            self.held.append(route)

    def wait_for_first(self) -> None:
        """Return when the first one is held, and all that the page has sent until now was seen."""
        for _ in range(200):
            # A round trip of the page's own: what it sent before has come by then.
            self.page.evaluate("fetch('/static/orders/icon.svg', {cache: 'no-store'}).then(() => true)")
            if self.held:
                return
        raise AssertionError("the page has sent nothing")

    def open(self) -> None:
        """Let go what is held, and all that follows."""
        self.is_open = True
        for route in self.held:
            route.fallback()
