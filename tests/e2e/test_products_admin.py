"""The admin's products over HTTP: the list, the form, and who may do what."""

from typing import Any

import pytest
from django.test import Client as Browser

from inventory import services
from inventory.models import Product
from inventory.selectors import list_last_movements
from tests.e2e.doors import count_queries, log_in, page_of, read_messages
from tests.e2e.stockroom import (
    HOLDS,
    LEDGER,
    PRODUCTS,
    book,
    booking,
    get_product,
    hold,
    list_results,
    page_of_product,
    product_form,
    read_stock,
    stock_page,
)

# --- products -------------------------------------------------------------------------------------------


def test_a_new_product_gets_its_stock_which_is_empty(boss: Browser) -> None:
    boss.post(f"{PRODUCTS}add/", product_form())
    product = get_product("VASE")
    assert (product.low_stock_at, str(product.price)) == (3, "12.00")
    assert read_stock(product) == (0, 0)
    assert "Nothing was ever booked." in boss.get(page_of_product(product)).content.decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sku": "A\tB"}, "no blanks"),
        ({"sku": "A B"}, "no blanks"),
        ({"sku": "A\u00a0B"}, "no blanks"),
        ({"sku": "A\nB"}, "no blanks"),
        ({"sku": "A\x00B"}, "Null characters are not allowed"),
        ({"sku": "A\x07B"}, "no blanks"),
        ({"sku": "VÄSE"}, "no blanks"),
        ({"sku": ""}, "This field is required"),
        ({"sku": "X" * 41}, "at most 40 characters"),
        ({"sku": "MUG-STONE"}, "already exists"),
        ({"price": "-0.01"}, "A price is 0 or more."),
        ({"price": "1.005"}, "no more than 2 decimal places"),
        ({"price": "NaN"}, "Enter a number"),
        ({"price": "1e30"}, "no more than 10 digits"),
        ({"low_stock_at": "-1"}, "greater than or equal to 0"),
        ({"low_stock_at": 10**30}, "less than or equal to"),
    ],
)
def test_a_product_nobody_could_order_is_refused_in_words(
    boss: Browser, changes: dict[str, Any], message: str
) -> None:
    before = Product.objects.count()
    page = boss.post(f"{PRODUCTS}add/", product_form(**changes)).content.decode()
    assert message in page
    assert "product_price_not_negative" not in page
    assert Product.objects.count() == before


@pytest.mark.parametrize("sku", ["VASE", "vase_1.5/blue", "(x)#1+2", "~"])
def test_a_sku_may_have_any_sign_that_is_typed(boss: Browser, sku: str) -> None:
    boss.post(f"{PRODUCTS}add/", product_form(sku=f"  {sku}\t"))
    assert Product.objects.filter(sku=sku).exists()


def test_a_product_is_edited_and_withdrawn_but_keeps_its_sku_and_cannot_be_deleted(boss: Browser) -> None:
    product = get_product()
    changes = {"sku": "OTHER", "name": "Mug", "description": "", "price": "9.00", "low_stock_at": "7"}
    boss.post(page_of_product(product), changes)
    product.refresh_from_db()
    assert (product.sku, product.name, str(product.price)) == ("MUG-STONE", "Mug", "9.00")
    assert (product.is_active, product.low_stock_at) == (False, 7)
    assert boss.post(f"{PRODUCTS}{product.pk}/delete/", {"post": "yes"}).status_code == 403
    assert b"delete_selected" not in boss.get(PRODUCTS).content


def test_the_list_says_what_is_low_and_what_is_sold_out(boss: Browser) -> None:
    lamp, desk = get_product("LAMP-DESK"), get_product("DESK-OAK")
    services.adjust_stock(product_id=lamp.pk, change=-55, note="water")
    services.adjust_stock(product_id=desk.pk, change=-60, note="recall")
    never_booked = Product.objects.create(sku="NEW", name="Never booked in", price=1)
    Product.objects.filter(sku="TEE-M").update(is_active=False)

    def skus(query: str) -> set[str]:
        return {product.sku for product in list_results(boss, f"{PRODUCTS}?{query}")}

    assert skus("stock=low") == {lamp.sku, desk.sku, never_booked.sku}
    assert skus("stock=out") == {desk.sku, never_booked.sku}
    assert len(skus("stock=enough")) == 10
    assert skus("on_sale=0") == {"TEE-M"}
    assert skus("stock=low&on_sale=0") == set()
    assert skus("q=lamp") == {lamp.sku}
    page = boss.get(f"{PRODUCTS}?stock=low").content.decode()
    assert page.count('od-stock-low">low<') == 1
    assert page.count('od-stock-out">sold out<') == 2
    # One unit more than the mark is enough.
    services.receive_stock(product_id=lamp.pk, quantity=1)
    assert lamp.sku not in skus("stock=low")


