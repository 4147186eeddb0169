"""The live part of the page of one's own order: what it asks for, how often, and until when."""

import re

import pytest
from django.test import Client as Browser

from notifications.models import EmailKind, EmailState
from orders import desk
from tests.desk import place
from tests.e2e.doors import count_queries, set_status
from tests.e2e.order_page import charge, turn_back, write_mail, write_trail
from tests.e2e.storefront import COMPLETE, ask_to_cancel, page_of, refund, see

pytestmark = pytest.mark.usefixtures("counter")


def test_live_parts_are_the_pages_and_304_until_something_changes(client: Browser) -> None:
    placed = place()
    live = client.get(page_of(placed) + "live/")
    html, page = live.content.decode(), client.get(page_of(placed)).content.decode()
    assert 'data-live-state="running"' in html
    for section in html.split("<section")[1:]:
        assert section.split("</section>")[0] in page
    etag = {"If-None-Match": live["ETag"]}
    assert client.get(page_of(placed) + "live/", headers=etag).status_code == 304
    write_trail(placed, ("reserve_inventory", "done"))
    again = client.get(page_of(placed) + "live/", headers=etag)
    assert again.status_code == 200
    assert "Your items are set aside" in again.content.decode()


@pytest.mark.parametrize(
    ("status", "trail", "state"),
    [
        ("pending", [("create_order", "running")], "running"),
        ("completed", COMPLETE, "running"),  # it may be shipped, or cancelled by the shop
        ("cancelling", COMPLETE, "running"),
        ("cancelled", [("cancel_order", "done")], "running"),
        ("cancelled", [("cancel_order", "done"), ("send_cancellation_email", "done")], "final"),
        ("shipped", COMPLETE, "final"),
    ],
)
def test_the_page_asks_until_nothing_can_change_any_more(
    client: Browser, status: str, trail: list[tuple[str, str]], state: str
) -> None:
    placed = place()
    set_status(placed, status)
    write_trail(placed, *trail)
    for path in ("", "live/"):
        page = client.get(page_of(placed) + path).content.decode()
        assert re.findall(r'data-live-state="(\w+)"', page) == [state]


def test_a_completed_order_asks_seldom_and_learns_of_its_shipping_and_of_a_cancel(client: Browser) -> None:
    shipped, cancelled = place(), place()
    assert "data-live-slow" not in client.get(page_of(shipped)).content.decode()
    for placed in (shipped, cancelled):
        set_status(placed, "completed")
        page = client.get(page_of(placed)).content.decode()
        assert 'data-live-fast="5" data-live-slow="30"' in page
        assert "This page will say when it has been shipped." in page
    desk.ship_order(order_id=shipped.pk, actor="ada")
    ask_to_cancel(cancelled, "ada")
    assert "Your order has been shipped" in client.get(page_of(shipped) + "live/").content.decode()
    assert "Your order is being cancelled" in client.get(page_of(cancelled) + "live/").content.decode()


def test_the_page_asks_as_often_with_a_long_history(client: Browser) -> None:
    short, long = place(), place()
    turn_back(long, "cancelled")
    for _ in range(30):
        write_trail(long, ("process_payment", "failed"))
    write_trail(long, *COMPLETE, ("refund_payment", "done"))
    refund(charge(long))
    write_mail(long)
    charge(short)
    assert count_queries(client, page_of(short)) == count_queries(client, page_of(long)) == 6


def test_a_pending_mail_is_not_called_sent(client: Browser) -> None:
    placed = place()
    turn_back(placed, "cancelled")
    write_mail(placed, EmailKind.CANCELLATION, state=EmailState.PENDING, sent_at=None)
    write_trail(placed, ("send_cancellation_email", "running"))
    assert "Now: We are telling you by mail" in see(client, placed)
