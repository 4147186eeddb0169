"""Orders placed, followed and cancelled by API, the whole way through a worker."""

import uuid
from collections.abc import Callable
from typing import Any

from django.db import connections
from rest_framework.test import APIClient
from temporalio.client import Client

from config.temporal import run_on_database_thread
from orders.dispatch import sweep
from tests.e2e.api import client_of, make_client, order_body
from tests.e2e.ordering import post_order


async def call(ask: Callable[[], Any]) -> Any:
    return await run_on_database_thread(ask)


async def follow(http: APIClient, address: str) -> dict[str, Any]:
    """One request that waits until the order is settled."""

    def ask() -> Any:
        try:
            return http.get(address, HTTP_PREFER="wait=20")
        finally:
            connections.close_all()

    response = await call(ask)
    assert response.headers["Preference-Applied"] == "wait=20"
    body: dict[str, Any] = response.json()
    return body


async def test_an_order_goes_through_and_is_cancelled_again(worker: Client) -> None:
    http = await call(lambda: client_of(make_client()))
    placed = (await call(lambda: post_order(http, order_body(payment_token="tok_ok")))).json()
    assert placed["status"] == "pending"
    await sweep(worker)
    trail = await follow(http, placed["links"]["trail"])
    assert (trail["status"], trail["is_settled"], trail["failure"]) == ("completed", True, "")
    assert [(step["name"], step["kind"], step["status"], step["attempts"]) for step in trail["trail"]] == [
        ("create_order", "step", "done", 1),
        ("reserve_inventory", "step", "done", 1),
        ("process_payment", "step", "done", 1),
        ("send_confirmation_email", "step", "done", 1),
        ("complete_order", "step", "done", 1),
    ]
    order = (await call(lambda: http.get(placed["links"]["self"]))).json()
    assert order["payment"] == {"state": "charged", "amount": "29.00", "currency": "EUR"}
    assert [(mail["kind"], mail["state"]) for mail in order["mails"]] == [("confirmation", "sent")]

    cancel = await call(
        lambda: http.post(placed["links"]["cancel"], {"reason": "changed my mind"}, format="json")
    )
    assert (cancel.status_code, cancel.json()["status"]) == (202, "cancelling")
    await sweep(worker)
    trail = await follow(http, placed["links"]["trail"])
    assert (trail["status"], trail["failure"]) == ("cancelled", "A cancel was requested.")
    assert [step["name"] for step in trail["trail"] if step["kind"] == "undo"] == [
        "refund_payment",
        "release_inventory",
        "cancel_order",
        "send_cancellation_email",
    ]
    order = (await call(lambda: http.get(placed["links"]["self"]))).json()
    assert order["payment"]["state"] == "refunded"
    assert [mail["kind"] for mail in order["mails"]] == ["confirmation", "cancellation"]


async def test_a_declined_order_names_the_step_that_failed(worker: Client) -> None:
    http = await call(lambda: client_of(make_client()))
    key = str(uuid.uuid4())
    body = order_body(items=[{"sku": "LAPTOP-14", "quantity": 2}])
    placed = (await call(lambda: post_order(http, body, key=key))).json()
    assert placed["total"] == "2700.00"
    await sweep(worker)
    trail = await follow(http, placed["links"]["trail"])
    assert (trail["status"], trail["failed_step"]) == ("cancelled", "process_payment")
    assert "declined" in trail["failure"]
    failed = next(step for step in trail["trail"] if step["name"] == "process_payment")
    assert (failed["status"], failed["error"]) == ("failed", trail["failure"])
    # A repeat of the request is still the same order, as it was accepted.
    repeat = await call(lambda: post_order(http, body, key=key))
    assert (repeat.json(), repeat.headers["Idempotent-Replayed"]) == (placed, "true")
