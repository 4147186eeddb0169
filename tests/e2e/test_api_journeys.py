"""Orders placed and cancelled by API, the whole way through a worker."""

from typing import Any

from rest_framework.test import APIClient
from temporalio.client import Client

from config.temporal import run_on_database_thread
from orders.dispatch import sweep
from tests.conftest import until
from tests.e2e.api import ORDERS, client_of, order_body
from tests.e2e.doors import make_user


async def post(client: APIClient, address: str, body: dict[str, Any]) -> Any:
    return await run_on_database_thread(lambda: client.post(address, body, format="json"))


async def follow(client: APIClient, address: str, status: str, last_step: str) -> dict[str, Any]:
    """Poll the order until it has `status` and `last_step` is in its trail."""

    async def look() -> dict[str, Any] | None:
        body: dict[str, Any] = (await run_on_database_thread(lambda: client.get(address))).json()
        there = body["status"] == status and body["trail"] and body["trail"][-1]["name"] == last_step
        return body if there else None

    found: dict[str, Any] = await until(look, what=f"status {status}")
    return found


async def test_an_order_goes_through_and_is_cancelled_again(worker: Client) -> None:
    client = await run_on_database_thread(lambda: client_of(make_user("ada")))
    response = await post(client, ORDERS, order_body(payment_token="tok_ok"))
    address = response.headers["Location"]
    await sweep(worker)
    body = await follow(client, address, "completed", "complete_order")
    assert [(step["name"], step["kind"], step["status"], step["attempts"]) for step in body["trail"]] == [
        ("create_order", "step", "done", 1),
        ("reserve_inventory", "step", "done", 1),
        ("process_payment", "step", "done", 1),
        ("send_confirmation_email", "step", "done", 1),
        ("complete_order", "step", "done", 1),
    ]
    assert body["payment"] == {"state": "charged", "amount": "29.00", "currency": "EUR"}

    response = await post(client, address + "cancel/", {"reason": "changed my mind"})
    assert (response.status_code, response.json()["status"]) == (202, "cancelling")
    await sweep(worker)
    body = await follow(client, address, "cancelled", "send_cancellation_email")
    assert [step["name"] for step in body["trail"] if step["kind"] == "undo"] == [
        "refund_payment",
        "release_inventory",
        "cancel_order",
        "send_cancellation_email",
    ]
    assert body["payment"]["state"] == "refunded"


async def test_a_declined_order_names_the_step_that_failed(worker: Client) -> None:
    client = await run_on_database_thread(lambda: client_of(make_user("ada")))
    response = await post(client, ORDERS, order_body(items=[{"sku": "LAPTOP-14", "quantity": 2}]))
    await sweep(worker)
    body = await follow(client, response.headers["Location"], "cancelled", "send_cancellation_email")
    assert body["failed_step"] == "process_payment"
    assert body["failure"]
    failed = next(step for step in body["trail"] if step["name"] == "process_payment")
    assert failed["status"] == "failed"
    assert failed["error"].startswith("PaymentRefused: ")
