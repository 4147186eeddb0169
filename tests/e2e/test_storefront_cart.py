"""Catalogue and cart over HTTP: what they show, what they refuse, and that looking changes nothing."""

from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client as Browser

from inventory.models import Product
from orders.services import MAX_LINES, MAX_QUANTITY
from orders.storefront.forms import QuantityForm
from orders.storefront.views import name_line
from tests.e2e.acting import GARBAGE
from tests.e2e.doors import count_queries
from tests.e2e.storefront import add_products, cart_of, fill_cart, read, set_available, set_price

pytestmark = pytest.mark.usefixtures("counter")


def change(browser: Browser, remove: str = "", /, **quantities: object) -> Any:
    """Send the cart's form by a line's Remove, else by Update; SKUs with an underscore for their hyphen."""
    fields = {
        f"{name_line(sku.replace('_', '-'))}-quantity": quantity for sku, quantity in quantities.items()
    }
    button = {"remove": remove} if remove else {"update": "1"}
    return browser.post("/cart/", {**fields, **button}, follow=True)


# --- catalogue -------------------------------------------------------------------------------------------


def test_catalogue_says_what_is_left(client: Browser) -> None:
    set_available("MUG-STONE", 3)
    set_available("PEN-BRASS", 0)
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    Product.objects.create(sku="NEW", name="Never booked", description="New.", price="1.00")
    page = read(client.get("/"))
    assert "Never booked New. 1.00 EUR Sold out Noise-cancelling" in page
    assert "Stoneware mug 350 ml, glazed by hand. 14.50 EUR Only 3 left" in page
    assert "Brass ballpoint pen Refillable, ages well. 32.00 EUR Sold out Desk lamp" in page
    assert "Desk lamp Dimmable, warm to neutral white. 89.00 EUR In stock" in page
    assert "Organic T-shirt, M" not in page


@pytest.mark.parametrize("path", ["/", "/?q=mug", "/?page=2", "/cart/", "/checkout/"])
def test_looking_starts_no_session(client: Browser, path: str) -> None:
    client.get(path)
    assert "sessionid" not in client.cookies
    assert not Session.objects.exists()


def test_search_finds_by_words_of_the_name(client: Browser) -> None:
    page = read(client.get("/", {"q": "mug stone"}))
    assert "Stoneware mug" in page
    assert "Desk lamp" not in page
    assert "Nothing has these words" in read(client.get("/", {"q": "zeppelin"}))


@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_in_the_address_is_answered(client: Browser, value: str) -> None:
    assert client.get("/", {"q": value, "page": value}).status_code == 200


def test_pages_of_a_large_catalogue_hold_everything_once(client: Browser) -> None:
    add_products(60)
    pages = [read(client.get("/", {"page": number})) for number in (1, 2, 3)]
    for n in range(60):
        assert sum(f"Bulk product {n:05}" in page for page in pages) == 1
    assert "Page 2 of 3" in pages[1]
    assert read(client.get("/", {"page": 999_999_999})) == pages[2]


def test_catalogue_and_cart_ask_as_often_with_many_products(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 1))
    few = [count_queries(client, path) for path in ("/", "/?q=e", "/cart/", "/checkout/")]
    add_products(1000)
    fill_cart(client, *[(f"BULK-{n:05}", 1) for n in range(30)])
    assert (
        [count_queries(client, path) for path in ("/", "/?q=e", "/cart/", "/checkout/")]
        == few
        == [3, 3, 2, 2]
    )


# --- putting in ------------------------------------------------------------------------------------------


def test_putting_in_adds_up_and_leads_back(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("MUG-STONE", 3))
    assert cart_of(client) == {"MUG-STONE": 5}
    answer = client.post("/cart/add/", {"sku": "TEE-M", "quantity": "1", "q": "tee & co", "page": "2"})
    assert answer["Location"] == "/?q=tee+%26+co&page=2"


