"""Booking stock in the admin: the plan, the confirmation, and a hold at the same time."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser

from inventory import services
from inventory.models import Product, StockMovement
from inventory.selectors import sum_movements
from tests.desk import check_stock_sums
from tests.e2e.doors import log_in, read_messages
from tests.e2e.stockroom import (
    PRODUCTS,
    book,
    book_without_the_lock,
    booking,
    get_product,
    hold,
    page_of_product,
    race_a_hold,
    read_stock,
    stock_page,
)

# --- booking stock --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "units", "after", "movement"),
    [
        ("received", 7, 157, ("received", 7)),
        ("found", 7, 157, ("adjusted", 7)),
        ("missing", 7, 143, ("adjusted", -7)),
        ("counted", 17, 17, ("adjusted", -133)),
        ("counted", 160, 160, ("adjusted", 10)),
    ],
)
def test_what_happened_is_booked_with_its_note_and_who_did_it(
    boss: Browser, kind: str, units: int, after: int, movement: tuple[str, int]
) -> None:
    product = get_product()
    response = book(boss, product, kind, units, "<i>delivery</i> 4711")
    assert response.redirect_chain == [(page_of_product(product), 302)]
    change = movement[1]
    assert read_messages(response) == [
        f"Booked {change:+d} units of {product}: {after} on hand now, 0 of them held, {after} available."
    ]
    assert read_stock(product) == sum_movements(product.pk) == (after, 0)
    last = StockMovement.objects.filter(product=product).order_by("pk").last()
    assert last is not None
    assert (last.kind, last.on_hand_change, last.note, last.actor) == (
        *movement,
        "<i>delivery</i> 4711",
        "boss",
    )
    entry = LogEntry.objects.get(object_id=str(product.pk))
    assert entry.user.username == "boss"
    assert f"Booked {change:+d} units" in entry.get_change_message()
    assert "<i>delivery</i> 4711" in entry.get_change_message()
    assert "<i>" not in response.content.decode()


def test_the_confirmation_shows_before_and_after_and_books_nothing(boss: Browser) -> None:
    product = get_product()
    hold("MUG-STONE", 3)
    page = boss.post(stock_page(product), booking("missing", 5)).content.decode()
    assert "150 on hand, 3 held: after this 145 on hand, 142 available." in page
    assert 'value="Book \u22125 units"' in page
    assert read_stock(product) == (150, 3)
    back = re.search(r'class="closelink" href="\?([^"]*)"', page)
    assert back is not None
    again = boss.get(f"{stock_page(product)}?{back[1].replace('&amp;', '&')}").content.decode()
    assert 'value="5"' in again
    assert 'value="delivery 4711"' in again


def test_never_fewer_than_are_held(boss: Browser) -> None:
    product = get_product()
    hold("MUG-STONE", 3)
    for form in (booking("missing", 148), booking("counted", 2), booking("counted", 2, on_hand=150)):
        page = boss.post(stock_page(product), form).content.decode()
        assert "150 are on hand and 3 of them are held" in page
        assert 'value="delivery 4711"' in page
    assert read_stock(product) == (150, 3)
    book(boss, product, "counted", 3)
    assert read_stock(product) == (3, 3)


def test_a_confirmation_sent_twice_books_once(boss: Browser) -> None:
    product = get_product()
    form = booking("received", 7, on_hand=150)
    boss.post(stock_page(product), form)
    again = boss.post(stock_page(product), form)
    assert "157 units are on hand now, not 150 as you were shown" in again.content.decode()
    assert read_stock(product) == (157, 0)
    assert StockMovement.objects.filter(product=product).count() == 2
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (booking("received", 0), "this changes nothing"),
        (booking("counted", 150), "this changes nothing"),
        (booking("counted", 150, on_hand=150), "this changes nothing"),
        (booking("received", -1), "greater than or equal to 0"),
        (booking("received", 10**30), "less than or equal to 1000000"),
        (booking("received", "x"), "Enter a whole number"),
        (booking("received", "1\x00"), "Enter a whole number"),
        (booking("received", 1, ""), "This field is required"),
        (booking("received", 1, "   "), "This field is required"),
        (booking("received", 1, "x" * 201), "at most 200 characters"),
        (booking("received", 1, "\x00"), "Null characters are not allowed"),
        (booking("stolen", 1), "Select a valid choice"),
        (booking("received", 1, on_hand="x"), "Stock now"),
        (booking("received", 1, on_hand=10**30), "Stock now"),
        (booking("received", 1, on_hand=-1), "Stock now"),
        ({}, "This field is required"),
    ],
)
def test_a_senseless_booking_is_refused(boss: Browser, form: dict[str, Any], message: str) -> None:
    product = get_product()
    response = boss.post(stock_page(product), form)
    assert response.status_code == 200
    assert message in response.content.decode()
    assert read_stock(product) == (150, 0)


def test_more_than_the_database_can_count_is_refused(boss: Browser) -> None:
    product = get_product()
    services.receive_stock(product_id=product.pk, quantity=services.MAX_ON_HAND - 151)
    assert b"cannot be on hand" in boss.post(stock_page(product), booking("received", 2)).content
    book(boss, product, "received", 1)
    assert read_stock(product)[0] == services.MAX_ON_HAND


def test_a_product_without_a_stock_row_can_be_booked_in(boss: Browser) -> None:
    product = Product.objects.create(sku="NEW", name="Never booked in", price=1)
    assert boss.get(page_of_product(product)).status_code == 200
    assert b"0 of them are held" in boss.post(stock_page(product), booking("missing", 1)).content
    book(boss, product, "counted", 4)
    assert read_stock(product) == (4, 0)


@pytest.mark.parametrize("product_id", [0, 10**9, 10**30])
def test_stock_of_an_unknown_product_is_not_found(boss: Browser, product_id: int) -> None:
    assert boss.get(f"{PRODUCTS}{product_id}/stock/").status_code == 404
    assert boss.post(f"{PRODUCTS}{product_id}/stock/", booking("received", 1)).status_code == 404


# --- a booking and a hold at the same time --------------------------------------------------------------


def test_a_booking_that_meets_a_hold_sees_it(shop: None) -> None:
    product = get_product()
    boss = log_in("boss", superuser=True)
    held, answer = race_a_hold(
        product,
        lambda: boss.post(stock_page(product), booking("missing", 150, on_hand=150)),
        waits_for="FOR UPDATE",
    )
    assert held == "held"
    assert "150 are on hand and 1 of them are held" in answer.content.decode()
    assert read_stock(product) == (150, 1)
    check_stock_sums()


def test_control_without_the_lock_only_the_database_stops_it(shop: None) -> None:
    product = get_product()
    held, answer = race_a_hold(
        product, lambda: book_without_the_lock(product), waits_for='UPDATE "inventory_stockitem"'
    )
    assert held == "held"
    assert "stock_reserved_within_on_hand" in str(answer)
