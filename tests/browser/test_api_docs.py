"""The interactive page of the API in a real browser: strict policy, a key, nothing from elsewhere."""

import json

import pytest
from playwright.sync_api import Page, Request
from pytest_django.live_server_helper import LiveServer

from orders.clients import create_key
from orders.models import ApiClient as MachineClient
from orders.models import Order, Scope
from tests.browser.test_csp import Watch

DOCS = "/api/v1/docs/"


@pytest.fixture
def secret(shop: None) -> str:
    client = MachineClient.objects.create(name="till")
    return create_key(client=client, name="browser", scopes=Scope.values).secret


def open_docs(page: Page, live_server: LiveServer) -> None:
    response = page.goto(f"{live_server.url}{DOCS}")
    assert response is not None
    assert response.status == 200
    page.get_by_role("heading", name="Order Desk API").wait_for()


def test_an_order_is_placed_on_the_page_with_a_key(secret: str, live_server: LiveServer, page: Page) -> None:
    elsewhere: list[str] = []

    def note_origin(request: Request) -> None:
        if not request.url.startswith((live_server.url, "data:", "blob:")):
            elsewhere.append(request.url)

    page.on("request", note_origin)
    watch = Watch(page)
    open_docs(page, live_server)
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".modal-ux input").fill(secret)
    page.locator(".modal-ux").get_by_role("button", name="Apply credentials").click()
    page.locator(".modal-ux").get_by_role("button", name="Close").last.click()

    operation = page.locator("#operations-Orders-place_order")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator("tr[data-param-name='Idempotency-Key'] input").fill("from-the-page")
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table")
    answer.get_by_text("202", exact=True).first.wait_for()
    order = Order.objects.get()
    assert order.client is not None
    assert order.client.name == "till"
    assert str(order.pk) in answer.inner_text()

    # Waiting for the order's page, with a parameter in its address.
    follow = page.locator("#operations-Orders-follow_order")
    follow.locator(".opblock-summary-control").click()
    follow.get_by_role("button", name="Try it out").click()
    follow.locator("tr[data-param-name='order_id'] input").fill(str(order.pk))
    follow.get_by_role("button", name="Execute").click()
    follow.locator(".live-responses-table").get_by_text("200", exact=True).first.wait_for()

    assert watch.found == []
    assert elsewhere == []
    # The key is in the page's memory alone.
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert secret not in json.dumps(stored)


def test_only_this_page_is_relaxed_and_only_for_styles_and_drawn_images(
    shop: None, live_server: LiveServer, page: Page
) -> None:
    def read_policy(address: str) -> dict[str, str]:
        response = page.goto(f"{live_server.url}{address}")
        assert response is not None
        parts = response.headers["content-security-policy"].split("; ")
        return dict(part.split(" ", 1) for part in parts)

    docs, elsewhere = read_policy(DOCS), read_policy("/admin/login/")
    assert {name for name in docs if docs[name] != elsewhere.get(name)} == {"style-src", "img-src"}
    assert docs["style-src"] == "'self' 'unsafe-inline'"
    assert docs["img-src"] == "'self' data:"
    assert "unsafe" not in "".join(elsewhere.values())


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(shop: None, live_server: LiveServer, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    open_docs(page, live_server)
    page.locator("#operations-Orders-place_order").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
