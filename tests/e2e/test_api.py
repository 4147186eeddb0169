"""The API over HTTP on the real database: products, placing, reading and cancelling orders."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from inventory.models import Product
from notifications.models import EmailMessage
from orders.models import ApiClient as MachineClient
from orders.models import AttentionFlag, Order, OrderAction, OutboxMessage, Scope, TrailEntry
from payments.models import Payment
from tests.e2e.api import (
    MISSING,
    ORDERS,
    PRODUCTS,
    client_of,
    make_client,
    make_order,
    order_body,
    read_pointers,
    read_problem,
)
from tests.e2e.ordering import post_order, post_raw, set_available


@pytest.fixture
def shop_client(counter: None) -> MachineClient:
    return make_client("shop")


@pytest.fixture
def api(shop_client: MachineClient) -> APIClient:
    return client_of(shop_client)


# --- what is sold ----------------------------------------------------------------------------------------


def test_products_list_prices_as_strings_and_what_is_available(counter: None) -> None:
    products = APIClient().get(PRODUCTS).json()["results"]
    assert next(product for product in products if product["sku"] == "LAMP-DESK") == {
        "sku": "LAMP-DESK",
        "name": "Desk lamp",
        "description": "Dimmable, warm to neutral white.",
        "price": "89.00",
        "currency": "EUR",
        "available": 60,
    }


def test_products_leave_out_what_is_not_sold_and_show_none_available_without_stock(counter: None) -> None:
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    Product.objects.create(sku="NEW", name="New", price="1.00")
    products = APIClient().get(PRODUCTS).json()["results"]
    available = {product["sku"]: product["available"] for product in products}
    assert "TEE-M" not in available
    assert available["NEW"] == 0


# --- placing ---------------------------------------------------------------------------------------------


def test_placing_answers_202_with_the_order_and_where_to_look_again(
    api: APIClient, shop_client: MachineClient
) -> None:
    response = post_order(api)
    assert response.status_code == 202
    assert response.headers["Content-Type"] == "application/json"
    order = Order.objects.get()
    assert (order.client, order.placed_by) == (shop_client, None)
    assert response.headers["Location"] == f"http://testserver{ORDERS}{order.pk}/"
    body = response.json()
    assert body == api.get(response.headers["Location"]).json()
    assert (body["id"], body["number"]) == (str(order.pk), order.number)
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
    assert (body["trail"], body["payment"], body["mails"]) == ([], None, [])
    assert (body["is_settled"], body["needs_attention"], body["cancel_requested"]) == (False, False, False)
    assert body["links"] == {
        "self": f"http://testserver{ORDERS}{order.pk}/",
        "trail": f"http://testserver{ORDERS}{order.pk}/trail/",
        "cancel": f"http://testserver{ORDERS}{order.pk}/cancel/",
    }
    assert OutboxMessage.objects.get().order == order


def test_lines_are_answered_in_the_same_order_at_once_and_later(api: APIClient) -> None:
    items = [{"sku": sku, "quantity": 1} for sku in ("TEE-M", "LAMP-DESK", "MUG-STONE")]
    response = post_order(api, order_body(items=items))
    assert response.json() == api.get(response.headers["Location"]).json()


@pytest.mark.parametrize("address", ["ada@bücher.example", '"a\x0bBcc:eve"@example.com'])
def test_an_address_that_no_mail_server_need_take_is_refused_in_words(api: APIClient, address: str) -> None:
    response = post_order(api, order_body(customer_email=address))
    assert response.status_code == 400
    (error,) = response.json()["errors"]
    assert error["pointer"] == "#/customer_email"
    assert "in plain letters without accents" in error["detail"]
    assert post_order(api, order_body(customer_email="ada@xn--bcher-kva.example")).status_code == 202


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"#/customer_email", "#/items"}),
        (None, {"#"}),
        ([], {"#"}),
        ("text", {"#"}),
        (10**40, {"#"}),
        (order_body(customer_email=None), {"#/customer_email"}),
        (order_body(customer_email=5), {"#/customer_email"}),
        (order_body(customer_email="ada"), {"#/customer_email"}),
        (order_body(customer_email="a\x00da@example.com"), {"#/customer_email"}),
        (order_body(customer_email="a" * 300 + "@example.com"), {"#/customer_email"}),
        (order_body(customer_email="zoë@example.com"), {"#/customer_email"}),
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
        (order_body(items=[{"sku": "MUG-STONE", "quantity": 1}] * 101), {"#/items"}),
        (order_body(payment_token=None), {"#/payment_token"}),
        (order_body(payment_token={}), {"#/payment_token"}),
        (order_body(payment_token="x" * 201), {"#/payment_token"}),
        # A slip in `payment_token` must not pay with the default.
        (order_body(payment_tokn="tok_declined"), {"#/payment_tokn"}),
        (order_body(**{"a/b~c": 1, "\x00": 1}), {"#/a~1b~0c", "#/\x00"}),
        (order_body(**{"\ud800": 1}), {"#/\\ud800"}),
    ],
    ids=lambda value: json.dumps(value)[:60] if not isinstance(value, set) else "",
)
def test_a_bad_order_is_refused_field_by_field(api: APIClient, body: Any, pointers: set[str]) -> None:
    response = post_raw(api, json.dumps(body))
    assert read_pointers(response) == pointers
    assert read_problem(response, 400)["type"].endswith(":invalid-request")
    assert not Order.objects.exists()


def test_more_units_than_an_order_may_have_are_refused_over_all_its_items(api: APIClient) -> None:
    set_available("MUG-STONE", 50_000)
    body = order_body(items=[{"sku": "MUG-STONE", "quantity": 6000}] * 2)
    assert read_pointers(post_order(api, body)) == {"#/items/1/quantity"}


def test_an_order_that_adds_up_to_too_much_is_refused(api: APIClient) -> None:
    set_available("DESK-OAK", 50_000)
    Product.objects.filter(sku="DESK-OAK").update(price="99999999.99")
    body = order_body(items=[{"sku": "DESK-OAK", "quantity": 10_000}])
    assert read_pointers(post_order(api, body)) == {"#/items"}


def test_what_is_not_in_stock_is_refused_with_how_much_there_is(api: APIClient) -> None:
    set_available("MUG-STONE", 3)
    set_available("TEE-M", 0)
    lines = [("MUG-STONE", 2), ("LAMP-DESK", 1), ("MUG-STONE", 2), ("TEE-M", 1)]
    body = order_body(items=[{"sku": sku, "quantity": quantity} for sku, quantity in lines])
    problem = read_problem(post_order(api, body), 409)
    assert problem["type"] == "urn:problem-type:order-desk:short-of-stock"
    assert [(error["pointer"], error["sku"], error["available"]) for error in problem["errors"]] == [
        ("#/items/0/quantity", "MUG-STONE", 3),
        ("#/items/2/quantity", "MUG-STONE", 3),
        ("#/items/3/quantity", "TEE-M", 0),
    ]
    assert problem["errors"][0]["detail"] == "4 asked for, 3 available."
    assert not Order.objects.exists()


def test_placing_an_order_takes_few_queries_however_many_lines_it_has(api: APIClient) -> None:
    skus = list(Product.objects.values_list("sku", flat=True))[:8]
    counts = []
    api.get(ORDERS)  # the key's first use is written down once a minute
    for wanted in (skus[:1], skus):
        body = order_body(items=[{"sku": sku, "quantity": 1} for sku in wanted])
        with CaptureQueriesContext(connection) as queries:
            assert post_order(api, body).status_code == 202
        counts.append(len([query for query in queries if "SAVEPOINT" not in query["sql"]]))
    assert counts[0] == counts[1]
    assert counts[0] <= 15


# --- reading ---------------------------------------------------------------------------------------------


def test_an_order_shows_its_payment_its_mails_without_their_text_and_that_it_needs_attention(
    api: APIClient, shop_client: MachineClient
) -> None:
    order = make_order(shop_client)
    Payment.objects.create(order=order, amount=29, currency="EUR", token="tok_secret", charge_id="ch_1")
    EmailMessage.objects.create(
        order=order, kind="confirmation", state="sent", message_id="<1@shop>", recipient="ada@example.com",
        subject="Thank you", text="the text", html="the text", sent_at=timezone.now(),
    )  # fmt: skip
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "the bank refuses ch_1")
    response = api.get(f"{ORDERS}{order.pk}/")
    body = response.json()
    assert body["payment"] == {"state": "started", "amount": "29.00", "currency": "EUR"}
    [mail] = body["mails"]
    assert (mail["kind"], mail["state"]) == ("confirmation", "sent")
    assert mail["sent_at"].endswith("Z")
    assert body["needs_attention"] is True
    for secret in (b"the text", b"tok_secret", b"the bank refuses"):
        assert secret not in response.content


def test_what_is_written_for_staff_is_not_told_to_clients(api: APIClient, shop_client: MachineClient) -> None:
    order = make_order(shop_client)
    now = timezone.now()
    for name, error_type, error in (
        ("reserve_inventory", "OperationalError", "could not connect to db-1.internal"),
        ("process_payment", "PaymentRefused", "The card was declined."),
    ):
        TrailEntry.objects.create(
            order=order, name=name, kind="step", state="failed", started_at=now, finished_at=now,
            error_type=error_type, error=error, worker="worker-7@db-1",
        )  # fmt: skip
    Order.objects.filter(pk=order.pk).update(failure_type="CancelRequested", failure="cancelled by eve")
    for address in ("", "trail/"):
        response = api.get(f"{ORDERS}{order.pk}/{address}")
        assert [step["error"] for step in response.json()["trail"]] == [
            "A technical problem on our side.",
            "The card was declined.",
        ]
        assert response.json()["failure"] == "A cancel was requested."
        assert b"db-1" not in response.content
        assert b"eve" not in response.content


def test_an_unchanged_order_is_answered_with_304(api: APIClient, shop_client: MachineClient) -> None:
    order = make_order(shop_client)
    address = f"{ORDERS}{order.pk}/"
    first = api.get(address)
    assert "private" in first.headers["Cache-Control"]
    again = api.get(address, HTTP_IF_NONE_MATCH=f'"other", {first.headers["ETag"]}')
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    Order.objects.filter(pk=order.pk).update(status="created")
    changed = api.get(address, HTTP_IF_NONE_MATCH=first.headers["ETag"])
    assert (changed.status_code, changed.json()["status"]) == (200, "created")
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_reading_an_order_takes_the_same_few_queries_however_much_belongs_to_it(
    api: APIClient, shop_client: MachineClient
) -> None:
    order = make_order(shop_client)
    address = f"{ORDERS}{order.pk}/"
    api.get(address)
    with CaptureQueriesContext(connection) as before:
        api.get(address)
    now = timezone.now()
    for name in ("create_order", "reserve_inventory", "process_payment"):
        TrailEntry.objects.create(
            order=order, name=name, kind="step", state="done", started_at=now, finished_at=now
        )
    with CaptureQueriesContext(connection) as after:
        api.get(address)
    assert len(before) == len(after) <= 8


# --- who may see and do what -----------------------------------------------------------------------------


def test_another_clients_order_does_not_exist(api: APIClient, counter: None) -> None:
    for order in (make_order(make_client("other")), make_order(None)):
        address = f"{ORDERS}{order.pk}/"
        missing = read_problem(api.get(MISSING), 404)
        found = read_problem(api.get(address), 404)
        assert {**found, "instance": ""} == {**missing, "instance": ""}
        read_problem(api.get(address + "trail/"), 404)
        read_problem(api.post(address + "cancel/", {"reason": "x"}, format="json"), 404)
        order.refresh_from_db()
        assert order.cancel_requested_at is None
    assert api.get(ORDERS).json()["results"] == []


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_does_what_its_scopes_name(shop_client: MachineClient, scope: Scope) -> None:
    order = make_order(shop_client)
    http = client_of(shop_client, scope)
    address = f"{ORDERS}{order.pk}/"
    answers = {
        "read": [http.get(ORDERS), http.get(address), http.get(address + "trail/")],
        "place": [post_order(http)],
        "cancel": [http.post(address + "cancel/", {"reason": "x"}, format="json")],
    }
    for needed, responses in answers.items():
        for response in responses:
            if needed == scope:
                assert response.status_code in (200, 202)
            else:
                assert needed in read_problem(response, 403)["detail"]


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
    api: APIClient, shop_client: MachineClient, status: str, answer: int, becomes: str
) -> None:
    order = make_order(shop_client, status)
    response = api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "changed my mind"}, format="json")
    assert response.status_code == answer
    assert response.json()["status"] == becomes
    assert response.json()["cancel_requested"] is (answer == 202)
    assert ("Location" in response.headers) is (answer == 202)


def test_a_shipped_order_cannot_be_cancelled(api: APIClient, shop_client: MachineClient) -> None:
    order = make_order(shop_client, "shipped")
    problem = read_problem(api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "late"}, format="json"), 409)
    assert problem["type"] == "urn:problem-type:order-desk:state-conflict"
    assert "has been shipped" in problem["detail"]


def test_cancelling_twice_cancels_once(api: APIClient, shop_client: MachineClient) -> None:
    order = make_order(shop_client)
    answers = [
        api.post(f"{ORDERS}{order.pk}/cancel/", {"reason": "twice"}, format="json").status_code
        for _ in range(2)
    ]
    assert answers == [202, 200]
    assert OrderAction.objects.filter(kind="cancel_order").count() == 1
    assert OutboxMessage.objects.filter(name="cancel").count() == 1


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "  "}, {"reason": None}, {"reason": 5}])
def test_cancelling_needs_a_reason(api: APIClient, shop_client: MachineClient, body: dict[str, Any]) -> None:
    order = make_order(shop_client)
    assert read_pointers(api.post(f"{ORDERS}{order.pk}/cancel/", body, format="json")) == {"#/reason"}
