"""The API over HTTP on the real database, and one journey with a worker."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.test import APIClient, APIRequestFactory

from inventory.models import Product
from orders.api.errors import answer_problem
from orders.api.parsers import MAX_BODY
from orders.models import AttentionFlag, Order, OrderAction, OutboxMessage
from payments.models import Payment
from tests.e2e.api import (
    MISSING,
    ORDERS,
    PRODUCTS,
    client_of,
    make_order,
    order_body,
    read_pointers,
    read_problem,
)
from tests.e2e.doors import make_user


@pytest.fixture
def ada(counter: None) -> User:
    return make_user("ada")


@pytest.fixture
def api(ada: User) -> APIClient:
    return client_of(ada)


# --- what is sold ----------------------------------------------------------------------------------------


def test_products_list_prices_as_strings_and_what_is_available(api: APIClient) -> None:
    desk_lamp = next(product for product in api.get(PRODUCTS).json() if product["sku"] == "LAMP-DESK")
    assert desk_lamp == {
        "sku": "LAMP-DESK",
        "name": "Desk lamp",
        "description": "Dimmable, warm to neutral white.",
        "price": "89.00",
        "currency": "EUR",
        "available": 60,
    }


def test_products_leave_out_what_is_not_sold_and_show_none_available_without_stock(api: APIClient) -> None:
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    Product.objects.create(sku="NEW", name="New", price="1.00")
    available = {product["sku"]: product["available"] for product in api.get(PRODUCTS).json()}
    assert "TEE-M" not in available
    assert available["NEW"] == 0


# --- placing ---------------------------------------------------------------------------------------------


def test_placing_answers_202_with_the_order_and_where_to_look_again(api: APIClient, ada: User) -> None:
    response = api.post(ORDERS, order_body(), format="json")
    assert response.status_code == 202
    order = Order.objects.get()
    assert order.placed_by == ada
    assert response.headers["Location"] == f"http://testserver{ORDERS}{order.pk}/"
    body = response.json()
    assert body == api.get(response.headers["Location"]).json()
    assert body["id"] == str(order.pk)
    assert body["number"] == order.number
    assert (body["status"], body["total"], body["currency"]) == ("pending", "29.00", "EUR")
    assert body["lines"] == [
        {
            "sku": "MUG-STONE",
            "name": "Stoneware mug",
            "quantity": 2,
            "unit_price": "14.50",
            "amount": "29.00",
        }
    ]
    assert (body["trail"], body["payment"]) == ([], None)
    assert (body["needs_attention"], body["attention_reasons"]) == (False, [])
    assert OutboxMessage.objects.get().order == order


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"#/customer_email", "#/items"}),
        (None, {"#"}),
        ([], {"#"}),
        ("text", {"#"}),
        (order_body(customer_email=None), {"#/customer_email"}),
        (order_body(customer_email=5), {"#/customer_email"}),
        (order_body(customer_email="ada"), {"#/customer_email"}),
        (order_body(customer_email="a\x00da@example.com"), {"#/customer_email"}),
        (order_body(customer_email="a" * 300 + "@example.com"), {"#/customer_email"}),
        (order_body(items=None), {"#/items"}),
        (order_body(items={}), {"#/items"}),
        (order_body(items=[]), {"#/items"}),
        (order_body(items=[5]), {"#/items/0"}),
        (order_body(items=[None]), {"#/items/0"}),
        (
            order_body(items=[{"sku": "MUG-STONE", "quantity": 1}, {}]),
            {"#/items/1/sku", "#/items/1/quantity"},
        ),
        (order_body(items=[{"sku": "NO-SUCH", "quantity": 1}]), {"#/items/0/sku"}),
        (order_body(items=[{"sku": "\x00", "quantity": 1}]), {"#/items/0/sku"}),
        (order_body(items=[{"sku": "\ud800", "quantity": 1}]), {"#/items/0/sku"}),
        (order_body(items=[{"sku": 7, "quantity": 1}]), {"#/items/0/sku"}),
        (order_body(items=[{"sku": [], "quantity": 1}]), {"#/items/0/sku"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 0}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": -1}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": "2"}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 1.0}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": True}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": None}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 10**40}]), {"#/items/0/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 6000}] * 2), {"#/items/1/quantity"}),
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 1}] * 101), {"#/items"}),
        (order_body(payment_token=None), {"#/payment_token"}),
        (order_body(payment_token={}), {"#/payment_token"}),
        (order_body(payment_token="x" * 201), {"#/payment_token"}),
    ],
    ids=lambda value: json.dumps(value)[:60] if not isinstance(value, set) else "",
)
def test_a_bad_order_is_refused_field_by_field(api: APIClient, body: Any, pointers: set[str]) -> None:
    response = api.post(ORDERS, json.dumps(body), content_type="application/json")
    assert read_pointers(response) == pointers
    assert not Order.objects.exists()


def test_an_order_that_adds_up_to_too_much_is_refused(api: APIClient) -> None:
    Product.objects.filter(sku="DESK-OAK").update(price="99999999.99")
    response = api.post(ORDERS, order_body(items=[{"sku": "DESK-OAK", "quantity": 10_000}]), format="json")
    assert read_pointers(response) == {"#/items"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'{"customer_email": NaN}',
        b"[" * 100_000,
        b'{"items": [{"quantity": ' + b"9" * 5000 + b"}]}",
    ],
    ids=["cut off", "not UTF-8", "NaN", "too deep", "huge number"],
)
def test_what_is_not_json_is_refused(api: APIClient, body: bytes) -> None:
    problem = read_problem(api.post(ORDERS, body, content_type="application/json; charset=rot13"), 400)
    assert problem["type"] == "about:blank"


def test_a_body_that_is_too_large_is_refused(api: APIClient) -> None:
    response = api.post(ORDERS, b" " * (MAX_BODY + 1), content_type="application/json")
    read_problem(response, 413)


def test_unknown_fields_are_refused(ada: User, api: APIClient) -> None:
    """A slip in `payment_token` must not pay with the default."""
    body = {"customer_email": "ada@example.com", "items": [{"sku": "TEE-M", "quantity": 1}]}
    problem = read_problem(api.post(ORDERS, {**body, "payment_tokn": "tok_declined"}, format="json"), 400)
    assert problem["errors"][0]["pointer"] == "#/payment_tokn"
    assert not Order.objects.exists()


# --- errors that are not about the body ------------------------------------------------------------------


def test_every_other_error_is_a_problem_too(api: APIClient) -> None:
    read_problem(api.get("/api/v1/"), 404)
    read_problem(api.get("/api/v1/nothing"), 404)
    read_problem(api.post(ORDERS[:-1], order_body(), format="json"), 404)
    read_problem(api.get(ORDERS + "not-a-uuid/"), 404)
    read_problem(api.get(MISSING), 404)
    read_problem(api.post(MISSING + "cancel/", {"reason": "x"}, format="json"), 404)
    read_problem(api.get(PRODUCTS, HTTP_ACCEPT="text/html"), 406)
    read_problem(api.post(ORDERS, b"<xml/>", content_type="application/xml"), 415)
    response = api.delete(ORDERS)
    read_problem(response, 405)
    assert response.headers["Allow"] == "POST, OPTIONS"


def test_too_many_requests_say_when_to_come_back() -> None:
    request = Request(APIRequestFactory().get(PRODUCTS))
    response = answer_problem(Throttled(wait=2.4), {"request": request})
    assert response is not None
    assert (response.status_code, response.data["status"]) == (429, 429)
    assert response.headers["Retry-After"] == "3"


def test_an_unexpected_error_is_a_problem_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    request = Request(APIRequestFactory().get(PRODUCTS))
    response = answer_problem(ZeroDivisionError("secret"), {"request": request})
    assert response is not None
    assert response.status_code == 500
    assert "secret" not in str(response.data)
    assert "the API failed" in caplog.text


# --- who may see and do what -----------------------------------------------------------------------------


def test_anonymous_requests_are_told_how_to_log_in(counter: None) -> None:
    order = make_order(None)
    client = APIClient()
    for response in (
        client.get(PRODUCTS),
        client.post(ORDERS, order_body(), format="json"),
        client.get(f"{ORDERS}{order.pk}/"),
        client.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "x"}, format="json"),
        client.get("/api/v1/nothing/"),
    ):
        read_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == "Token"


def test_a_wrong_token_is_refused(counter: None) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Token wrong")
    read_problem(client.get(PRODUCTS), 401)


def test_another_users_order_does_not_exist_and_those_with_the_permission_see_all(
    ada: User, api: APIClient
) -> None:
    order = make_order(ada)
    address = f"{ORDERS}{order.pk}/"
    other = client_of(make_user("bob"))
    read_problem(other.get(address), 404)
    read_problem(other.post(address + "cancel/", {"reason": "x"}, format="json"), 404)
    assert api.get(address).status_code == 200
    assert client_of(make_user("clerk", "view_order", staff=True)).get(address).status_code == 200
    # Being staff is no permission.
    read_problem(client_of(make_user("temp", staff=True)).get(address), 404)
    order.refresh_from_db()
    assert order.cancel_requested_at is None


def test_an_order_shows_its_payment_and_its_troubles_to_those_who_may_see_them(
    ada: User, api: APIClient
) -> None:
    order = make_order(ada)
    Payment.objects.create(order=order, amount=29, currency="EUR", token="tok_ok")
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "the bank refuses ch_1")

    def read(client: APIClient) -> tuple[bool, list[str], bool]:
        body = client.get(f"{ORDERS}{order.pk}/").json()
        return body["payment"] is not None, body["attention_reasons"], body["needs_attention"]

    def hire(name: str, *permissions: str) -> APIClient:
        return client_of(make_user(name, "view_order", *permissions, staff=True))

    troubles = ["view_attentionflag", "view_outboxmessage"]
    assert read(api) == (True, [], True)
    assert read(hire("packer")) == (False, [], True)
    assert read(hire("clerk", "view_payment")) == (True, [], True)
    assert read(hire("fixer", *troubles)) == (False, ["the bank refuses ch_1"], True)


def test_staff_need_the_permission_to_cancel_other_peoples_orders(ada: User) -> None:
    address = f"{ORDERS}{make_order(ada).pk}/cancel/"
    clerk = client_of(make_user("clerk", "view_order", staff=True))
    read_problem(clerk.post(address, {"reason": "x"}, format="json"), 403)
    support = client_of(make_user("support", "view_order", "cancel_order", staff=True))
    assert support.post(address, {"reason": "x"}, format="json").status_code == 202


def test_a_session_works_and_needs_its_csrf_token(ada: User) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(ada)
    assert client.get(PRODUCTS).status_code == 200
    problem = read_problem(client.post(ORDERS, order_body(), format="json"), 403)
    assert "CSRF" in problem["detail"]


# --- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer", "becomes"),
    [
        ("pending", 202, "pending"),
        ("created", 202, "created"),
        ("completed", 202, "cancelling"),
        ("cancelling", 200, "cancelling"),
        ("cancelled", 200, "cancelled"),
    ],
)
def test_cancelling_answers_by_the_orders_state(
    api: APIClient, ada: User, status: str, answer: int, becomes: str
) -> None:
    order = make_order(ada, status)
    response = api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "changed my mind"}, format="json")
    assert response.status_code == answer
    assert response.json()["status"] == becomes
    assert response.json()["cancel_requested"] is (answer == 202)
    assert ("Location" in response.headers) is (answer == 202)


def test_a_shipped_order_cannot_be_cancelled(api: APIClient, ada: User) -> None:
    order = make_order(ada, "shipped")
    problem = read_problem(api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "late"}, format="json"), 409)
    assert "has been shipped" in problem["detail"]


def test_cancelling_twice_cancels_once(api: APIClient, ada: User) -> None:
    order = make_order(ada)
    answers = [
        api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "twice"}, format="json").status_code
        for _ in range(2)
    ]
    assert answers == [202, 200]
    assert OrderAction.objects.filter(kind="cancel_order").count() == 1
    assert OutboxMessage.objects.filter(name="cancel").count() == 1


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "  "}, {"reason": None}, {"reason": 5}])
def test_cancelling_needs_a_reason(api: APIClient, ada: User, body: dict[str, Any]) -> None:
    order = make_order(ada)
    assert read_pointers(api.post(f"{ORDERS}{order.pk}/cancel/", body, format="json")) == {"#/reason"}
