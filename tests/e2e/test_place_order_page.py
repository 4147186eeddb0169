"""The page that places an order, and the products its combobox is fed with, over HTTP."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext

from inventory.models import Product, StockItem
from orders.models import Order, OrderAction, OutboxMessage
from tests.e2e.doors import ADD, LIST, log_in, order_form, page_of, read_messages

PRODUCTS = f"{LIST}products/"


def find(browser: Browser, **parameters: Any) -> dict[str, Any]:
    response = browser.get(PRODUCTS, parameters)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def list_skus(browser: Browser, **parameters: Any) -> list[str]:
    return [product["sku"] for product in find(browser, **parameters)["results"]]


def make_products(count: int) -> None:
    """A large catalogue, each product with 7 units on hand."""
    products = Product.objects.bulk_create(
        [Product(sku=f"BULK-{n:05}", name=f"Bulk product {n}", price="3.00") for n in range(count)]
    )
    StockItem.objects.bulk_create([StockItem(product=product, on_hand=7) for product in products])


# --- placing ---------------------------------------------------------------------------------------------


def test_placing_leads_to_the_orders_page(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 2), ("", 1), ("PEN-BRASS", 1), payment_token="tok_ok")
    response = boss.post(ADD, form, follow=True)
    order = Order.objects.get()
    assert response.redirect_chain == [(page_of(order), 302)]
    assert read_messages(response) == [f"{order} is accepted; its saga is on its way."]
    assert str(order.total) == "61.00"
    assert order.placed_by is not None
    assert order.placed_by.username == "boss"
    assert OrderAction.objects.get().actor == "boss"
    assert OutboxMessage.objects.get().workflow_id == f"order-{order.pk}"


def test_two_rows_of_the_same_product_are_added_up(boss: Browser) -> None:
    boss.post(ADD, order_form(("MUG-STONE", 2), ("MUG-STONE", 3)))
    assert [(line.sku, line.quantity) for line in Order.objects.get().lines.all()] == [("MUG-STONE", 5)]


def test_without_scripts_there_is_a_form_with_more_lines(boss: Browser) -> None:
    page = boss.get(ADD).content.decode()
    assert page.count('class="place-sku"') == 4  # with the template of a new row
    assert '<noscript><p class="help">For more lines, <a href="?more=1">' in page
    assert boss.get(f"{ADD}?more=1").content.decode().count('class="place-sku"') == 21
    boss.post(f"{ADD}?more=1", order_form(*[("", 1)] * 19, ("MUG-STONE", 1)))
    assert Order.objects.get().lines.get().sku == "MUG-STONE"


def test_blanks_around_a_typed_sku_do_not_matter(boss: Browser) -> None:
    boss.post(ADD, order_form(("  MUG-STONE ", 1)))
    assert Order.objects.get().lines.get().sku == "MUG-STONE"


@pytest.mark.parametrize(
    ("form", "where", "summary"),
    [
        (
            order_form(("MUG-STONE", 1), customer_email="nonsense"),
            "field-customer_email",
            '<a href="#id_customer_email">Customer&#x27;s e-mail</a>: Enter a valid email address.',
        ),
        (
            order_form(("MUG-STONE", 1), payment_token="x" * 201),
            "field-payment_token",
            '<a href="#id_payment_token">Payment token</a>: Ensure this value has at most 200',
        ),
        (order_form(("MUG-STONE", 0)), "field-quantity", '<a href="#id_lines-0-quantity">Line 1, quantity'),
        (order_form(("MUG-STONE", "")), "field-quantity", "Line 1, quantity</a>: This field is required."),
        (order_form(("MUG-STONE", 10_001)), "field-quantity", "Line 1, quantity"),
        (
            order_form(("MUG-STONE", 9_000), ("MUG-STONE", 9_000)),
            "field-quantity",
            "Line 2, quantity</a>: Order between 1 and 10000 units.",
        ),
        (order_form(("", 1), ("MUG-STONE", 10**30)), "field-quantity", "Line 2, quantity"),
        (order_form(("", 5)), "field-sku", '<a href="#id_lines-0-sku">Line 1, product'),
        (
            order_form(("MUG-STONE", 1), ("", 1), ("NO-SUCH", 1)),
            "field-sku",
            "Line 3, product</a>: There is no product &#x27;NO-SUCH&#x27; on sale.",
        ),
        (order_form(("NO\x00SUCH", 1)), "field-sku", "Line 1, product"),
        (order_form(("", 1), ("", 1)), "lines-heading", '<a href="#lines-group">Lines</a>'),
        (order_form(), "lines-heading", '<a href="#lines-group">Lines</a>'),
        (order_form(("MUG-STONE", "1\x00")), "field-quantity", "Line 1, quantity"),
    ],
)
def test_a_bad_order_is_refused_beside_the_field_and_keeps_what_was_typed(
    boss: Browser, form: dict[str, Any], where: str, summary: str
) -> None:
    response = boss.post(ADD, form)
    assert response.status_code == 200
    assert not Order.objects.exists()
    page = response.content.decode()
    assert "Nothing has been placed yet." in page
    assert summary in page
    assert re.search(rf'{where}[^<]*">?[\s\S]{{0,900}}errorlist', page), page
    assert f'value="{form["customer_email"]}"' in page
    assert f'value="{form["order_id"]}"' in page
    typed = re.findall(r'name="lines-\d+-sku" value="MUG-STONE"', page)
    assert len(typed) == sum(value == "MUG-STONE" for value in form.values())


def test_a_refused_order_shows_what_the_known_lines_cost(boss: Browser) -> None:
    page = boss.post(ADD, order_form(("MUG-STONE", 2), ("NO-SUCH", 1), ("PEN-BRASS", 1))).content.decode()
    assert "Stoneware mug: 14.50 EUR, 150 available" in page
    assert '<td class="field-amount">29.00 EUR</td>' in page
    assert re.search(r'id="place-total"[^>]*>61.00 EUR<', page)


def test_no_order_is_placed_at_a_total_that_nobody_saw(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 2), ("PEN-BRASS", 1), shown_total="61.00", payment_token="tok_ok")
    Product.objects.filter(sku="MUG-STONE").update(price="900.00")
    response = boss.post(ADD, form)
    page = response.content.decode()
    assert not Order.objects.exists()
    assert not OutboxMessage.objects.exists()
    said = "The total is now 1832.00 EUR, not the 61.00 EUR shown before: check it, then place the order."
    assert said in page
    assert "Stoneware mug: 900.00 EUR, 150 available" in page
    assert re.search(r'id="place-total"[^>]*>1832.00 EUR<', page)
    for name in ("order_id", "customer_email", "payment_token", "lines-0-sku", "lines-1-sku"):
        assert re.search(rf'name="{name}" value="{form[name]}"', page), name
    # Filled by the script alone.
    assert re.search(r'<input type="hidden" name="shown_total" id="id_shown_total">', page)
    boss.post(ADD, {**form, "shown_total": "1832.00"})
    assert str(Order.objects.get().total) == "1832.00"


def test_the_total_that_was_shown_is_compared_to_the_cent(boss: Browser) -> None:
    Product.objects.filter(sku="MUG-STONE").update(price="99999999.99")
    form = order_form(("MUG-STONE", 99))
    assert "not the 9899999999.00 EUR shown before" in (
        boss.post(ADD, {**form, "shown_total": "9899999999.00"}).content.decode()
    )
    boss.post(ADD, {**form, "shown_total": "9899999999.01"})
    assert str(Order.objects.get().total) == "9899999999.01"


@pytest.mark.parametrize("shown", ["", None])
def test_without_scripts_no_total_is_shown_and_none_is_compared(boss: Browser, shown: str | None) -> None:
    boss.post(ADD, order_form(("MUG-STONE", 1), **({} if shown is None else {"shown_total": shown})))
    assert str(Order.objects.get().total) == "14.50"


@pytest.mark.parametrize(
    "shown", ["x", "\x00", " ", "NaN", "sNaN", "1e999999999", "<b>", "9" * 5000, "\u0661.50"]
)
def test_a_garbled_total_is_none_that_was_shown(boss: Browser, shown: str) -> None:
    response = boss.post(ADD, order_form(("MUG-STONE", 1), shown_total=shown))
    assert response.status_code == 200
    assert not Order.objects.exists()
    said = "The total is now 14.50 EUR, not the total shown before: check it, then place the order."
    assert said in response.content.decode()


def test_sending_the_add_form_twice_places_one_order(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 1), shown_total="14.50")
    first = boss.post(ADD, form)
    # The order stands, at its price of then.
    Product.objects.filter(sku="MUG-STONE").update(price="15.00")
    second = boss.post(ADD, form)
    assert first.headers["Location"] == second.headers["Location"] == page_of(Order.objects.get())
    assert OutboxMessage.objects.count() == 1


def test_form_sent_again_with_another_order_says_that_nothing_was_placed(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 1))
    boss.post(ADD, form)
    again = boss.post(ADD, {**form, "lines-0-quantity": 9}, follow=True)
    assert read_messages(again)[-1] == (
        f"Nothing was placed: this form was already sent, as {Order.objects.get()}. Open a new form."
    )


@pytest.mark.parametrize(
    "garbage",
    [
        {"lines-TOTAL_FORMS": "x"},
        {"lines-TOTAL_FORMS": 10**30},
        {"lines-TOTAL_FORMS": -1},
        {"order_id": "x"},
        {"order_id": "\x00"},
    ],
)
def test_a_garbled_form_is_refused(boss: Browser, garbage: dict[str, Any]) -> None:
    response = boss.post(ADD, {**order_form(("MUG-STONE", 1)), **garbage})
    assert response.status_code == 200
    assert not Order.objects.exists()
    assert "Nothing has been placed yet." in response.content.decode()


def test_names_are_escaped(boss: Browser) -> None:
    Product.objects.filter(sku="MUG-STONE").update(name='<b onclick="x">')
    page = boss.post(ADD, order_form(("MUG-STONE", 1), ('"><i>', 1))).content.decode()
    assert "&lt;b onclick=&quot;x&quot;&gt;" in page
    assert "<b onclick" not in page
    assert '"><i>' not in page


def test_the_page_stays_as_small_and_as_cheap_with_a_large_catalogue(boss: Browser) -> None:
    def measure() -> tuple[int, int]:
        with CaptureQueriesContext(connection) as queries:
            response = boss.get(ADD)
        # The order's id and the CSRF token differ, and have a fixed length.
        return len(response.content), len(queries)

    measure()  # what this process looks up once is not of the page
    small = measure()
    make_products(5_000)
    assert measure() == small
    assert small[0] < 40_000
    assert len(find(boss, term="bulk")["results"]) == 20


# --- the products of the combobox ------------------------------------------------------------------------


def test_products_come_with_price_and_availability(boss: Browser) -> None:
    Product.objects.create(sku="NEW", name="Never booked in", price="1.00")
    assert find(boss, term="stone mug") == {
        "results": [
            {
                "sku": "MUG-STONE",
                "name": "Stoneware mug",
                "price": "14.50",
                "currency": "EUR",
                "available": 150,
            }
        ],
        "more": False,
    }
    assert find(boss, q="NEW")["results"][0]["available"] == 0


def test_only_what_is_on_sale_is_found(boss: Browser) -> None:
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    assert list_skus(boss, term="tee") == ["TEE-L"]
    assert len(list_skus(boss)) == 11


def test_the_sku_itself_comes_first_then_what_begins_with_it(boss: Browser) -> None:
    for sku, name in [("A-CUP", "x"), ("CUP-2", "x"), ("cup", "x"), ("CUP", "x"), ("ZZZ", "A CUP of tea")]:
        Product.objects.create(sku=sku, name=name, price=Decimal(1))
    assert list_skus(boss, term="CUP") == ["CUP", "cup", "CUP-2", "A-CUP", "ZZZ"]


def test_signs_of_a_pattern_stand_for_themselves(boss: Browser) -> None:
    Product.objects.create(sku="P%", name="Half_price", price=1)
    assert list_skus(boss, term="%") == ["KEYB-75", "P%"]
    assert list_skus(boss, term="half_") == ["P%"]
    assert list_skus(boss, term="_____") == []


def test_products_come_in_pages_of_twenty(boss: Browser) -> None:
    make_products(45)
    pages = [find(boss, term="bulk", page=page) for page in (1, 2, 3, 4)]
    assert [len(page["results"]) for page in pages] == [20, 20, 5, 0]
    assert [page["more"] for page in pages] == [True, True, False, False]
    skus = [product["sku"] for page in pages for product in page["results"]]
    assert skus == sorted(set(skus))
    assert len(skus) == 45


@pytest.mark.parametrize(
    "parameters",
    [
        {"term": "\x00"},
        {"term": "x" * 5_000},
        {"page": "x"},
        {"page": 0},
        {"page": -1},
        {"page": 10**30},
        {"term": "mug", "page": "\x00"},
    ],
)
def test_senseless_searches_find_nothing(boss: Browser, parameters: dict[str, Any]) -> None:
    assert find(boss, **parameters) == {"results": [], "more": False}


@pytest.mark.parametrize("permissions", [(), ("view_order", "view_product", "change_product")])
def test_only_who_may_place_orders_gets_page_and_products(
    counter: None, permissions: tuple[str, ...]
) -> None:
    staff = log_in("staff", *permissions)
    assert staff.get(PRODUCTS).status_code == 403
    assert staff.get(ADD).status_code == 403
    assert Browser().get(PRODUCTS).status_code == 302
    placer = log_in("placer", "add_order")
    assert placer.get(ADD).status_code == 200
    assert list_skus(placer, term="mug") == ["MUG-STONE"]
