"""Idempotency-Keys: a repeat gets the first answer, all else is told apart, and refusals leave no trace."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from inventory.models import Product
from orders import idempotency
from orders.idempotency import KeyedRequest, fingerprint_body
from orders.models import ApiClient as MachineClient
from orders.models import IdempotentRequest, Order, OrderAction, OutboxMessage
from tests.desk import place
from tests.e2e.api import ORDERS, client_of, make_client, order_body, read_problem
from tests.e2e.ordering import post_order, post_raw, set_available
from tests.faults import connect, failing
from tests.processes import PROJECT


@pytest.fixture
def shop_client(counter: None) -> MachineClient:
    return make_client()


@pytest.fixture
def api(shop_client: MachineClient) -> APIClient:
    return client_of(shop_client)


def count_traces() -> tuple[int, int, int, int]:
    """What an order leaves: none of it, when it was refused."""
    rows = (Order, OrderAction, OutboxMessage, IdempotentRequest)
    return tuple(model.objects.count() for model in rows)  # type: ignore[return-value]


# --- repeats ---------------------------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer_byte_for_byte(api: APIClient) -> None:
    first = post_order(api, key="k-1")
    order = Order.objects.get()
    Order.objects.update(status="completed", completed_at=timezone.now())
    again = post_order(api, key="k-1")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Order.objects.get() == order
    for link in ("self", "trail"):
        assert api.get(again.json()["links"][link]).json()["status"] == "completed"
    assert api.post(again.json()["links"]["cancel"], {"reason": "x"}, format="json").status_code == 202


def test_a_repeat_is_known_by_its_values_not_by_its_spelling(api: APIClient) -> None:
    body = order_body()
    spellings = [
        json.dumps(body),
        json.dumps(body, indent=3),
        json.dumps(dict(reversed(body.items()))),
        json.dumps(body).replace("MUG", "\\u004dUG"),
    ]
    assert [post_raw(api, text, key="k").status_code for text in spellings] == [202] * 4
    assert Order.objects.count() == 1


def test_a_repeat_is_answered_when_the_stock_has_gone_or_the_product_is_no_longer_sold(
    api: APIClient,
) -> None:
    first = post_order(api, key="k")
    set_available("MUG-STONE", 0)
    assert post_order(api, key="k").content == first.content
    read_problem(post_order(api, key="another"), 409)
    Product.objects.filter(sku="MUG-STONE").update(is_active=False, price=99)
    assert post_order(api, key="k").content == first.content
    read_problem(post_order(api, key="another"), 400)


def test_the_address_with_and_without_its_slash_is_the_same(api: APIClient) -> None:
    first = post_order(api, key="k")
    assert post_order(api, key="k", address=ORDERS[:-1]).content == first.content
    assert IdempotentRequest.objects.get().path == ORDERS


def test_a_repeat_writes_nothing_and_takes_few_queries(api: APIClient) -> None:
    post_order(api, key="k")
    before = count_traces()
    with CaptureQueriesContext(connection) as queries:
        post_order(api, key="k")
    assert count_traces() == before
    assert len([query for query in queries if "SAVEPOINT" not in query["sql"]]) <= 4


# --- what is no repeat -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"customer_email": "bob@example.com"},
        {"items": [{"sku": "MUG-STONE", "quantity": 3}]},
        {"items": [{"sku": "MUG-STONE", "quantity": 1}, {"sku": "MUG-STONE", "quantity": 1}]},
        {"payment_token": "tok_declined"},
        {"payment_token": ""},
    ],
)
def test_the_key_of_another_body_is_refused(api: APIClient, change: dict[str, Any]) -> None:
    post_order(api, key="k")
    before = count_traces()
    problem = read_problem(post_order(api, order_body(**change), key="k"), 422)
    assert problem["type"] == "urn:problem-type:order-desk:idempotency-key-reused"
    assert problem["errors"][0]["header"] == "Idempotency-Key"
    assert count_traces() == before


def test_another_clients_key_is_another_key(api: APIClient, counter: None) -> None:
    first = post_order(api, key="k")
    second = post_order(client_of(make_client("other")), key="k")
    assert second.status_code == 202
    assert "Idempotent-Replayed" not in second.headers
    assert first.json()["id"] != second.json()["id"]


def test_every_key_of_one_client_shares_its_idempotency_keys(shop_client: MachineClient) -> None:
    """A key that is replaced between a request and its repeat does not place the order twice."""
    first = post_order(client_of(shop_client), key="k")
    assert post_order(client_of(shop_client), key="k").content == first.content


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "schl\xfcssel", "tab\there", "new\x7fline"])
def test_without_a_usable_key_nothing_is_placed(api: APIClient, key: str) -> None:
    problem = read_problem(post_order(api, key=key), 400)
    assert problem["type"] == "urn:problem-type:order-desk:idempotency-key-required"
    assert [error["header"] for error in problem["errors"]] == ["Idempotency-Key"]
    assert count_traces() == (0, 0, 0, 0)


def test_a_missing_key_is_said_to_be_missing(api: APIClient) -> None:
    problem = read_problem(api.post(ORDERS, order_body(), format="json"), 400)
    assert "random UUID" in problem["detail"]


@pytest.mark.parametrize(
    "key", ["x", "x" * 255, "a b", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "~!@#$%^&*()"]
)
def test_any_printable_key_will_do(api: APIClient, key: str) -> None:
    assert post_order(api, key=key).status_code == 202
    assert IdempotentRequest.objects.get().key == key


# --- refusals and failures leave the key unused ----------------------------------------------------------


def test_a_key_can_be_used_again_after_a_refusal(api: APIClient) -> None:
    set_available("TEE-M", 1)
    refusals = [
        (order_body(customer_email="ada"), 400),
        (order_body(items=[{"sku": "NO-SUCH", "quantity": 1}]), 400),
        (order_body(items=[{"sku": "TEE-M", "quantity": 2}]), 409),
    ]
    for body, status in refusals:
        read_problem(post_order(api, body, key="k"), status)
        assert count_traces() == (0, 0, 0, 0)
    assert post_order(api, key="k").status_code == 202
    assert count_traces() == (1, 1, 1, 1)


@pytest.mark.parametrize("table", ["orders_orderline", "orders_outboxmessage", "orders_idempotentrequest"])
def test_a_transaction_that_fails_anywhere_leaves_no_row_and_the_key_unused(shop: None, table: str) -> None:
    http = client_of(make_client())
    http.raise_request_exception = False
    with failing(table, "INSERT", times=1):
        read_problem(post_order(http, key="k"), 500)
        assert count_traces() == (0, 0, 0, 0)
        response = post_order(http, key="k")
    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers
    assert count_traces() == (1, 1, 1, 1)


# --- while another request has the key -------------------------------------------------------------------


def test_a_key_in_use_is_a_409_at_once_and_free_when_its_owner_has_ended(shop: None) -> None:
    """The owner is a transaction of another connection, as another web process would hold it."""
    client = make_client()
    http = client_of(client)
    keyed = KeyedRequest(client=client, method="POST", path=ORDERS, key="k", body=None)
    with CaptureQueriesContext(connection) as queries:
        idempotency.lock_key(keyed)
    with connect() as owner:
        owner.execute("BEGIN")
        owner.execute(queries.captured_queries[-1]["sql"])
        response = post_order(http, key="k")
        problem = read_problem(response, 409)
        assert problem["type"] == "urn:problem-type:order-desk:idempotency-key-in-use"
        assert response.headers["Retry-After"] == "1"
        assert count_traces() == (0, 0, 0, 0)
        # Neither another key nor another client waits for it.
        assert post_order(http, key="other").status_code == 202
        assert post_order(client_of(make_client("other")), key="k").status_code == 202
        owner.execute("ROLLBACK")
    assert post_order(http, key="k").status_code == 202


# --- fingerprints and age --------------------------------------------------------------------------------


def test_fingerprints_tell_values_apart_and_do_not_fail() -> None:
    bodies = [
        {},
        {"a": 1},
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"a": [1]},
        {"a": 1.5},
        {"a": "\ud800"},
        {"a": 10**50},
    ]
    assert len({fingerprint_body(body) for body in bodies}) == len(bodies)


@pytest.mark.parametrize(
    ("seconds", "is_fine"), [("86400", True), ("604800", True), ("86399", False), ("nan", False)]
)
def test_keys_cannot_be_forgotten_within_a_day(seconds: str, is_fine: bool) -> None:
    """Clients rely on it, so a process with another setting does not start."""
    started = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=PROJECT,
        env={**os.environ, "IDEMPOTENCY_KEEP": seconds},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (started.returncode == 0) is is_fine, started.stderr
    assert is_fine or "IDEMPOTENCY_KEEP must be at least 86400 seconds" in started.stderr


def test_a_key_is_remembered_for_a_day_at_least(api: APIClient, shop_client: MachineClient) -> None:
    first = post_order(api, key="k")
    IdempotentRequest.objects.update(created_at=timezone.now() - timedelta(hours=24))
    assert post_order(api, key="k").content == first.content
    assert place().client is None  # orders of other doors have neither client nor key
    assert IdempotentRequest.objects.count() == 1