@pytest.mark.parametrize(
    ("sku", "quantity", "said"),
    [
        ("MUG-STONE", "", "Give a quantity."),
        ("MUG-STONE", "two", "A quantity is a whole number."),
        ("MUG-STONE", "0", "Order at least 1."),
        ("MUG-STONE", "-4", "Order at least 1."),
        ("MUG-STONE", str(MAX_QUANTITY + 1), f"An order takes at most {MAX_QUANTITY} of one product."),
        ("MUG-STONE", "9" * 400, f"An order takes at most {MAX_QUANTITY} of one product."),
        ("MUG-STONE", "151", "There are only 150 left of Stoneware mug."),
        ("NO-SUCH", "1", "This product is no longer sold."),
        ("", "1", "Choose a product from the catalogue."),
        ("\x00", "1", "Choose a product from the catalogue."),
    ],
)
def test_what_cannot_be_put_in_is_refused_in_words(
    client: Browser, sku: str, quantity: str, said: str
) -> None:
    answer = client.post("/cart/add/", {"sku": sku, "quantity": quantity}, follow=True)
    assert f"Nothing was put in your cart. {said}" in read(answer)
    assert cart_of(client) == {}


def test_sold_out_and_too_many_with_what_is_in_already_are_refused(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 149))
    answer = client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "2"}, follow=True)
    assert "There are only 150 left of Stoneware mug. You have 149 in your cart." in read(answer)
    set_available("MUG-STONE", 0)
    answer = client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"}, follow=True)
    assert "Stoneware mug is sold out." in read(answer)
    assert cart_of(client) == {"MUG-STONE": 149}


def test_a_cart_takes_so_many_products_and_no_more(client: Browser) -> None:
    add_products(MAX_LINES + 1)
    fill_cart(client, *[(f"BULK-{n:05}", 1) for n in range(MAX_LINES)])
    last = {"sku": f"BULK-{MAX_LINES:05}", "quantity": "1"}
    assert f"at most {MAX_LINES} different products" in read(client.post("/cart/add/", last, follow=True))
    fill_cart(client, ("BULK-00000", 2))
    assert len(cart_of(client)) == MAX_LINES


@pytest.mark.parametrize("path", ["/cart/add/", "/cart/adjust/"])
def test_opening_the_address_of_a_form_changes_nothing(client: Browser, path: str) -> None:
    fill_cart(client)
    answer = client.get(path, {"sku": "MUG-STONE", "quantity": "3"})
    assert (answer.status_code, answer["Location"]) == (302, "/cart/")
    assert client.put(path).status_code == 405
    assert cart_of(client) == {"MUG-STONE": 2}


# --- changing --------------------------------------------------------------------------------------------


def test_quantities_are_changed_and_lines_taken_out(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("PEN-BRASS", 1), ("LAMP-DESK", 1))
    page = read(change(client, MUG_STONE=3, PEN_BRASS=0))
    assert "Your cart is up to date." in page
    assert "Total 132.50 EUR" in page
    assert cart_of(client) == {"MUG-STONE": 3, "LAMP-DESK": 1}


@pytest.mark.parametrize("sku", ["LAMP-DESK", "NO-SUCH", "", "\x00"])
def test_what_cannot_be_removed_changes_nothing(client: Browser, sku: str) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("LAMP-DESK", 1))
    client.post("/cart/", {"remove": "LAMP-DESK"})
    assert client.post("/cart/", {"remove": sku}, follow=True).status_code == 200
    assert cart_of(client) == {"MUG-STONE": 2}


def test_removing_a_line_keeps_what_was_typed_into_the_others(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("PEN-BRASS", 1), ("LAMP-DESK", 1))
    page = read(change(client, "LAMP-DESK", MUG_STONE=3, PEN_BRASS=0, LAMP_DESK="nonsense"))
    assert "Desk lamp was taken out of your cart." in page
    assert cart_of(client) == {"MUG-STONE": 3}


def test_a_wrong_quantity_does_not_stop_a_removal_and_is_shown_again(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("PEN-BRASS", 1), ("LAMP-DESK", 1))
    answer = change(client, "LAMP-DESK", MUG_STONE="a few", PEN_BRASS=4, LAMP_DESK=1)
    assert answer.status_code == 422
    wrong = "Please correct the rest: Stoneware mug: A quantity is a whole number."
    assert f"Desk lamp was taken out of your cart. {wrong}" in read(answer)
    html = answer.content.decode()
    assert 'value="a few"' in html
    assert 'value="4"' in html
    assert cart_of(client) == {"MUG-STONE": 2, "PEN-BRASS": 4}


