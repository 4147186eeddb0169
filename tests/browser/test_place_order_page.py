"""The page that places an order in a real browser, under a strict Content-Security-Policy."""

import re

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from inventory.models import Product
from orders.models import Order

POLICY = "default-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"


@pytest.fixture
def add_page(shop: None, live_server: LiveServer, page: Page) -> Page:
    """The page, opened by a member of staff."""

    def forbid_inline_code(route: Route) -> None:
        response = route.fetch(max_redirects=0)
        route.fulfill(response=response, headers={**response.headers, "content-security-policy": POLICY})

    page.route(lambda url: "/admin/" in url and "/static/" not in url, forbid_inline_code)
    User.objects.create_superuser("boss", password="a-good-password")
    page.goto(f"{live_server.url}/admin/orders/order/add/")
    page.get_by_label("Username").fill("boss")
    page.get_by_label("Password").fill("a-good-password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("combobox", name="Product line 1")).to_be_visible()
    return page


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """What the browser says on its console that is not merely information."""
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
    return said


def line(page: Page, number: int) -> tuple[Locator, Locator]:
    """Product and quantity of a line."""
    return (
        page.get_by_role("combobox", name=f"Product line {number}"),
        page.get_by_label(f"Quantity line {number}"),
    )


def test_an_order_is_placed_with_the_keyboard_alone(complaints: list[str], add_page: Page) -> None:
    page = add_page
    expect(page.get_by_label("Customer's e-mail")).to_be_focused()
    page.keyboard.type("ada@example.com")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    product, quantity = line(page, 1)
    expect(product).to_be_focused()
    page.keyboard.type("tee")
    expect(page.get_by_role("option")).to_have_count(2)
    expect(product).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    chosen = page.get_by_role("option", selected=True)
    expect(chosen).to_contain_text("TEE-M")
    expect(product).to_have_attribute("aria-activedescendant", chosen.get_attribute("id") or "")
    page.keyboard.press("Enter")
    expect(product).to_have_value("TEE-M")
    expect(product).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Enter")
    expect(quantity).to_be_focused()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    # A scanner types the SKU, here in another case, and Enter.
    expect(line(page, 2)[0]).to_be_focused()
    page.keyboard.type("pen-brass")
    page.keyboard.press("Enter")
    expect(line(page, 2)[0]).to_have_value("PEN-BRASS")
    expect(page.locator("#place-total")).to_have_text("93.20 EUR")
    page.get_by_role("button", name="Place order").press("Enter")
    expect(page.get_by_role("heading", name=re.compile(r"Order \d+"))).to_be_visible()
    placed = {entry.sku: entry.quantity for entry in Order.objects.get().lines.all()}
    assert placed == {"TEE-M": 3, "PEN-BRASS": 1}
    assert complaints == []


def test_rows_are_added_chosen_by_mouse_warned_about_and_removed(
    complaints: list[str], add_page: Page
) -> None:
    page = add_page
    Product.objects.filter(sku="TEE-M").update(name='<img src="x" onerror="alert(1)">', price="99999999.99")
    page.get_by_role("button", name="Add another line").click()
    product, quantity = line(page, 4)
    expect(product).to_be_focused()
    product.press_sequentially("tee-m")
    page.get_by_role("option").filter(has_text="TEE-M").click()
    expect(product).to_have_value("TEE-M")
    quantity.fill("150")
    expect(page.get_by_text("200 available", exact=False).first).to_be_visible()
    line(page, 1)[0].fill("TEE-M")
    line(page, 1)[1].fill("51")
    # 201 of them together, in two rows, are more than there are.
    expect(page.get_by_text("only 200 available: the order would be rolled back")).to_have_count(2)
    expect(page.locator("#place-total")).to_have_text("20099999997.99 EUR")
    page.get_by_role("button", name="Remove line 1").click()
    expect(page.get_by_text("only 200 available: the order would be rolled back")).to_have_count(0)
    expect(line(page, 3)[0]).to_have_value("TEE-M")
    expect(page.locator("#place-total")).to_have_text("14999999998.50 EUR")
    line(page, 1)[0].fill("NO-SUCH")
    line(page, 1)[0].press("Tab")
    expect(page.get_by_text("There is no product 'NO-SUCH' on sale.")).to_be_visible()
    line(page, 2)[0].fill("mug")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    assert complaints == []


def test_a_price_that_changed_meanwhile_is_shown_before_the_order_is_placed(
    complaints: list[str], add_page: Page
) -> None:
    page = add_page
    page.get_by_label("Customer's e-mail").fill("ada@example.com")
    line(page, 1)[0].fill("MUG-STONE")
    line(page, 1)[0].press("Enter")
    # As the desk reads it, 2.0 is 2.
    line(page, 1)[1].fill("2.0")
    expect(page.locator("#place-total")).to_have_text("29.00 EUR")
    Product.objects.filter(sku="MUG-STONE").update(price="900.00")
    page.get_by_role("button", name="Place order").click()
    said = "The total is now 1800.00 EUR, not the 29.00 EUR shown before: check it, then place the order."
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.locator("#place-total")).to_have_text("1800.00 EUR")
    assert not Order.objects.exists()
    page.get_by_role("button", name="Place order").click()
    expect(page.get_by_role("heading", name=re.compile(r"Order \d+"))).to_be_visible()
    assert str(Order.objects.get().total) == "1800.00"
    assert complaints == []