def test_the_page_says_who_holds_what_and_what_moved_the_stock(boss: Browser) -> None:
    product = get_product()
    first, second = hold("MUG-STONE", 2), hold("MUG-STONE", 3, email="grace@example.com")
    services.release_inventory(order_id=first.pk)
    services.adjust_stock(product_id=product.pk, change=-10, note="<b>broken</b>")
    page = boss.get(page_of_product(product)).content.decode()
    holds = page[page.index('id="holds"') : page.index('id="movements"')]
    assert f'<a href="{page_of(second)}">{second.number}</a>' in holds
    assert "grace@example.com" in holds
    assert page_of(first) not in holds
    assert f'href="{HOLDS}?sku=MUG-STONE&amp;state=held"' in holds
    assert f'href="{LEDGER}?sku=MUG-STONE"' in page
    assert "&lt;b&gt;broken&lt;/b&gt;" in page
    rows = list_last_movements(product.pk, limit=50)
    assert [(row.movement.kind, row.on_hand, row.held, row.available) for row in rows] == [
        ("adjusted", 140, 3, 137),
        ("released", 150, 3, 147),
        ("reserved", 150, 5, 145),
        ("reserved", 150, 2, 148),
        ("received", 150, 0, 150),
    ]


def test_a_page_of_many_holds_and_movements_shows_fifty_with_the_same_queries(boss: Browser) -> None:
    product = get_product()

    addresses = [page_of_product(product), PRODUCTS, HOLDS, LEDGER, f"{LEDGER}?sku=MUG-STONE"]
    for _ in range(2):
        hold("MUG-STONE", 1)
    few = [count_queries(boss, address) for address in addresses]
    for _ in range(50):
        hold("MUG-STONE", 1)
    assert [count_queries(boss, address) for address in addresses] == few
    page = boss.get(page_of_product(product)).content.decode()
    assert "These are the 50 oldest." in page
    assert "These are the last 50." in page
    assert page.count('data-label="Units"') == 50
    assert page.count('data-label="When"') == 50


# --- who may do what ------------------------------------------------------------------------------------


def test_viewers_see_products_and_change_nothing(counter: None) -> None:
    product = get_product()
    order = hold("MUG-STONE", 3)
    viewer = log_in("viewer", "view_product")
    page = viewer.get(page_of_product(product)).content.decode()
    assert "Book stock" not in page
    assert str(order.number) in page
    # Customers and orders are for those who may see orders.
    assert order.customer_email not in page
    assert page_of(order) not in page
    assert HOLDS not in page
    assert viewer.post(page_of_product(product), product_form(name="x")).status_code == 403
    assert viewer.get(f"{PRODUCTS}add/").status_code == 403
    assert viewer.get(stock_page(product)).status_code == 403
    assert viewer.post(stock_page(product), booking("received", 1, on_hand=150)).status_code == 403
    assert viewer.get(HOLDS).status_code == viewer.get(LEDGER).status_code == 403
    assert read_stock(product) == (150, 3)


def test_who_may_only_book_stock_books_and_sees_no_more(counter: None) -> None:
    product = get_product()
    booker = log_in("booker", "adjust_stock")
    response = book(booker, product, "received", 7)
    assert response.redirect_chain == [(stock_page(product), 302)]
    assert "157 on hand now" in read_messages(response)[0]
    assert page_of_product(product) not in response.content.decode()
    assert booker.get(PRODUCTS).status_code == 403
    assert booker.get(page_of_product(product)).status_code == 403


def test_who_may_only_change_products_cannot_book_stock(counter: None) -> None:
    product = get_product()
    editor = log_in("editor", "change_product")
    assert "Book stock" not in editor.get(page_of_product(product)).content.decode()
    assert editor.get(stock_page(product)).status_code == 403
    assert editor.post(stock_page(product), booking("received", 1, on_hand=150)).status_code == 403
    editor.post(page_of_product(product), product_form(name="Changed"))
    product.refresh_from_db()
    assert product.name == "Changed"
    assert editor.get(f"{PRODUCTS}add/").status_code == 403
    assert read_stock(product) == (150, 0)


def test_customers_in_the_holds_are_for_who_may_see_orders(counter: None) -> None:
    order = hold("MUG-STONE", 3)
    keeper = log_in("keeper", "view_hold", "view_stockmovement")
    pages = [keeper.get(address).content.decode() for address in (HOLDS, LEDGER)]
    for page in pages:
        assert str(order.number) in page
        assert order.customer_email not in page
        assert page_of(order) not in page
    seller = log_in("seller", "view_hold", "view_order")
    assert order.customer_email in seller.get(HOLDS).content.decode()
