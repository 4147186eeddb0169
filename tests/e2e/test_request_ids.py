"""The id of a request: taken over or made, answered, in the log, and in the memo of its workflow."""

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.test import Client as Browser
from temporalio.client import Client

from config.temporal import run_in_db
from orders.dispatch import DELIVERIES
from orders.links import sign_order
from orders.listening import run_listener
from orders.models import Order, OutboxMessage
from tests.conftest import until
from tests.crash.shopping import make_key
from tests.desk import aplace, hand_over, place, saga_of
from tests.faults import failing
from tests.own_services import PATIENCE, Web, serving, silence
from tests.processes import wait_until

HEADER = "X-Request-ID"
MADE = re.compile(r"[0-9a-f]{32}")
SANE = ["a", "checkout-2026.11:23_7", "x" * 100, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
UNFIT = {
    "empty": "",
    "too long": "x" * 101,
    "space": "two words",
    "tab": "two\twords",
    "line end": "one\nlevel=ERROR two",
    "line ends": "one\r\nSet-Cookie: a=b",
    "line end last": "one\n",
    "not ASCII": "bestellung-ä",
    "digits of another script": "١٢٣",
    "markup": "<script>",
    "two headers": "one,two",
    "quote": 'one"two',
    "percent": "%s%n",
}


# --- taken over or made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", SANE)
def test_sane_id_is_taken_over(client: Browser, given: str) -> None:
    answer = client.get("/healthz", headers={HEADER: given})
    assert answer.headers[HEADER] == given


@pytest.mark.parametrize("given", UNFIT.values(), ids=UNFIT)
def test_unfit_id_is_replaced(client: Browser, given: str) -> None:
    answer = client.get("/healthz", headers={HEADER: given})
    assert MADE.fullmatch(answer.headers[HEADER])


def test_each_request_without_one_gets_its_own(client: Browser) -> None:
    made = {client.get("/healthz").headers[HEADER] for _ in range(10)}
    assert len(made) == 10
    assert all(MADE.fullmatch(each) for each in made)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/readyz", 200),
        ("GET", "/admin/", 302),
        ("GET", "/admin/nothing/", 302),
        ("GET", "/nothing/", 404),
        ("POST", "/healthz", 405),
        ("GET", "/static/orders/failure.css", 200),
        ("GET", "/static/nothing.css", 404),
        ("GET", "/api/v1/products/", 200),
        ("GET", "/api/v1/orders/00000000-0000-4000-8000-000000000000/", 401),
        ("PATCH", "/api/v1/products/", 405),
    ],
)
def test_every_answer_has_the_id(counter: None, method: str, path: str, status: int) -> None:
    answer = Browser().generic(method, path, headers={HEADER: "mine"})
    assert (answer.status_code, answer.headers[HEADER]) == (status, "mine")
    if answer.streaming:
        assert b"".join(answer)
        answer.close()


def test_a_failure_of_ours_has_it_too(shop: None) -> None:
    browser = Browser(raise_request_exception=False)
    with failing("orders_order", "INSERT", times=1):
        answer = browser.post(
            "/api/v1/orders/",
            {"customer_email": "ada@example.com", "items": [{"sku": "NOTE-A5", "quantity": 1}]},
            content_type="application/json",
            headers={HEADER: "mine", "Authorization": f"Bearer {make_key()}", "Idempotency-Key": "k"},
        )
    assert (answer.status_code, answer.headers[HEADER]) == (500, "mine")


def test_a_wrong_host_has_it_too(client: Browser) -> None:
    answer = client.get("/admin/", headers={HEADER: "mine", "Host": "elsewhere.example"})
    assert (answer.status_code, answer.headers[HEADER]) == (400, "mine")


# --- in the log of a real web process -------------------------------------------------------------------


def find_lines(web: Web, text: str, count: int) -> list[str]:
    """The lines of the log with this text, as soon as there are that many."""
    found: list[str] = []

    def are_there() -> bool:
        found[:] = [line for line in web.read_log() if text in line]
        return len(found) >= count

    wait_until(are_there, f"{count} lines of the log have {text!r}: {web.read_log()[-20:]}")
    return found


