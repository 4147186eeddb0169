"""Staff at work in a real browser, with real workers: placing, watching, repairing, cancelling, approving."""

import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Group, User
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from orders.models import CancelRequest, Order, OrderAction
from tests.desk import LAPTOPS, check_stock_sums, place, read_books
from tests.e2e.doors import PASSWORD, page_of, restore_roles
from tests.gateway import run_server
from tests.processes import Crew, wait_until

# The page follows the saga by itself; nothing below reloads it. Milliseconds.
PATIENCE = 40_000

Start = Callable[..., Crew]


@pytest.fixture(autouse=True)
def roles(shop: None) -> None:
    restore_roles()


def log_in(page: Page, server: LiveServer, role: str, name: str = "") -> None:
    """Log in as a member of staff with that role (`superuser` is none of the groups)."""
    user = User.objects.create_user(name or role, password=PASSWORD, is_staff=True)
    if role == "superuser":
        user.is_superuser = True
        user.save()
    else:
        user.groups.add(Group.objects.get(name=role))
    page.context.clear_cookies()
    page.goto(f"{server.url}/admin/")
    page.get_by_label("Username").fill(user.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def see_status(page: Page, status: str) -> None:
    """Wait until the page says so, without a reload."""
    expect(page.locator("#status .od-badge").first).to_have_text(status, timeout=PATIENCE)


def see_in_trail(page: Page, *steps: tuple[str, str]) -> None:
    """The trail shows these steps or undos with these states."""
    for name, state in steps:
        row = page.locator("#trail li", has=page.get_by_text(name, exact=True))
        expect(row.locator(".od-badge")).to_have_text(state, timeout=PATIENCE)


def complete(order: Order) -> None:
    wait_until(lambda: Order.objects.get(pk=order.pk).status == "completed", "the order is completed")


def test_staff_place_an_order_and_watch_it_complete(
    start: Start, live_server: LiveServer, page: Page
) -> None:
    log_in(page, live_server, "support")
    page.get_by_role("link", name="Place an order").click()
    page.get_by_label("Customer's e-mail").fill("ada@example.com")
    page.locator("#id_lines-0-sku").fill("mug")
    page.get_by_role("option", name=re.compile("MUG-STONE")).click()
    page.locator("#id_lines-0-quantity").fill("2")
    page.locator("#id_lines-1-sku").fill("PEN-BRASS")
    page.locator("#id_lines-1-quantity").fill("1")
    page.locator("#id_lines-1-quantity").press("Tab")
    expect(page.locator("#place-total")).to_have_text(re.compile(r"61\.00"))
    page.get_by_role("button", name="Place order").click()

    order = Order.objects.get()
    assert str(order.total) == "61.00"
    expect(page.get_by_role("heading", name=f"Order {order.number}", exact=True)).to_be_visible()
    see_status(page, "pending")
    page.evaluate("window.isTheSamePage = true")
    crew = start(1)
    crew.wait_ready(1)
    see_status(page, "completed")
    see_in_trail(page, ("process_payment", "done"), ("complete_order", "done"))
    assert page.evaluate("window.isTheSamePage") is True


def test_an_order_of_2700_is_seen_rolling_back(start: Start, live_server: LiveServer, page: Page) -> None:
    log_in(page, live_server, "viewer")
    order = place(LAPTOPS)
    page.goto(live_server.url + page_of(order))
    see_status(page, "pending")
    page.evaluate("window.isTheSamePage = true")
    start(1).wait_ready(1)
    see_status(page, "cancelled")
    see_in_trail(
        page,
        ("process_payment", "failed"),
        ("refund_payment", "nothing to undo"),
        ("release_inventory", "done"),
        ("cancel_order", "done"),
        ("send_cancellation_email", "done"),
    )
    expect(page.locator("#facts")).to_contain_text("The card was declined")
    assert page.evaluate("window.isTheSamePage") is True
    expect(page.locator("#act a")).to_have_count(0)  # a viewer can only look

    page.goto(f"{live_server.url}/admin/orders/rollback/")
    row = page.locator("#result_list tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("process_payment")


def test_support_repairs_a_stuck_refund_with_the_mouse_alone(
    start: Start, live_server: LiveServer, page: Page, tmp_path: Path
) -> None:
    with run_server(tmp_path / "ledger.sqlite") as gateway:
        start(
            1,
            PAYMENT_GATEWAY_URL=gateway.url,
            SAGA_RELEASE_AFTER="0.5",
        ).wait_ready(1)
        order = place()
        complete(order)
        gateway.set_fault(
            # Refused for good: nothing tries again by itself, so only the click can have repaired it.
            operation="refund",
            fault="refused",
            key_prefix=f"order-{order.pk}",
        ).raise_for_status()

        log_in(page, live_server, "support")
        page.goto(live_server.url + page_of(order))
        page.locator("#act").get_by_role("link", name="Cancel this order").click()
        expect(page.locator(".od-preview")).to_contain_text("refund 400.00 EUR")
        expect(page.locator(".od-preview")).to_contain_text("release 2 units of HEAD-ANC")
        expect(page.locator(".od-preview")).to_contain_text("send 1 mail")
        page.get_by_label("The customer asked for it").check()
        page.get_by_role("button", name="Cancel order").click()
        see_in_trail(page, ("refund_payment", "failed"), ("release_inventory", "done"))
        expect(page.locator("#attention")).to_contain_text("needs attention", timeout=PATIENCE)

        page.get_by_role("link", name="Home").click()
        item = page.locator(".front-items > li", has_text=str(order.number))
        expect(item).to_contain_text("400.00")
        expect(item.get_by_role("link", name=re.compile("Resolve"))).to_have_count(0)
        gateway.http.delete("/faults").raise_for_status()  # the bank is back
        item.get_by_role("link", name=re.compile("Retry now")).click()
        expect(page.locator(".od-preview")).to_contain_text("try the refund of 400.00 EUR again now")
        expect(page.locator(".od-preview")).to_contain_text("(reserve_inventory) is already undone")
        page.get_by_label("The cause is fixed").check()
        page.get_by_role("button", name="Retry now").click()
        see_status(page, "cancelled")

        history = page.locator("#actions")
        expect(history).to_contain_text("The customer asked for it")
        expect(history).to_contain_text(re.compile("support.*retry_undo.*The cause is fixed", re.S))
        see_in_trail(page, ("refund_payment", "done"), ("send_cancellation_email", "done"))
        page.get_by_role("link", name="Home").click()
        expect(page.get_by_text("Nothing needs you.")).to_be_visible()
        assert gateway.kinds(f"order-{order.pk}") == ["charge", "refund"]
    books = read_books(order.pk)
    assert (books.net, books.held, books.attention) == (0, 0, [])
    check_stock_sums()


def test_completed_order_is_cancelled_after_a_preview(
    start: Start, live_server: LiveServer, page: Page
) -> None:
    start(1).wait_ready(1)
    order = place()
    complete(order)
    log_in(page, live_server, "superuser", "boss")
    page.goto(f"{live_server.url}/admin/orders/order/")
    page.locator("#result_list input.action-select").check()
    page.locator("select[name=action]").select_option("cancel_selected")
    page.get_by_role("button", name="Go").click()
    expect(page.locator(".od-preview")).to_contain_text("refund 400.00 EUR")
    page.get_by_role("button", name="Cancel order").click()
    expect(page.get_by_text("Choose a reason or write one.")).to_be_visible()
    page.get_by_label("In your words").fill("the customer called")
    page.get_by_role("button", name="Cancel order").click()
    expect(page.get_by_text("the cancel is accepted")).to_be_visible()
    see_status(page, "cancelled")
    see_in_trail(page, ("refund_payment", "done"), ("send_cancellation_email", "done"))
    action = OrderAction.objects.get(kind="cancel_order")
    assert (action.actor, action.reason) == ("boss", "the customer called")
    mails = httpx.get(f"{os.environ['MAIL_SINK_URL']}/messages.json", params={"to": "ada@example.com"})
    assert sum(str(order.pk) in mail["message_id"] for mail in mails.json()) == 2


def test_large_refund_takes_two_people(
    start: Start, live_server: LiveServer, page: Page, settings: Any
) -> None:
    settings.REFUND_APPROVAL_ABOVE = Decimal("399.99")
    start(1).wait_ready(1)
    order = place()
    complete(order)
    log_in(page, live_server, "support")
    page.goto(live_server.url + page_of(order))
    page.locator("#act").get_by_role("link", name="Cancel this order").click()
    page.get_by_label("Suspected fraud").check()
    page.get_by_role("button", name="Cancel order").click()
    expect(page.locator("#attention")).to_contain_text("awaiting approval")
    see_status(page, "completed")

    log_in(page, live_server, "finance")
    item = page.locator(".front-items > li", has_text=str(order.number))
    item.get_by_role("link", name=re.compile("Approve")).click()
    expect(page.locator(".od-preview")).to_contain_text("support asks for it")
    page.get_by_label("Checked and agreed").check()
    page.get_by_role("button", name="Approve and cancel").click()
    see_status(page, "cancelled")
    request = CancelRequest.objects.get()
    assert (str(request.requested_by), str(request.decided_by)) == ("support", "finance")
    assert read_books(order.pk).net == 0
