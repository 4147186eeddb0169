"""Staff at work in a real browser: log in, place an order, look at it, cancel it."""

import re

from django.contrib.auth.models import User
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from orders.models import Order, OrderAction


def test_staff_place_an_order_and_cancel_it(shop: None, live_server: LiveServer, page: Page) -> None:
    User.objects.create_superuser("boss", password="a-good-password")
    page.goto(f"{live_server.url}/admin/")
    page.get_by_label("Username").fill("boss")
    page.get_by_label("Password").fill("a-good-password")
    page.get_by_role("button", name="Log in").click()

    page.get_by_role("link", name="Place an order").click()
    page.get_by_label("Customer's e-mail").fill("ada@example.com")
    page.locator("#id_lines-0-sku").select_option("MUG-STONE")
    page.locator("#id_lines-0-quantity").fill("2")
    page.get_by_role("button", name="Add another line").click()
    page.locator("#id_lines-3-sku").select_option("PEN-BRASS")
    page.get_by_role("button", name="Place order").click()

    order = Order.objects.get()
    expect(page.get_by_role("heading", name=f"Order {order.number}", exact=True)).to_be_visible()
    expect(page.get_by_text("The saga is still at work on this order")).to_be_visible()
    expect(page.locator("#lines tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Reload").click()

    page.get_by_role("link", name="Orders", exact=True).last.click()
    page.get_by_role("link", name=str(order.number), exact=True).click()
    page.get_by_role("button", name="Cancel this order").click()
    page.get_by_role("button", name="Cancel this order").click()
    expect(page.get_by_text("This field is required.")).to_be_visible()
    page.get_by_label("Reason").fill("the customer called")
    page.get_by_role("button", name="Cancel this order").click()

    expect(page.get_by_text("the cancel is accepted")).to_be_visible()
    expect(page.locator("#actions")).to_contain_text(
        re.compile("boss.*cancel_order.*the customer called", re.S)
    )
    expect(page.get_by_role("button", name="Cancel this order")).to_have_count(0)
    action = OrderAction.objects.get(kind="cancel_order")
    assert (action.actor, action.reason) == ("boss", "the customer called")
