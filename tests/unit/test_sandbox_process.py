"""The sandbox gateway's client and process: bad input, bad networks, kill -9, clean stops."""

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from payments.gateways.protocol import (
    Charge,
    ChargeClosed,
    GatewayMisuse,
    GatewayUnavailable,
    PaymentDeclined,
)
from payments.gateways.sandbox import SandboxGateway
from tests.gateway import ROOT, Server, pay, run_server, wait_until

# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"amount_minor": 0}, "amount_minor"),
        ({"amount_minor": True}, "amount_minor"),
        ({"amount_minor": 12.5}, "amount_minor"),
        ({"amount_minor": 10**30}, "amount_minor"),
        ({"currency": "EURO"}, "currency"),
        ({"token": 7}, "token"),
        ({"token": "\x00"}, "token"),
        ({"token": "\ud800"}, "JSON"),
        ({"key": ""}, "key"),
        ({"key": "k\n"}, "key"),
        ({"key": "schlüssel"}, "key"),
    ],
    ids=ascii,
)
async def test_malformed_request_is_misuse(
    gateway: SandboxGateway, server: Server, key: str, change: dict[str, Any], complaint: str
) -> None:
    call: dict[str, Any] = {"key": key, "amount_minor": 1, "currency": "EUR", "token": "tok_ok"} | change
    with pytest.raises(GatewayMisuse, match=complaint):
        await gateway.charge(**call)
    assert server.entries(key) == []


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/charges", b"{", 400),
        ("POST", "/charges", b"[]", 400),
        ("POST", "/charges", b'{"amount_minor": 1, "currency": "EUR", "token": "\\ud800"}', 400),
        ("POST", "/charges", b"x" * 70_000, 400),
        ("GET", "/charges", b"", 400),
        ("POST", "/close", b"", 400),
        ("GET", "/nowhere", b"", 404),
        ("PUT", "/charges", b"", 501),
    ],
)
def test_bad_http_gets_a_json_error(
    server: Server, method: str, path: str, content: bytes, status: int
) -> None:
    headers = {} if path == "/close" else {"Idempotency-Key": "k"}
    answer = server.http.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}


# --- the client alone --------------------------------------------------------------------------------------


