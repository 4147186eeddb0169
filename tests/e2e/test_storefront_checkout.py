"""The checkout over HTTP: what it asks for, what it says, and that a form becomes one order at most."""

import re
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client as Browser

from inventory.models import Product
from orders import desk
from orders.models import CUSTOMER, Order, OrderAction, OutboxMessage
from orders.services import Decision, Item
from orders.storefront import checkout
from tests.desk import place
from tests.e2e.doors import log_in
from tests.e2e.storefront import (
    EMAIL,
    cart_of,
    fill_cart,
    open_form,
    order,
    page_of,
    read,
    set_available,
    set_price,
)

pytestmark = pytest.mark.usefixtures("counter")


PLAIN_LETTERS = (
    "Give an e-mail address in plain letters without accents, for example ada@example.com. "
    "A domain such as bücher.example has one, too: xn--bcher-kva.example."
)


def send(browser: Browser, form: dict[str, str]) -> Any:
    return browser.post("/checkout/", form)


# --- ordering --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payment", "token"),
    [
        ("pays", "tok_ok"),
        ("declined", "tok_declined"),
        ("answer_lost", "tok_answer_lost_x1"),
        ("slow", "tok_hang_s3_x2"),
    ],
)
def test_ordering_places_the_cart_and_leads_to_the_order(client: Browser, payment: str, token: str) -> None:
    placed = order(client, ("MUG-STONE", 2), ("PEN-BRASS", 1), payment=payment)
    assert (str(placed.total), placed.customer_email, placed.payment_token) == ("61.00", EMAIL, token)
    assert {line.sku: line.quantity for line in placed.lines.all()} == {"MUG-STONE": 2, "PEN-BRASS": 1}
    assert OrderAction.objects.get().actor == CUSTOMER
    assert OutboxMessage.objects.get().workflow_id == f"order-{placed.pk}"
    assert cart_of(client) == {}
    empty = client.get("/cart/")
    assert "There is nothing in it yet. What you ordered last is here" in read(empty)
    assert page_of(placed) in empty.content.decode()


def test_an_order_of_staff_who_shop_is_a_customers(counter: None) -> None:
    placed = order(log_in("boss", superuser=True))
    assert (placed.placed_by, placed.client) == (None, None)
    assert OrderAction.objects.get().actor == CUSTOMER


def test_the_next_order_has_an_id_of_its_own(client: Browser) -> None:
    assert order(client).pk != order(client).pk
    assert Order.objects.count() == 2


def test_the_next_checkout_begins_anew(client: Browser) -> None:
    fill_cart(client)
    form = open_form(client, payment="slow")
    set_available("MUG-STONE", 1)
    send(client, form)
    client.post("/cart/adjust/")
    kept = client.get("/checkout/").content.decode()
    assert f'value="{EMAIL}"' in kept
    send(client, open_form(client, payment="slow"))
    fill_cart(client, ("PEN-BRASS", 1))
    page = client.get("/checkout/").content.decode()
    assert EMAIL not in page.replace("for example ada@example.com", "")
    assert re.search(r'value="pays"[^>]* checked', page)


def test_an_empty_cart_has_no_checkout(client: Browser) -> None:
    assert client.get("/checkout/")["Location"] == "/cart/"


# --- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said", "field"),
    [
        ({"email": ""}, "Give your e-mail address, for example ada@example.com.", "id_email"),
        ({"email": "ada@"}, "This is not an e-mail address. One looks like ada@example.com.", "id_email"),
        ({"email": f"{'a' * 250}@example.com"}, "An e-mail address has at most 254 characters.", "id_email"),
        ({"email": "ada@bücher.example"}, PLAIN_LETTERS, "id_email"),
        ({"email": '"a\x0bBcc:eve"@example.com'}, PLAIN_LETTERS, "id_email"),
        ({"payment": ""}, "Choose how to pay.", "id_payment_0"),
        ({"payment": "tok_ok"}, "Choose one of the ways to pay.", "id_payment_0"),
    ],
)
def test_mistakes_are_said_beside_their_fields_and_nothing_is_lost(
    client: Browser, changes: dict[str, str], said: str, field: str
) -> None:
    fill_cart(client)
    answer = send(client, open_form(client, **{"payment": "slow", **changes}))
    assert answer.status_code == 422
    html = unescape(answer.content.decode())
    assert f'<a href="#{field}">{said}</a>' in html
    error = f"{field.removesuffix('_0')}_error"
    assert f'id="{error}"' in html
    described = "id_email_helptext id_email_error" if field == "id_email" else error
    assert f'aria-describedby="{described}"' in html
    kept = {"email": EMAIL, "payment": "slow", **changes}
    assert f'name="email" value="{kept["email"]}"' in html or not kept["email"]
    assert html.count("checked") == (kept["payment"] == "slow")
    assert not Order.objects.exists()
    assert cart_of(client) == {"MUG-STONE": 2}
    send(client, open_form(client))
    assert Order.objects.count() == 1


