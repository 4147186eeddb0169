"""Attempts at real receivers: what counts as delivered, and that only the checked address is called."""

import itertools
import socket
import ssl
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from django.utils import timezone

from config.temporal import run_in_db
from orders.models import ApiClient, DeliveryState, DisabledBy, WebhookDelivery
from orders.webhooks import targets
from orders.webhooks.registry import OLD_SECRET_FOR, rotate_secret
from orders.webhooks.sending import MAX_ANSWER, Sender
from tests.conftest import until
from tests.receiver import HUGE, Receiver, is_signed, receiving
from tests.webhooks import (
    begin,
    delivering,
    has_states,
    make_endpoint,
    publish,
    read_log,
    read_states,
    until_log,
    until_states,
)

pytestmark = pytest.mark.usefixtures("hasty_webhooks")


# --- what counts as delivered ---------------------------------------------------------------------------


async def test_delivery_is_signed_and_tells_what_the_specification_asks_for(receiver: Receiver) -> None:
    order = await run_in_db(begin, url=f"{receiver.url}/ok?shop=1")
    async with delivering():
        await until_states("delivered")
    [call] = receiver.calls
    delivery = await run_in_db(WebhookDelivery.objects.select_related("endpoint").get)
    assert is_signed(call, delivery.endpoint.secret)
    assert not is_signed(call, "whsec_AAAA")
    assert call.path == "/ok?shop=1"
    assert call.body == delivery.body
    assert call.event_id == str(delivery.event_id)
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 30
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"].startswith("order-desk-webhooks/")
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert delivery.attempts == 1
    assert await run_in_db(read_log) == [(204, "")]
    assert str(order.pk) in call.body


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("status/500", 500, "It answered 500: because of [31m the weather"),
        ("status/404", 404, "It answered 404: because of [31m the weather"),
        ("hang", None, "There was no answer within 1 s."),
        ("drip", None, "There was no answer within 1 s."),
        ("reset", None, "The connection broke"),
        ("redirect", 302, "redirects are not followed"),
        ("huge/500", 500, "It answered 500: xxx"),
    ],
)
async def test_whatever_is_no_success_is_logged_and_tried_again(
    receiver: Receiver, path: str, status: int | None, error: str
) -> None:
    await run_in_db(begin, url=f"{receiver.url}/{path}")
    async with delivering():
        log = await until_log(2)
    assert {entry[0] for entry in log} == {status}
    assert error in log[0][1]
    assert all(char.isprintable() for _, said in log for char in said)
    assert max(len(said) for _, said in log) < 400
    # The same event each time, signed anew.
    assert len({call.event_id for call in receiver.calls}) == 1
    assert receiver.to("/secret") == []
    assert await run_in_db(read_states) == [DeliveryState.WAITING]


@pytest.mark.parametrize("status", [200, 500])
async def test_endless_answer_is_not_read(receiver: Receiver, status: int) -> None:
    await run_in_db(begin, url=f"{receiver.url}/huge/{status}")
    async with delivering():
        await until_log(1)
    # What buffers on the way hold is not what was read.
    assert MAX_ANSWER < HUGE / 1000
    assert receiver.sent < HUGE / 4
    assert await has_states("delivered" if status == 200 else "waiting")


