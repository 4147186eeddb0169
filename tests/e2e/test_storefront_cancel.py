"""A customer's own cancel over HTTP: asked about first, done once, and honest when it comes too late."""

import re
from typing import Any

import pytest
from django.test import Client as Browser

from orders.models import CUSTOMER, OrderAction
from payments.models import EventKind, Payment, PaymentEvent, PaymentState
from tests.desk import place
from tests.e2e.doors import set_status
from tests.e2e.order_page import charge, turn_back, write_trail
from tests.e2e.storefront import ask_to_cancel, page_of, read

pytestmark = pytest.mark.usefixtures("counter")


def test_cancelling_asks_first_and_says_what_it_does(client: Browser) -> None:
    placed = place()
    page = read(client.get(page_of(placed) + "cancel/"))
    assert "Nothing has been charged. Your items go back on sale" in page
    assert not OrderAction.objects.filter(kind="cancel_order").exists()
    charge(placed)
    assert "You get 400.00 EUR back the way you paid." in read(client.get(page_of(placed) + "cancel/"))
    answer = client.post(page_of(placed) + "cancel/", follow=True)
    assert answer.redirect_chain == [(page_of(placed), 302)]
    assert "Your order is being cancelled You requested it." in read(answer)
    action = OrderAction.objects.get(kind="cancel_order")
    assert (action.actor, action.reason) == (CUSTOMER, "customer cancelled")


def test_cancelling_needs_the_forms_token(counter: None) -> None:
    browser = Browser(enforce_csrf_checks=True)
    placed = place()
    answer = browser.post(page_of(placed) + "cancel/")
    assert answer.status_code == 403
    assert "This page had been open for too long" in read(answer)
    assert not OrderAction.objects.filter(kind="cancel_order").exists()


def test_a_cancel_that_comes_too_late_says_what_happened(client: Browser) -> None:
    shipped, cancelled = place(), place()
    set_status(shipped, "shipped")
    answer = client.post(page_of(shipped) + "cancel/", follow=True)
    assert "Too late: your order has been shipped, so it was not cancelled." in read(answer)
    assert "has been shipped and can no longer be cancelled" in read(
        client.get(page_of(shipped) + "cancel/", follow=True)
    )
    ask_to_cancel(cancelled, "ada")
    answer = client.post(page_of(cancelled) + "cancel/", follow=True)
    assert "Your order had been cancelled before; nothing more was done." in read(answer)
    assert OrderAction.objects.filter(kind="cancel_order").count() == 1


def test_what_the_customers_cancel_has_stopped_is_no_failure(client: Browser) -> None:
    placed = place()
    set_status(placed, "created")
    write_trail(placed, ("reserve_inventory", "done"), ("process_payment", "lost"))
    Payment.objects.create(order=placed, amount=placed.total, currency="EUR", token="tok_ok")
    ask_to_cancel(placed)
    asked = "Done: Your items are set aside .{,30}Done: You asked us to cancel your order"
    page = read(client.get(page_of(placed)))
    assert re.search(asked, page), page
    assert "Failed" not in page

    turn_back(placed, "cancelling")
    page = read(client.get(page_of(placed)))
    assert re.search(f"{asked} .{{,30}}To come: Make sure that nothing is charged", page), page
    assert "Failed" not in page
    assert "Give back" not in page
    write_trail(placed, ("refund_payment", "running"))
    assert "Now: We are making sure that nothing is charged" in read(client.get(page_of(placed)))
    Payment.objects.update(state=PaymentState.CLOSED)
    write_trail(placed, ("refund_payment", "nothing_to_undo"))
    assert "Done: Nothing was charged" in read(client.get(page_of(placed)))


def test_a_refusal_stays_one_although_the_customer_asked_to_cancel(client: Browser) -> None:
    placed = place()
    set_status(placed, "created")
    ask_to_cancel(placed)
    write_trail(placed, ("process_payment", "failed"), error_type="PaymentRefused")
    turn_back(placed, "cancelling", "PaymentRefused")
    page = read(client.get(page_of(placed)))
    assert "Failed: The bank declined the payment" in page
    assert "To come: Make sure that nothing is charged" in page


def test_a_cancel_of_the_shop_is_not_called_the_customers(client: Browser) -> None:
    placed = place()
    set_status(placed, "completed")
    charge(placed)
    write_trail(placed, ("process_payment", "done"))
    ask_to_cancel(placed, "ada")
    page = read(client.get(page_of(placed)))
    assert "Done: The shop began to cancel your order" in page
    assert "To come: Give back what was paid" in page
    assert "You asked" not in page


def test_a_refund_of_a_part_leaves_the_rest_on_its_way(client: Browser) -> None:
    placed = place()
    set_status(placed, "completed")
    payment = charge(placed)
    ask_to_cancel(placed)
    PaymentEvent.objects.create(payment=payment, kind=EventKind.REFUNDED, amount=-100)
    page = read(client.get(page_of(placed)))
    assert "You requested it. The refund of 300.00 EUR is on its way." in page
    assert "300.00 EUR refunded" not in page


def test_a_large_order_is_cancelled_by_its_customer_alone(client: Browser, settings: Any) -> None:
    settings.REFUND_APPROVAL_ABOVE = 0
    placed = place()
    set_status(placed, "completed")
    charge(placed)
    client.post(page_of(placed) + "cancel/")
    placed.refresh_from_db()
    assert placed.status == "cancelling"