def test_a_total_above_the_limit_is_refused_in_words(client: Browser) -> None:
    set_price("MUG-STONE", "99999999.99")
    fill_cart(client, ("MUG-STONE", 101))
    answer = send(client, open_form(client))
    assert answer.status_code == 422
    assert "The order's total is above 9999999999.99; split it into several orders." in read(answer)
    assert cart_of(client) == {"MUG-STONE": 101}


def test_what_is_free_is_ordered_together_with_something_that_has_a_price(client: Browser) -> None:
    set_price("MUG-STONE", "0.00")
    assert "0.00 EUR" in read(client.get("/"))
    fill_cart(client, ("MUG-STONE", 1))
    answer = send(client, open_form(client))
    assert answer.status_code == 422
    assert "The order's total is 0.00, and a payment takes at least 0.01" in read(answer)
    assert cart_of(client) == {"MUG-STONE": 1}
    assert not Order.objects.exists()
    assert str(order(client, ("PEN-BRASS", 1)).total) == "32.00"


# --- what changed since ----------------------------------------------------------------------------------


def test_selling_out_keeps_the_cart_and_says_what_is_left(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 5), ("PEN-BRASS", 1), ("LAMP-DESK", 1))
    form = open_form(client, payment="answer_lost")
    set_available("MUG-STONE", 3)
    set_available("PEN-BRASS", 0)
    answer = send(client, form)
    assert answer.status_code == 409
    page = read(answer)
    assert "Nothing was ordered and nothing was charged. Your cart is kept" in page
    assert "Stoneware mug Only 3 left; you have 5 in your cart." in page
    assert "Brass ballpoint pen Sold out." in page
    assert "Desk lamp" not in page
    assert cart_of(client) == {"MUG-STONE": 5, "PEN-BRASS": 1, "LAMP-DESK": 1}
    assert "Not all of it is left" in read(client.get("/checkout/"))

    answer = client.post("/cart/adjust/", follow=True)
    assert "Order and pay 132.50 EUR" in read(answer)
    # What had been typed is still there.
    assert f'value="{EMAIL}"' in answer.content.decode()
    send(client, open_form(client, payment="answer_lost"))
    assert str(Order.objects.get().total) == "132.50"


def test_a_withdrawn_product_keeps_the_cart_and_is_named(client: Browser) -> None:
    fill_cart(client)
    form = open_form(client)
    Product.objects.filter(sku="MUG-STONE").update(is_active=False)
    answer = send(client, form)
    assert answer.status_code == 409
    assert "Stoneware mug No longer sold." in read(answer)
    assert not Order.objects.exists()


def test_a_new_price_is_shown_before_anything_is_ordered(client: Browser) -> None:
    fill_cart(client)
    form = open_form(client)
    set_price("MUG-STONE", "30.60")
    answer = send(client, form)
    assert answer.status_code == 409
    assert "The total is now 61.20 EUR , not 29.00 EUR." in read(answer)
    assert not Order.objects.exists()
    # The old page again: it still shows the old price.
    assert send(client, form).status_code == 409
    send(client, open_form(client))
    assert str(Order.objects.get().total) == "61.20"


def test_another_cart_of_the_same_total_is_shown_as_well(client: Browser) -> None:
    fill_cart(client, ("TEE-M", 1))
    form = open_form(client)
    client.post("/cart/", {"remove": "TEE-M"})
    fill_cart(client, ("TEE-L", 1))
    answer = send(client, form)
    assert answer.status_code == 409
    assert "Something in it or its price has changed." in read(answer)
    assert not Order.objects.exists()


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_price_that_changes_while_the_order_is_placed_takes_it_back(
    client: Browser, monkeypatch: pytest.MonkeyPatch, is_guarded: bool
) -> None:
    """The control: without the second look the order has a price that its customer never saw."""
    place_order = desk.place_order

    def overtake(**order: Any) -> Decision:
        set_price("MUG-STONE", "99.00")  # after the lines were read, before they are frozen
        return place_order(**order)

    fill_cart(client)
    form = open_form(client)
    monkeypatch.setattr(desk, "place_order", overtake)
    if not is_guarded:
        monkeypatch.setattr(checkout, "mark_order", lambda placed: form["seen"])
    answer = send(client, form)
    assert [str(placed.total) for placed in Order.objects.all()] == ([] if is_guarded else ["198.00"])
    if is_guarded:
        assert answer.status_code == 409
        assert cart_of(client) == {"MUG-STONE": 2}


