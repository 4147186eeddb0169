"""An API key in a real browser: made, copied, tried, gone for good, and revoked."""

import httpx
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Error, Page, expect
from pytest_django.live_server_helper import LiveServer

from orders.models import ApiClient, ApiKey, Scope
from tests.browser.test_csp import PASSWORD, Watch, log_in
from tests.e2e.api import PRODUCTS


def ask(live_server: LiveServer, key: str) -> int:
    """What a program with that key is answered."""
    return httpx.get(f"{live_server.url}{PRODUCTS}", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_key_is_made_copied_and_revoked(shop: None, live_server: LiveServer, page: Page) -> None:
    User.objects.create_superuser("boss", password=PASSWORD)
    watch = Watch(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=live_server.url)
    log_in(page, live_server)
    page.get_by_role("link", name="API clients").first.click()
    page.get_by_role("link", name="Add API client").click()
    page.get_by_label("Name").fill("web shop")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="Create a key").click()
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("alert")).to_contain_text("No key has been made yet")
    page.get_by_label("Name").fill("production")
    page.get_by_label(Scope.READ.label).check()
    page.get_by_role("button", name="Create the key").click()

    expect(page.get_by_role("heading", name="The new API key")).to_be_visible()
    secret = page.get_by_label("Key", exact=True).input_value()
    assert ApiKey.objects.get().prefix == secret[:12]
    assert secret not in page.url
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator("#copy-status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    assert secret in page.get_by_label("Try it").input_value()
    assert ask(live_server, secret) == 200

    page.get_by_role("link", name="I have copied it").click()
    assert secret not in page.content()
    # The browser asks whether to send the form again, instead of showing what was there.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_back()
    page.wait_for_url("chrome-error://**")
    assert secret not in page.content()
    assert ApiKey.objects.count() == 1

    page.goto(f"{live_server.url}/admin/orders/apiclient/{ApiClient.objects.get().pk}/change/")
    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("it is refused from now on")).to_be_visible()
    assert ask(live_server, secret) == 401
    assert watch.found == []


def test_without_scripts_the_key_can_be_selected_by_hand(
    shop: None, live_server: LiveServer, page: Page
) -> None:
    """The buttons need a script, so without one there are none."""
    User.objects.create_superuser("boss", password=PASSWORD)
    client = ApiClient.objects.create(name="web shop")
    page.route("**/*.js", lambda route: route.abort())
    log_in(page, live_server)
    page.goto(f"{live_server.url}/admin/orders/apiclient/{client.pk}/keys/add/")
    page.get_by_label("Name").fill("production")
    page.get_by_label(Scope.PLACE.label).check()
    page.get_by_role("button", name="Create the key").click()
    assert ask(live_server, page.get_by_label("Key", exact=True).input_value()) == 200
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