def get(web: Web, path: str, request_id: str) -> httpx.Response:
    return httpx.get(f"{web.address}{path}", headers={HEADER: request_id}, timeout=PATIENCE)


def test_log_names_the_request(shop: None) -> None:
    with silence() as silent, serving(TEMPORAL_ADDRESS=silent) as web:
        assert get(web, "/healthz", "fine").headers[HEADER] == "fine"
        [line] = find_lines(web, "request=fine", 1)
        assert re.search(r'"GET /healthz HTTP/1.1" 200 \d+ \d+ ms request=fine', line)

        assert get(web, "/nothing/", "wrong").status_code == 404
        ours, access = find_lines(web, "request=wrong", 2)
        assert ours.endswith("WARNING django.request request=wrong Not Found: /nothing/")
        assert '"GET /nothing/ HTTP/1.1" 404' in access

        with failing("orders_order", "INSERT", times=1):
            answer = httpx.post(
                f"{web.address}/api/v1/orders/",
                json={"customer_email": "ada@example.com", "items": [{"sku": "NOTE-A5", "quantity": 1}]},
                headers={HEADER: "broken", "Authorization": f"Bearer {make_key()}", "Idempotency-Key": "k"},
                timeout=PATIENCE,
            )
        assert answer.status_code == 500
        assert any("ERROR" in line for line in find_lines(web, "request=broken", 2))

        # What belongs to no request names none.
        assert not [line for line in web.read_log() if "Booting worker" in line and "request=" in line]


def test_log_tells_no_query_and_no_link_to_an_order(shop: None) -> None:
    """What names a customer, and what opens an order, is in no line: gunicorn's, or our own."""
    secret = make_key()
    order = place()
    link = f"/order/{sign_order(order.pk)}/"
    with serving() as web:
        listed = httpx.get(
            f"{web.address}/api/v1/orders/?customer_email=ada@example.com",
            headers={HEADER: "listed", "Authorization": f"Bearer {secret}"},
            timeout=PATIENCE,
        )
        assert listed.status_code == 200
        assert get(web, link, "seen").status_code == 200
        assert get(web, f"{link}live/?after=1", "live").status_code == 200
        assert get(web, link.replace("/order", "/%6frder"), "encoded").status_code == 200
        # Django itself logs these, with their paths.
        forbidden = httpx.post(f"{web.address}{link}cancel/", headers={HEADER: "forged"}, timeout=PATIENCE)
        assert forbidden.status_code == 403
        put = httpx.put(f"{web.address}{link}", headers={HEADER: "put"}, timeout=PATIENCE)
        assert put.status_code in (403, 405)
        assert get(web, f"{link[:-1]}x/", "mistyped").status_code == 404

        [line] = find_lines(web, "request=listed", 1)
        assert '"GET /api/v1/orders/ HTTP/1.1" 200' in line
        for request_id in ("seen", "live", "encoded"):
            [line] = find_lines(web, f"request={request_id}", 1)
            assert '"GET /order/… HTTP/1.1" 200' in line
        for request_id in ("forged", "put", "mistyped"):
            ours, access = find_lines(web, f"request={request_id}", 2)
            assert "/order/…" in ours
            assert " /order/… HTTP/1.1" in access
        # Other addresses are told whole, as they were sent.
        assert get(web, "/admin/orders/order/1%0A/", "elsewhere").status_code == 404
        assert "GET /admin/orders/order/1%0A/ HTTP/1.1" in find_lines(web, "request=elsewhere", 2)[-1]
        log = "".join(web.read_log())
    assert str(order.pk) not in log
    assert "ada@example.com" not in log
    assert "customer_email" not in log


def test_log_takes_no_line_from_a_header(shop: None) -> None:
    """Line ends inside of a header never get as far as the log: HTTP ends the header there."""
    with serving() as web:
        host, port = web.listener.getsockname()
        with socket.create_connection((host, port), timeout=PATIENCE) as raw:
            raw.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"X-Request-ID: one\r\nX-Request-ID: two\r\n\r\n"
            )
            answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
        made = re.search(rf"{HEADER}: ({MADE.pattern})\r\n", answer)
        assert made, answer
        assert find_lines(web, f"request={made[1]}", 1)
        for request_id in ("a b", "x" * 101):
            answered = get(web, "/healthz", request_id).headers[HEADER]
            assert MADE.fullmatch(answered)
            assert find_lines(web, f"request={answered}", 1)
        assert not [line for line in web.read_log() if "request=one" in line or "request=a b" in line]