def test_wrong_quantities_are_kept_and_explained_and_nothing_is_changed(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2), ("PEN-BRASS", 1))
    answer = change(client, MUG_STONE="a few", PEN_BRASS=4)
    assert answer.status_code == 422
    assert "Your cart was not changed Stoneware mug: A quantity is a whole number." in read(answer)
    html = answer.content.decode()
    assert 'value="a few"' in html
    assert 'value="4"' in html
    field = f"id_{name_line('MUG-STONE')}-quantity"
    assert f'href="#{field}"' in html
    assert f'aria-describedby="{field}_error"' in html
    assert cart_of(client) == {"MUG-STONE": 2, "PEN-BRASS": 1}


def test_a_full_cart_is_shown_without_a_form_for_each_line(
    client: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form and its widgets for each of a hundred lines took most of the page's time."""
    made: list[str] = []
    prepare = QuantityForm.__init__

    def note(form: QuantityForm, *args: Any, **kwargs: Any) -> None:
        made.append(kwargs["prefix"])
        prepare(form, *args, **kwargs)

    monkeypatch.setattr(QuantityForm, "__init__", note)
    fill_cart(client, ("MUG-STONE", 2), ("PEN-BRASS", 1))
    assert 'value="2" min="0"' in client.get("/cart/").content.decode()
    assert made == []
    change(client, MUG_STONE=3)
    assert len(made) == 2


def test_a_line_that_another_tab_put_in_stays(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 2))
    fill_cart(client, ("PEN-BRASS", 1))
    change(client, MUG_STONE=1)  # the form of a page that had only the mug
    assert cart_of(client) == {"MUG-STONE": 1, "PEN-BRASS": 1}


def test_cart_says_what_is_new_about_its_products(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 5), ("PEN-BRASS", 1), ("LAMP-DESK", 1), ("TEE-M", 1))
    set_available("MUG-STONE", 3)
    set_available("PEN-BRASS", 0)
    set_price("LAMP-DESK", "95.00")
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    page = read(client.get("/cart/"))
    assert "Only 3 left; you have 5 in your cart." in page
    assert "Brass ballpoint pen 32.00 EUR each Sold out." in page
    assert "Desk lamp 95.00 EUR each The price has changed: it was 89.00 EUR." in page
    assert "Organic T-shirt, M 20.40 EUR each No longer sold." in page
    assert cart_of(client) == {"MUG-STONE": 5, "PEN-BRASS": 1, "LAMP-DESK": 1, "TEE-M": 1}

    answer = client.post("/cart/adjust/", follow=True)
    assert "Your cart is adjusted. Stoneware mug: now 3 instead of 5." in read(answer)
    assert answer.redirect_chain[-1][0] == "/checkout/"
    assert cart_of(client) == {"MUG-STONE": 3, "LAMP-DESK": 1}


def test_an_adjusted_cart_without_anything_left_is_empty(client: Browser) -> None:
    fill_cart(client, ("MUG-STONE", 5))
    set_available("MUG-STONE", 0)
    answer = client.post("/cart/adjust/", follow=True)
    assert "Stoneware mug was taken out. Your cart There is nothing in it yet." in read(answer)


def test_checkout_button_of_the_cart_takes_what_was_typed(client: Browser) -> None:
    fill_cart(client)
    field = f"{name_line('MUG-STONE')}-quantity"
    answer = client.post("/cart/", {field: "7", "checkout": "1"}, follow=True)
    assert answer.redirect_chain == [("/checkout/", 302)]
    assert "7 × Stoneware mug 101.50" in read(answer)  # noqa: RUF001


def test_pages_about_a_customer_are_private(client: Browser) -> None:
    fill_cart(client)
    for path in ("/cart/", "/checkout/"):
        answer = client.get(path)
        assert answer["Cache-Control"] == "private, no-store"
        assert answer["X-Robots-Tag"] == "noindex"
    assert client.get("/")["Cache-Control"] == "private, no-cache"
    assert "Cookie" in client.get("/")["Vary"]


def test_markup_in_names_is_shown_as_text(client: Browser) -> None:
    Product.objects.filter(sku="MUG-STONE").update(name="<b>Mug</b>", description="<script>x</script>")
    fill_cart(client)
    for path in ("/", "/cart/", "/checkout/"):
        html = client.get(path).content.decode()
        assert "&lt;b&gt;Mug&lt;/b&gt;" in html
        assert "<b>" not in html
        assert "<script>x" not in html