# --- one form, one order ---------------------------------------------------------------------------------


def test_a_form_sent_again_leads_to_its_order(client: Browser) -> None:
    fill_cart(client)
    form = open_form(client)
    first, again = send(client, form), send(client, form)
    assert first["Location"] == again["Location"] == page_of(Order.objects.get())
    fill_cart(client, ("PEN-BRASS", 1))
    assert send(client, form)["Location"] == first["Location"]
    assert Order.objects.count() == 1
    assert cart_of(client) == {"PEN-BRASS": 1}


@pytest.mark.parametrize("changes", [{"email": "eve@example.com"}, {"payment": "declined"}, {"email": ""}])
def test_a_form_sent_again_with_other_content_says_it_was_placed(
    client: Browser, changes: dict[str, str]
) -> None:
    placed = order(client)
    form = {
        "order_id": str(placed.pk),
        "seen": checkout.mark_order(placed),
        "email": EMAIL,
        "payment": "pays",
    }
    answer = send(client, {**form, **changes})
    assert answer.status_code == 409
    assert f"had already become order {placed.number} of 29.00 EUR." in read(answer)
    assert page_of(placed) in answer.content.decode()
    assert Order.objects.count() == 1
    placed.refresh_from_db()
    assert (placed.customer_email, placed.payment_token) == (EMAIL, "tok_ok")


def test_two_tabs_with_different_carts_place_one_order(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2))
    older = open_form(client)
    fill_cart(client, ("PEN-BRASS", 1))
    newer = open_form(client)
    assert older["order_id"] == newer["order_id"]
    assert send(client, older).status_code == 409  # shows what is in the cart by now
    send(client, newer)
    answer = send(client, older)
    assert "This order was already placed" in read(answer)
    assert str(Order.objects.get().total) == "61.00"


def test_only_ids_of_this_session_are_taken(client: Browser) -> None:
    other = Browser()
    theirs = order(other)
    fill_cart(client)
    for foreign in (str(theirs.pk), str(place().pk), str(uuid4()), "", "nonsense", "\x00"):
        answer = send(client, open_form(client, order_id=foreign))
        assert answer.status_code == 409
        assert "This page was out of date" in read(answer)
        assert str(theirs.pk) not in answer.content.decode()
        assert str(theirs.number) not in read(answer)
        assert cart_of(client) == {"MUG-STONE": 2}
    assert Order.objects.count() == 2


def test_a_cart_that_a_slower_tab_brought_back_is_not_ordered_twice_unnoticed(client: Browser) -> None:
    fill_cart(client)
    before = client.session["shop"]
    placed = order(client, ("PEN-BRASS", 1))
    session = client.session
    session["shop"] = before  # as a write that did not wait for ours would leave it
    session.save()
    form = open_form(client)
    assert form["order_id"] == str(placed.pk)
    answer = send(client, form)
    assert "This order was already placed" in read(answer)
    assert "Your cart is kept. If you order what is in it, that is another order." in read(answer)
    assert Order.objects.count() == 1
    assert cart_of(client) == {"MUG-STONE": 2}
    fresh = open_form(client)
    assert fresh["order_id"] != form["order_id"]
    send(client, fresh)
    assert Order.objects.count() == 2


def test_a_cart_brought_back_as_it_was_ordered_is_emptied(client: Browser) -> None:
    fill_cart(client)
    before = client.session["shop"]
    send(client, open_form(client))
    session = client.session
    session["shop"] = before
    session.save()
    answer = send(client, open_form(client))
    assert answer["Location"] == page_of(Order.objects.get())
    assert cart_of(client) == {}


def test_an_order_placed_without_the_session_knowing_is_found_by_its_id(client: Browser) -> None:
    """As after a crash between the order's commit and the session's, were they two."""
    fill_cart(client)
    form = open_form(client)
    desk.place_order(
        order_id=UUID(form["order_id"]),
        customer_email=EMAIL,
        payment_token="tok_ok",
        items=[Item("MUG-STONE", 2)],
        actor=CUSTOMER,
    )
    assert send(client, form)["Location"] == page_of(Order.objects.get())


def test_a_session_that_ended_says_so_and_orders_nothing(client: Browser) -> None:
    fill_cart(client)
    form = open_form(client)
    client.session.flush()
    client.cookies.clear()
    answer = send(client, form)
    assert answer.status_code == 409
    assert "does not belong to a cart of yours" in read(answer)
    assert not Order.objects.exists()
