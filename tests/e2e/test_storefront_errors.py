"""What the shop answers when something is wrong: friendly pages of its own, and only its own."""

from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import DatabaseError, InterfaceError, OperationalError
from django.test import Client as Browser

from inventory import selectors as inventory_selectors
from orders.admin.order import OrderAdmin
from orders.models import Order
from tests.e2e.storefront import cart_of, fill_cart, open_form, order, page_of, read

pytestmark = pytest.mark.usefixtures("counter")


def test_an_unknown_address_is_a_page_of_the_shop(client: Browser) -> None:
    answer = client.get("/no/such/page")
    assert answer.status_code == 404
    assert "There is nothing here" in read(answer)
    assert "See the products" in read(answer)


def test_the_admin_keeps_its_own_answers(boss: Browser) -> None:
    answer = boss.get("/admin/nowhere/")
    assert answer.status_code == 404
    assert b"storefront" not in answer.content
    strict = Browser(enforce_csrf_checks=True)
    answer = strict.post("/admin/login/")
    assert answer.status_code == 403
    assert b"storefront" not in answer.content


def test_a_fault_of_ours_shows_no_traceback(client: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(term: str) -> Any:
        raise DatabaseError("secret of the database")

    monkeypatch.setattr(inventory_selectors, "search_products", fail)
    client.raise_request_exception = False
    answer = client.get("/")
    assert answer.status_code == 500
    assert "Something went wrong on our side" in read(answer)
    assert b"secret" not in answer.content
    assert answer["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@pytest.mark.parametrize("path", ["/", "/admin/orders/order/"])
def test_a_database_that_is_away_is_told_from_a_fault_of_ours(
    boss: Browser, monkeypatch: pytest.MonkeyPatch, path: str, error: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("secret of the database")

    monkeypatch.setattr(inventory_selectors, "search_products", fail)
    monkeypatch.setattr(OrderAdmin, "get_queryset", fail)
    boss.raise_request_exception = False
    answer = boss.get(path)
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert answer["Cache-Control"] == "no-store"
    assert b"secret" not in answer.content


def test_the_page_of_a_fault_does_not_ask_the_database(
    client: Browser, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    fill_cart(client)

    def fail(term: str) -> Any:
        raise RuntimeError

    monkeypatch.setattr(inventory_selectors, "search_products", fail)
    client.raise_request_exception = False
    with django_assert_num_queries(0):
        assert client.get("/").status_code == 500


@pytest.mark.parametrize("path", ["/cart/add/", "/cart/", "/cart/adjust/", "/checkout/"])
def test_a_form_without_its_token_changes_nothing(path: str) -> None:
    browser = Browser(enforce_csrf_checks=True)
    answer = browser.post(path, {"sku": "MUG-STONE", "quantity": "1"})
    assert answer.status_code == 403
    assert "This page had been open for too long" in read(answer)
    assert not Session.objects.exists()


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
@pytest.mark.parametrize("path", ["/cart/add/", "/cart/", "/checkout/"])
def test_what_no_form_sends_is_not_called_an_expired_form(method: str, path: str) -> None:
    answer = getattr(Browser(enforce_csrf_checks=True), method)(path)
    assert answer.status_code == 405
    assert answer["Allow"] == "GET, HEAD, POST"
    admin = getattr(Browser(enforce_csrf_checks=True), method)("/admin/login/")
    assert admin.status_code == 403


def test_a_form_with_too_many_fields_is_answered(client: Browser) -> None:
    answer = client.post("/cart/", {f"field-{n}": "1" for n in range(2000)})
    assert answer.status_code == 400
    assert "We did not understand that" in read(answer)


def test_more_orders_than_an_address_may_place_are_refused_and_keep_the_cart(
    client: Browser, settings: Any
) -> None:
    settings.SHOP_ORDERS_PER_MINUTE = 2
    for _ in range(2):
        order(client)
    fill_cart(client)
    form = open_form(client)
    answer = client.post("/checkout/", form)
    assert answer.status_code == 429
    assert 1 <= int(answer["Retry-After"]) <= 30
    assert f"again in {answer['Retry-After']} s" in read(answer)
    assert cart_of(client) == {"MUG-STONE": 2}
    assert Order.objects.count() == 2
    elsewhere = client.post("/checkout/", form, REMOTE_ADDR="192.0.2.9")
    assert elsewhere["Location"] == page_of(Order.objects.latest("number"))


def test_without_a_limit_every_order_is_taken(client: Browser, settings: Any) -> None:
    settings.SHOP_ORDERS_PER_MINUTE = 0
    order(client)
    assert Order.objects.count() == 1
