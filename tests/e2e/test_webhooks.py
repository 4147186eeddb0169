"""Webhooks end to end: registered by API, orders run by real workers, delivered to a real receiver."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from orders import desk
from orders.models import AttentionFlag, Order, OrderStatus, WebhookAttempt, WebhookDelivery
from tests.desk import HEADPHONES, LAPTOPS
from tests.e2e.api import client_of, make_client
from tests.processes import GRACE, PROJECT, Crew, wait_until
from tests.receiver import Call, Receiver, is_signed, receiving
from tests.webhooks import HASTY, place_for, read_states

WEBHOOKS = "/api/v1/webhooks/"
EVERY = ["order.completed", "order.cancelled", "order.needs_attention"]


@pytest.fixture
def receiver(shop: None, settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with receiving() as running:
        yield running


def register(receiver: Receiver, path: str = "ok", *, client: str = "shop") -> str:
    """Register the path by API for every event; gives the secret."""
    answer: Any = client_of(make_client(client)).post(
        WEBHOOKS, {"url": f"{receiver.url}/{path}", "events": EVERY}, format="json"
    )
    assert answer.status_code == 201, answer.content
    return str(answer.json()["secret"])


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """(event, order) of each request, in the order they came."""
    bodies = [json.loads(call.body) for call in list(receiver.calls)]
    return [(body["type"], body["data"]["order"]["id"]) for body in bodies]


def status_of(order: Order) -> str:
    return Order.objects.values_list("status", flat=True).get(pk=order.pk)


def test_clients_are_told_what_becomes_of_their_orders_and_of_no_others(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    secret = register(receiver)
    other_secret = register(receiver, "ok/other", client="other")
    mine, declined = place_for(make_client(), HEADPHONES), place_for(make_client(), LAPTOPS)
    others, nobodys = place_for(make_client("other")), place_for(None)
    start(1, **HASTY)
    wait_until(lambda: read_states() == ["delivered"] * 3, "all are told")
    wait_until(lambda: status_of(nobodys) == OrderStatus.COMPLETED, "the shop's own order is complete")
    assert sorted(told(receiver)) == sorted(
        [
            ("order.completed", str(mine.pk)),
            ("order.cancelled", str(declined.pk)),
            ("order.completed", str(others.pk)),
        ]
    )
    assert all(is_signed(call, secret) for call in receiver.to("/ok"))
    assert all(is_signed(call, other_secret) for call in receiver.to("/ok/other"))
    assert not any(is_signed(call, other_secret) for call in receiver.to("/ok"))
    [cancelled] = [call for call in receiver.calls if "order.cancelled" in call.body]
    assert json.loads(cancelled.body)["data"]["order"]["status"] == "cancelled"
    assert "declined" not in cancelled.body
    assert set(WebhookAttempt.objects.values_list("status", flat=True)) == {204}


def test_client_is_told_that_a_stuck_undo_needs_a_person_and_of_the_end(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    register(receiver)
    order = place_for(make_client(), token="tok_ok__refund_error_500_x4")
    start(1, SAGA_ATTENTION_AFTER="2", **HASTY)
    wait_until(lambda: status_of(order) == OrderStatus.COMPLETED, "complete")
    desk.cancel_order(order_id=order.pk, actor="test", reason="it is stuck")
    wait_until(
        lambda: [event for event, _ in told(receiver)].count("order.cancelled") == 1,
        "the end is told",
    )
    assert AttentionFlag.objects.filter(order=order, subject="refund_payment").exists()
    events = sorted(event for event, _ in told(receiver))
    assert events == ["order.cancelled", "order.completed", "order.needs_attention"]


def test_worker_that_is_told_to_stop_leaves_nothing_leased(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    register(receiver, "hang")
    place_for(make_client())
    crew = start(1, **{**HASTY, "WEBHOOK_TIMEOUT": "30", "WORKER_GRACE": "1"})
    wait_until(lambda: bool(receiver.calls), "it is being sent")
    crew.process.terminate()
    assert crew.process.wait(30) == 0, crew.lines[-20:]
    delivery = WebhookDelivery.objects.get()
    assert (delivery.state, delivery.leased_until) == ("waiting", None)


# --- the document's example -----------------------------------------------------------------------------


def read_example() -> Callable[..., Any]:
    """`verify` as docs/webhooks.md shows it."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[0], names)  # noqa: S102 - our own document
    found: Callable[..., Any] = names["verify"]
    return found


def test_example_of_the_document_verifies_what_is_delivered(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    secret = register(receiver)
    order = place_for(make_client())
    start(1, **HASTY)
    wait_until(lambda: read_states() == ["delivered"], "it is told")
    [call] = receiver.calls
    verify = read_example()
    event = verify(secret, call.headers, call.body.encode())
    assert event["data"]["order"]["id"] == str(order.pk)

    stale = {**call.headers, "webhook-timestamp": str(int(call.headers["webhook-timestamp"]) - 301)}
    forged = {**call.headers, "webhook-signature": "v1,AAAA"}
    for headers, body, key in (
        (stale, call.body, secret),
        (forged, call.body, secret),
        (call.headers, call.body + " ", secret),
        ({**call.headers, "webhook-id": "another"}, call.body, secret),
        (call.headers, call.body, "whsec_AAAA"),
        ({}, call.body, secret),
    ):
        with pytest.raises(ValueError, match="webhook"):
            verify(key, headers, body.encode())


def test_example_of_the_document_takes_either_secret_after_a_rotation() -> None:
    from datetime import UTC, datetime

    from orders.webhooks.signing import build_headers, make_secret

    old, new, body = make_secret(), make_secret(), b'{"type": "order.completed"}'
    headers = build_headers(event_id="e", at=datetime.now(UTC), body=body, secrets=[new, old])
    verify = read_example()
    assert verify(old, headers, body) == verify(new, headers, body) == {"type": "order.completed"}
    call = Call("/", headers, body.decode())
    assert is_signed(call, old)
    assert is_signed(call, new)


def test_courier_that_cannot_start_takes_no_saga_down_and_is_started_again(
    receiver: Receiver, start: Callable[..., Crew], tmp_path: Path
) -> None:
    """The operator's SSL_CERT_FILE names no file; then there is one."""
    register(receiver)
    authorities = tmp_path / "authorities.pem"
    crew = start(1, SSL_CERT_FILE=str(authorities), **HASTY)
    wait_until(lambda: bool(crew.find(r"(courier failed and is started again)")), f"it says so: {crew.lines}")
    assert crew.find(r"(FileNotFoundError)")
    orders = [place_for(make_client()) for _ in range(2)]
    done = OrderStatus.COMPLETED
    wait_until(lambda: all(status_of(order) == done for order in orders), "all are done")
    assert read_states() == ["waiting"] * 2
    assert len(crew.pids_of()) == 1
    trustme.CA().cert_pem.write_to_path(authorities)
    wait_until(lambda: read_states() == ["delivered"] * 2, "both are told")
    assert len(crew.pids_of()) == 1
    crew.process.send_signal(signal.SIGTERM)
    assert crew.process.wait(GRACE) == 0