async def test_receiver_that_recovers_is_told(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/flaky/3")
    async with delivering():
        await until_states("delivered")
    assert [status for status, _ in await run_in_db(read_log)] == [503, 503, 503, 204]
    assert len({call.event_id for call in receiver.calls}) == 1


async def test_receiver_that_is_not_there_is_told_when_it_is(unused_tcp_port: int) -> None:
    await run_in_db(begin, url=f"http://127.0.0.1:{unused_tcp_port}/ok")
    async with delivering():
        log = await until_log(1)
        assert log[0][0] is None
        assert log[0][1].startswith("No connection")
        with receiving(port=unused_tcp_port) as late:
            await until_states("delivered")
    assert len(late.calls) == 1


async def test_receiver_that_is_gone_is_told_no_more(receiver: Receiver) -> None:
    order = await run_in_db(begin, url=f"{receiver.url}/status/410")
    async with delivering():
        await until_states("failed")
    endpoint = await run_in_db(lambda: WebhookDelivery.objects.select_related("endpoint").get().endpoint)
    assert endpoint.disabled_by == DisabledBy.RECEIVER
    assert "410" in endpoint.disabled_because
    await run_in_db(publish, order=order)
    assert await has_states("failed")


async def test_what_else_waits_for_a_receiver_that_is_gone_is_withdrawn(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/status/410", count=3)
    async with delivering():
        await until(lambda: run_in_db(lambda: "waiting" not in read_states()), what="nothing waits")
    states = Counter(await run_in_db(read_states))
    assert states["failed"] >= 1
    assert states.total() == 3


async def test_client_that_is_switched_off_is_told_nothing_meanwhile(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/ok")
    await run_in_db(ApiClient.objects.update, is_active=False)
    async with delivering():
        log = await until_log(1)
        assert log[0] == (None, "Nothing was sent: the client is switched off.")
        assert receiver.connections == 0
        await run_in_db(ApiClient.objects.update, is_active=True)
        await until_states("delivered")


async def test_old_secret_signs_for_a_while_after_a_rotation(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/status/500")
    old = await run_in_db(lambda: WebhookDelivery.objects.select_related("endpoint").get().endpoint)
    new = await run_in_db(rotate_secret, endpoint_id=old.pk)
    assert old.secret != new.secret
    sender = Sender()
    delivery = await run_in_db(WebhookDelivery.objects.select_related("endpoint").get)
    now = timezone.now()
    await sender.send(delivery, at=now)
    await sender.send(delivery, at=now + OLD_SECRET_FOR)
    await sender.aclose()
    found = [[is_signed(call, secret) for secret in (old.secret, new.secret)] for call in receiver.calls]
    assert found == [[True, True], [False, True]]


# --- the checked address is the one that is called ------------------------------------------------------


async def test_name_that_leads_to_a_private_address_is_not_called(
    receiver: Receiver, settings: Any, monkeypatch: Any
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    await run_in_db(begin, url=f"https://rebind.example:{receiver.port}/ok")
    monkeypatch.setattr(targets, "look_up", lambda host, port: ["127.0.0.1"])
    async with delivering():
        log = await until_log(2)
    assert log[0] == (None, "rebind.example does not lead to the public internet: it is 127.0.0.1.")
    assert receiver.connections == 0


async def test_name_is_looked_up_once_and_no_other_address_is_called(monkeypatch: Any) -> None:
    """A resolver that answers differently each time: the address that was checked is the one called."""
    with receiving("127.0.0.2") as checked, receiving("127.0.0.3", checked.port) as other:
        answers = itertools.cycle([["127.0.0.2"], ["127.0.0.3"]])
        asked: list[str] = []

        def answer(host: str, port: int) -> list[str]:
            asked.append(host)
            return next(answers)

        await run_in_db(make_endpoint, url=f"http://127.0.0.2:{checked.port}/")
        monkeypatch.setattr(targets, "look_up", answer)
        await run_in_db(begin, url=f"http://rebind.example:{checked.port}/ok", client="other")
        async with delivering():
            await until_states("delivered")
    assert asked == ["rebind.example"]
    assert (checked.connections, other.connections) == (1, 0)
    assert checked.calls[0].headers["host"] == f"rebind.example:{checked.port}"


async def test_next_address_is_called_when_one_cannot_be_reached(
    receiver: Receiver, monkeypatch: Any
) -> None:
    monkeypatch.setattr(targets, "look_up", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    await run_in_db(begin, url=f"http://two.example:{receiver.port}/ok")
    async with delivering():
        await until_states("delivered")
    assert await run_in_db(read_log) == [(204, "")]


def build_tls(authority: trustme.CA, names: list[str]) -> ssl.SSLContext:
    """A server with the certificate of hooks.example; notes the names that are asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(context)
    context.sni_callback = lambda connection, name, context: names.append(name)
    return context


@pytest.mark.parametrize(
    ("host", "answer"),
    [("hooks.example", (204, "")), ("other.example", (None, "CERTIFICATE_VERIFY_FAILED"))],
)
async def test_certificate_must_be_that_of_the_name(
    monkeypatch: Any, tmp_path: Path, host: str, answer: tuple[int | None, str]
) -> None:
    names: list[str] = []
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setattr(targets, "look_up", lambda host, port: ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with receiving(tls=build_tls(authority, names)) as secure:
        await run_in_db(begin, url=f"https://{host}:{secure.port}/ok")
        async with delivering():
            log = await until_log(1)
    assert log[0][0] == answer[0]
    assert answer[1] in log[0][1]
    assert set(names) == {host}


async def test_certificate_of_an_authority_nobody_knows_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(targets, "look_up", lambda host, port: ["127.0.0.1"])
    with receiving(tls=build_tls(trustme.CA(), [])) as secure:
        await run_in_db(begin, url=f"https://hooks.example:{secure.port}/ok")
        async with delivering():
            log = await until_log(1)
    assert "CERTIFICATE_VERIFY_FAILED" in log[0][1]
    assert secure.calls == []


async def test_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: Any) -> None:
    with closing(socket.socket()) as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        await run_in_db(begin, url=f"{receiver.url}/ok")
        async with delivering():
            await until_states("delivered")