@contextmanager
def scripted_gateway(answer: bytes, *, drip_seconds: float = 0.0) -> Iterator[str]:
    """A raw server in a thread that sends `answer`, whole or byte by byte, to every connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    for byte in answer if drip_seconds else ():
                        connection.sendall(bytes([byte]))
                        if stop.wait(drip_seconds):
                            break
                    if not drip_seconds:
                        connection.sendall(answer)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
        listener.close()
        assert not thread.is_alive()


async def fail_to_find(url: str, *, timeout: float = 5.0) -> GatewayUnavailable:
    gateway = SandboxGateway(url, timeout=timeout)
    try:
        with pytest.raises(GatewayUnavailable) as caught:
            await gateway.find(key="k")
    finally:
        await gateway.aclose()
    return caught.value


async def test_timeout_covers_the_whole_call_not_each_read() -> None:
    with scripted_gateway(b"HTTP/1.1 200 OK\r\n" + b"X-Drip: 1\r\n" * 50, drip_seconds=0.05) as url:
        started = time.monotonic()
        error = await fail_to_find(url, timeout=0.4)
    assert 0.3 < time.monotonic() - started < 2
    assert "did not answer within 0.4 s" in str(error)


async def test_nobody_listening_is_unavailable() -> None:
    with scripted_gateway(b"") as url:
        pass
    assert isinstance((await fail_to_find(url)).__cause__, aiohttp.ClientConnectorError)


@pytest.mark.parametrize(
    "head", ["200 OK", "403 Forbidden", "404 Not Found", "408 Late", "302 Found", "502 Bad Gateway"]
)
@pytest.mark.parametrize("body", ["<html>a proxy</html>", "[]", "{}", '{"charge": {}}'])
async def test_answer_that_is_not_the_gateways_is_no_verdict(head: str, body: str) -> None:
    text = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    with scripted_gateway(text.encode()) as url:
        await fail_to_find(url)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_read_as_seconds(status: int, header: str, seconds: float | None) -> None:
    text = f"HTTP/1.1 {status} No\r\nRetry-After: {header}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with scripted_gateway(text.encode()) as url:
        assert (await fail_to_find(url)).retry_after == seconds


async def test_one_client_serves_several_event_loops(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    async def pay_and_leave(n: int) -> None:
        await asyncio.gather(*(pay(gateway, f"{key}:{n}:{m}") for m in range(3)))
        await gateway.aclose()

    await pay(gateway, f"{key}:here")
    for n in range(2):
        await asyncio.to_thread(asyncio.run, pay_and_leave(n))
    await pay(gateway, f"{key}:here")
    assert server.kinds(key) == ["charge"] * 7


# --- the process -------------------------------------------------------------------------------------------


async def test_kill_9_keeps_the_ledger_and_its_answers(tmp_path: Path, key: str) -> None:
    ledger = tmp_path / "new" / "ledger.sqlite"
    with run_server(ledger) as first:
        gateway = SandboxGateway(first.url)
        charge = await pay(gateway, f"{key}:paid")
        await gateway.close(key=f"{key}:closed")
        with pytest.raises(PaymentDeclined):
            await pay(gateway, f"{key}:large", amount_minor=100_001)
        with pytest.raises(GatewayUnavailable):
            await pay(gateway, f"{key}:fault", token="tok_error_500_x1")
        with pytest.raises(GatewayUnavailable):
            await pay(gateway, f"{key}:in-the-network", token="tok_delayed_s1_x1")

        # Few at a time, so that the kill comes in the middle however fast the server is.
        lanes = asyncio.Semaphore(20)

        async def pay_in_lane(n: int) -> Charge:
            async with lanes:
                return await pay(gateway, f"{key}:burst:{n:03}")

        burst = [asyncio.create_task(pay_in_lane(n)) for n in range(150)]
        await wait_until(lambda: len(first.entries(f"{key}:burst")) >= 20)
        first.process.kill()
        first.process.wait(timeout=5)
        results = await asyncio.gather(*burst, return_exceptions=True)
    answered = {result.key: result for result in results if isinstance(result, Charge)}
    assert all(isinstance(result, (Charge, GatewayUnavailable)) for result in results)
    assert len(answered) < 150, "the kill came too late to prove anything"

    with run_server(ledger, "--decline-above", "5000.00", port=first.port) as second:
        assert {entry["key"] for entry in second.entries(f"{key}:burst")} >= set(answered)
        assert await pay(gateway, f"{key}:paid") == charge
        with pytest.raises(ChargeClosed):
            await pay(gateway, f"{key}:closed")
        with pytest.raises(PaymentDeclined):  # stored, although the new limit would allow it
            await pay(gateway, f"{key}:large", amount_minor=100_001)
        await pay(gateway, f"{key}:fault", token="tok_error_500_x1")  # its one turn was before the kill
        assert second.kinds(f"{key}:in-the-network") == []
        again = await asyncio.gather(*(pay(gateway, f"{key}:burst:{n:03}") for n in range(150)))
        assert all(answered.get(charge.key, charge) == charge for charge in again)
        assert second.kinds(f"{key}:burst") == ["charge"] * 150
        await gateway.aclose()


def test_ledger_file_itself_refuses_changes_and_second_charges(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with run_server(path) as running:
        closed = running.http.post("/close", headers={"Idempotency-Key": "k"}, json={})
        assert closed.json() == {"charge": None}
    db = sqlite3.connect(path)
    try:
        insert = "INSERT INTO entries (at, kind, key, charge_id) VALUES ('now', ?, ?, ?)"
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            db.execute(insert, ("charge", "k", "ch_1"))
        db.execute(insert, ("charge", "other", "ch_1"))
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            db.execute(insert, ("charge", "other", "ch_2"))
        for change in ("UPDATE entries SET key = 'x'", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(change)
    finally:
        db.close()


async def test_limit_and_latency_come_from_the_environment(tmp_path: Path, key: str) -> None:
    env = {"SANDBOX_DECLINE_ABOVE": "5.00", "SANDBOX_LATENCY_MS": "1000"}
    with run_server(tmp_path / "ledger.sqlite", env=env) as running:
        gateway = SandboxGateway(running.url)
        await gateway.find(key=key)
        started = time.monotonic()
        await gateway.find(key=key)
        assert time.monotonic() - started < 0.8
        started = time.monotonic()
        charge = await pay(gateway, key, amount_minor=500)
        assert time.monotonic() - started >= 1.0
        started = time.monotonic()
        await gateway.refund(key=key, charge_id=charge.id, amount_minor=500)
        assert time.monotonic() - started >= 1.0
        with pytest.raises(PaymentDeclined, match=r"above 5\.00"):
            await pay(gateway, f"{key}:2", amount_minor=501)
        await gateway.aclose()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
async def test_server_stops_cleanly_even_while_a_request_hangs(tmp_path: Path, key: str, how: str) -> None:
    with run_server(tmp_path / "ledger.sqlite") as running:
        gateway = SandboxGateway(running.url)
        with pytest.raises(GatewayUnavailable):  # a request still in the network must not hold the exit up
            await pay(gateway, f"{key}:late", token="tok_delayed_s60")
        running.set_fault(operation="charge", fault="hang").raise_for_status()
        hanging = asyncio.create_task(pay(gateway, key))
        await wait_until(lambda: running.http.get("/faults").json()["faults"][0]["fired"] == 1)
        assert running.process.poll() is None
        if how == "stdin":
            assert running.process.stdin is not None
            running.process.stdin.close()
        else:
            running.process.send_signal(signal.Signals[how])
        assert await asyncio.to_thread(running.process.wait, 5) == 0
        with pytest.raises(GatewayUnavailable):
            await hanging
        await gateway.aclose()


def test_server_runs_on_the_standard_library_alone() -> None:
    # -S: without site-packages there is no Django and no httpx to import.
    command = [sys.executable, "-S", "-m", "payments.gateways.sandbox_server", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "--exit-on-stdin-eof" in shown.stdout


@pytest.mark.parametrize(
    "option",
    [
        ["--decline-above", "1.001"],
        ["--decline-above", "-1"],
        ["--decline-above", "x"],
        ["--latency-ms", "nan"],
    ],
)
def test_server_refuses_a_senseless_option(tmp_path: Path, option: list[str]) -> None:
    command = [sys.executable, "-m", "payments.gateways.sandbox_server", "--port", "0", "--ledger", "unused"]
    shown = subprocess.run(
        [*command, *option], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert shown.returncode == 2
    assert option[0] in shown.stderr