def test_ids_of_requests_at_the_same_time_do_not_mix(shop: None) -> None:
    """On every thread of a web process at once: the answer, the order's message and the log agree."""
    secret = make_key()
    with silence() as silent, serving(TEMPORAL_ADDRESS=silent) as web:

        def order(number: int) -> None:
            answer = httpx.post(
                f"{web.address}/api/v1/orders/",
                json={
                    "customer_email": f"customer-{number}@example.com",
                    "items": [{"sku": "NOTE-A5", "quantity": 1}],
                },
                headers={
                    HEADER: f"order-of-{number}",
                    "Authorization": f"Bearer {secret}",
                    "Idempotency-Key": f"key-{number}",
                },
                timeout=PATIENCE,
            )
            assert (answer.status_code, answer.headers[HEADER]) == (202, f"order-of-{number}")

        def miss(number: int) -> None:
            answer = get(web, f"/nothing-{number}/", f"miss-of-{number}")
            assert (answer.status_code, answer.headers[HEADER]) == (404, f"miss-of-{number}")

        with ThreadPoolExecutor(30) as threads:
            for done in [threads.submit(work, number) for number in range(40) for work in (order, miss)]:
                done.result()
        for number in range(40):
            message = OutboxMessage.objects.get(order__customer_email=f"customer-{number}@example.com")
            assert message.request_id == f"order-of-{number}"
        wait_until(lambda: "".join(web.read_log()).count("request=miss-of-") == 80, "everything is logged")
        for line in web.read_log():
            if found := re.search(r"/nothing-(\d+)/", line):
                assert f"request=miss-of-{found[1]}" in line


# --- in Temporal ----------------------------------------------------------------------------------------


async def read_memo(client: Client, order: Order) -> dict[str, Any]:
    description = await saga_of(client, order).describe()
    return dict(await description.memo())


async def post(web: Web, secret: str) -> Order:
    """An order whose request has the id `checkout-7`."""

    def order() -> Order:
        answer = httpx.post(
            f"{web.address}/api/v1/orders/",
            json={"customer_email": "ada@example.com", "items": [{"sku": "NOTE-A5", "quantity": 1}]},
            headers={HEADER: "checkout-7", "Authorization": f"Bearer {secret}", "Idempotency-Key": "k"},
            timeout=PATIENCE,
        )
        assert answer.status_code == 202, answer.text
        return Order.objects.get(pk=answer.json()["id"])

    return await run_in_db(order)


async def test_listener_tells_temporal_the_id(shop: None, temporal: Client, settings: Any) -> None:
    settings.OUTBOX_FAST_PATH = True  # the test listens; the web process has it by default
    settings.OUTBOX_FIRST_LEASE = 5.0
    secret = await run_in_db(make_key)
    web = await run_in_db(Web)
    listening = asyncio.create_task(run_listener(temporal, asyncio.Semaphore(DELIVERIES)))
    try:
        await run_in_db(web.wait_ready)
        order = await post(web, secret)

        async def is_told() -> bool:
            return not await run_in_db(OutboxMessage.objects.filter(delivered_at=None).exists)

        await until(is_told, what="the listener has told Temporal")
        assert await read_memo(temporal, order) == {"request_id": "checkout-7"}
    finally:
        listening.cancel()
        web.stop()


async def test_sweep_tells_temporal_the_id(shop: None, temporal: Client) -> None:
    secret = await run_in_db(make_key)
    web = await run_in_db(lambda: Web(OUTBOX_FAST_PATH="0"))
    try:
        await run_in_db(web.wait_ready)
        order = await post(web, secret)
    finally:
        web.stop()
    await run_in_db(lambda: OutboxMessage.objects.update(next_attempt_at=order.accepted_at))
    await hand_over(temporal)
    assert await read_memo(temporal, order) == {"request_id": "checkout-7"}


async def test_saga_of_no_request_has_no_id(shop: None, temporal: Client) -> None:
    order = await aplace()
    await hand_over(temporal)
    assert await read_memo(temporal, order) == {}
