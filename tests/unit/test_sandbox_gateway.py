"""The sandbox gateway, client and server: a real server process, its ledger as the witness."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from payments.gateways.protocol import (
    Charge,
    ChargeClosed,
    Gateway,
    GatewayMisuse,
    GatewayUnavailable,
    PaymentDeclined,
    RefundRefused,
)
from payments.gateways.sandbox import SandboxGateway
from payments.gateways.sandbox_faults import FAULTS, OPERATIONS, Fault, FaultBoard, parse_token

ROOT = Path(__file__).resolve().parents[2]
NO_EFFECT = ("error_500", "rate_limited", "hang", "reset")


class Server:
    """A running sandbox server, with its ledger and switches at hand."""

    def __init__(self, ledger: Path, *options: str, port: int = 0, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "payments.gateways.sandbox_server", "--ledger", str(ledger)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--exit-on-stdin-eof", *options],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line!r}"
        self.url = line.split()[3].rstrip(",")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=5)
        assert self.http.get("/health").json() == {"status": "ok", "pid": self.process.pid}

    def entries(self, key_prefix: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/ledger", params={"key_prefix": key_prefix}).json()[
            "entries"
        ]
        return found

    def kinds(self, key_prefix: str) -> list[str]:
        return [entry["kind"] for entry in self.entries(key_prefix)]

    def set_fault(self, **fault: object) -> httpx.Response:
        return self.http.post("/faults", json=fault)

    def release(self) -> None:
        self.http.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)


@contextmanager
def run_server(
    ledger: Path, *options: str, port: int = 0, env: dict[str, str] | None = None
) -> Iterator[Server]:
    server = Server(ledger, *options, port=port, env=env)
    try:
        yield server
    finally:
        server.release()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("sandbox") / "ledger.sqlite") as running:
        yield running


@pytest.fixture
async def gateway(server: Server) -> AsyncIterator[SandboxGateway]:
    client = SandboxGateway(server.url)
    yield client
    await client.aclose()
    server.http.delete("/faults")


@pytest.fixture
async def hasty(server: Server) -> AsyncIterator[SandboxGateway]:
    """A client that gives up after 0.3 s."""
    client = SandboxGateway(server.url, timeout=0.3)
    yield client
    await client.aclose()


@pytest.fixture
def key() -> str:
    return f"order-{uuid.uuid4()}"


async def pay(gateway: Gateway, key: str, *, amount_minor: int = 2500, token: str = "tok_ok") -> Charge:
    return await gateway.charge(key=key, amount_minor=amount_minor, currency="EUR", token=token)


async def ask(gateway: Gateway, operation: str, key: str, charge: Charge | None, token: str) -> object:
    """Call one operation by its name; `charge` is what a refund refunds."""
    if operation == "charge":
        return await pay(gateway, key, token=token)
    if operation == "refund":
        assert charge is not None
        return await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=2500)
    return await (gateway.close(key=key) if operation == "close" else gateway.find(key=key))


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited for 5 s in vain"
        await asyncio.sleep(0.005)


# --- charge, find, close, refund ---------------------------------------------------------------------------


async def test_charge_is_captured_once_and_answers_the_same_for_ever(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    first = await pay(gateway, key)
    assert (first.key, first.amount_minor, first.currency, first.refunded_minor) == (key, 2500, "EUR", 0)
    await gateway.refund(key=f"{key}:refund", charge_id=first.id, amount_minor=2500)
    lower = await gateway.charge(key=key, amount_minor=2500, currency="eur", token="tok_ok")
    assert first == lower
    [entry, _refund] = server.entries(key)
    assert entry["charge_id"] == first.id
    assert {
        name: entry[name] for name in ("kind", "key", "amount_minor", "currency", "refund_id", "token")
    } == {
        "kind": "charge",
        "key": key,
        "amount_minor": 2500,
        "currency": "EUR",
        "refund_id": None,
        "token": "tok_ok",
    }


@pytest.mark.parametrize(
    ("token", "amount_minor", "code"),
    [
        ("tok_declined", 2500, "card_declined"),
        ("tok_decline", 2500, "card_declined"),
        ("tok_ok", 100_001, "amount_above_limit"),
        ("tok_nonsense", 2500, "invalid_token"),
        ("4711", 2500, "invalid_token"),
        ("", 2500, "invalid_token"),
    ],
)
async def test_decline_is_recorded_once_and_replayed(
    gateway: SandboxGateway, server: Server, key: str, token: str, amount_minor: int, code: str
) -> None:
    for _attempt in range(2):
        with pytest.raises(PaymentDeclined, match=r".") as declined:
            await pay(gateway, key, amount_minor=amount_minor, token=token)
        assert declined.value.code == code
    assert server.kinds(key) == ["declined"]
    assert await gateway.find(key=key) is None


async def test_the_limit_itself_is_paid(gateway: SandboxGateway, key: str) -> None:
    assert (await pay(gateway, key, amount_minor=100_000)).amount_minor == 100_000


@pytest.mark.parametrize(
    "change", [{"amount_minor": 2501}, {"currency": "USD"}, {"token": "tok_declined"}], ids=str
)
async def test_a_key_with_other_parameters_is_misuse(
    gateway: SandboxGateway, server: Server, key: str, change: dict[str, Any]
) -> None:
    parameters: dict[str, Any] = {"amount_minor": 2500, "currency": "EUR", "token": "tok_ok"}
    await gateway.charge(key=key, **parameters)
    with pytest.raises(GatewayMisuse, match="key_reused"):
        await gateway.charge(key=key, **parameters | change)
    assert server.kinds(key) == ["charge"]


async def test_concurrent_charges_under_one_key_capture_once(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    charges = await asyncio.gather(*(pay(gateway, f"{key}:one") for _ in range(50)))
    assert len(set(charges)) == 1
    assert server.kinds(f"{key}:one") == ["charge"]
    # Control: with a key each, the same burst is 50 charges, so the key is what made it one.
    await asyncio.gather(*(pay(gateway, f"{key}:many:{n}") for n in range(50)))
    assert server.kinds(f"{key}:many:") == ["charge"] * 50


async def test_bursts_of_two_hundred_requests_are_served(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    for burst in range(2):  # the second meets the connections the first has left in the pool
        await asyncio.gather(*(pay(gateway, f"{key}:{burst}:{n}") for n in range(200)))
    assert server.kinds(key) == ["charge"] * 400
    assert len({entry["key"] for entry in server.entries(key)}) == 400


async def test_closed_key_cannot_be_charged(gateway: SandboxGateway, server: Server, key: str) -> None:
    assert await gateway.close(key=key) is None
    assert await gateway.close(key=key) is None
    with pytest.raises(ChargeClosed):
        await pay(gateway, key)
    assert server.kinds(key) == ["closed"]


async def test_close_after_charge_returns_the_charge_as_it_is_now(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    charge = await pay(gateway, key)
    assert await gateway.close(key=key) == await gateway.find(key=key) == charge
    await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=1000)
    closed = await gateway.close(key=key)
    assert closed is not None
    assert closed.refunded_minor == 1000
    assert await pay(gateway, key) == charge
    assert server.kinds(key) == ["charge", "refund"]


async def test_close_after_decline_finds_nothing_and_stays_declined(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    for _round in range(2):
        with pytest.raises(PaymentDeclined):
            await pay(gateway, key, token="tok_declined")
        assert await gateway.close(key=key) is None
    assert server.kinds(key) == ["declined", "closed"]


async def race(gateway: SandboxGateway, key: str, rival: str) -> list[tuple[Charge | None, bool]]:
    """Charge and `rival` (find or close) at once, 100 times: what the rival saw, and whether it was paid."""

    async def pay_unless_closed(one_key: str) -> bool:
        try:
            await pay(gateway, one_key)
        except ChargeClosed:
            return False
        return True

    async def run_round(n: int) -> tuple[Charge | None, bool]:
        one_key = f"{key}:{n}"
        calls = [ask(gateway, rival, one_key, None, ""), pay_unless_closed(one_key)]
        if n % 2:
            calls.reverse()
        results = await asyncio.gather(*calls)
        seen, paid = reversed(results) if n % 2 else results
        assert seen is None or isinstance(seen, Charge)
        return seen, bool(paid)

    return await asyncio.gather(*map(run_round, range(100)))


async def test_charge_racing_close_is_captured_or_closed_never_both(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    outcomes = await race(gateway, key, "close")
    assert all((seen is not None) == paid for seen, paid in outcomes)
    assert {paid for _, paid in outcomes} == {True, False}, "the race was not one: one side always won"
    assert sorted(server.kinds(key)) == sorted("charge" if paid else "closed" for _, paid in outcomes)
    # Control: asking without closing shows the hole, "no charge" followed by one.
    assert any(seen is None and paid for seen, paid in await race(gateway, f"{key}:control", "find"))


async def test_refund_happens_once_per_key(gateway: SandboxGateway, server: Server, key: str) -> None:
    charge = await pay(gateway, key)
    refund_key = f"{key}:refund"
    calls = (gateway.refund(key=refund_key, charge_id=charge.id, amount_minor=2500) for _ in range(10))
    refunds = await asyncio.gather(*calls)
    assert len(set(refunds)) == 1
    assert (refunds[0].charge_id, refunds[0].amount_minor) == (charge.id, 2500)
    assert server.kinds(key) == ["charge", "refund"]
    with pytest.raises(GatewayMisuse, match="key_reused"):
        await gateway.refund(key=refund_key, charge_id=charge.id, amount_minor=2499)


async def test_concurrent_refunds_never_exceed_the_charge(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    charge = await pay(gateway, key)
    calls = (gateway.refund(key=f"{key}:{n}", charge_id=charge.id, amount_minor=800) for n in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, RefundRefused) for result in results) == 7
    assert server.kinds(key) == ["charge", "refund", "refund", "refund"]
    with pytest.raises(RefundRefused, match="Only 100 of 2500"):
        await gateway.refund(key=f"{key}:rest", charge_id=charge.id, amount_minor=101)
    await gateway.refund(key=f"{key}:rest", charge_id=charge.id, amount_minor=100)


async def test_refund_of_an_unknown_charge_is_refused(gateway: SandboxGateway, key: str) -> None:
    with pytest.raises(RefundRefused, match="no_such_charge"):
        await gateway.refund(key=key, charge_id="ch_unknown", amount_minor=1)


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["token", "everyone"])
@pytest.mark.parametrize("fault", [*NO_EFFECT, "answer_lost"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_fault_strikes_once_and_then_the_request_succeeds(
    gateway: SandboxGateway, hasty: SandboxGateway, server: Server, key: str,
    operation: str, fault: str, source: str,
) -> None:  # fmt: skip
    token = f"tok_{operation}_{fault}_x1" if source == "token" else "tok_ok"
    charge = None if operation == "charge" else await pay(gateway, key, token=token)
    before = server.kinds(key)
    if source == "everyone":
        server.set_fault(operation=operation, fault=fault, times=1, key_prefix=key).raise_for_status()
    effect = [operation] if operation in ("charge", "refund") else []

    with pytest.raises(GatewayUnavailable) as struck:
        await ask(hasty if fault == "hang" else gateway, operation, key, charge, token)
    assert server.kinds(key) == before + (effect if fault == "answer_lost" else [])
    assert struck.value.retry_after == (1.0 if fault == "rate_limited" else None)
    if fault in ("reset", "answer_lost"):
        assert isinstance(struck.value.__cause__, httpx.ReadError), "not a TCP reset"
    if fault == "hang":
        assert isinstance(struck.value.__cause__, (TimeoutError, httpx.TimeoutException))

    assert await ask(gateway, operation, key, charge, token) is not None
    assert server.kinds(key) == before + effect


async def test_without_a_count_a_fault_strikes_every_time(gateway: SandboxGateway, key: str) -> None:
    for _ in range(3):
        with pytest.raises(GatewayUnavailable):
            await pay(gateway, key, token="tok_error_500")
    # The charge never arrived, yet close knows the token: its fault strikes although nothing was captured.
    with pytest.raises(GatewayUnavailable):
        await pay(gateway, f"{key}:2", token="tok_error_500__close_reset_x1")
    with pytest.raises(GatewayUnavailable):
        await gateway.close(key=f"{key}:2")
    assert await gateway.close(key=f"{key}:2") is None


async def test_faults_of_one_token_take_turns(gateway: SandboxGateway, server: Server, key: str) -> None:
    token = "tok_rate_limited_s7_x1__answer_lost_x1__refund_refused_x1"
    with pytest.raises(GatewayUnavailable) as limited:
        await pay(gateway, key, token=token)
    assert limited.value.retry_after == 7.0
    with pytest.raises(GatewayUnavailable):
        await pay(gateway, key, token=token)
    assert server.kinds(key) == ["charge"]
    charge = await pay(gateway, key, token=token)
    assert charge.id == server.entries(key)[0]["charge_id"]
    with pytest.raises(RefundRefused, match="refund_refused"):
        await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=2500)
    await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=2500)


async def test_decline_and_refusal_for_everyone(gateway: SandboxGateway, server: Server, key: str) -> None:
    charge = await pay(gateway, f"{key}:before")
    server.set_fault(operation="*", fault="declined", key_prefix=key).raise_for_status()
    server.set_fault(operation="refund", fault="refused", key_prefix=key).raise_for_status()
    with pytest.raises(PaymentDeclined):
        await pay(gateway, f"{key}:after")
    assert await pay(gateway, f"{key}:before") == charge, "a decline must not undo a capture"
    with pytest.raises(RefundRefused):
        await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=1)
    await pay(gateway, f"other-{key}")
    assert [fault["fired"] for fault in server.http.get("/faults").json()["faults"]] == [2, 1]
    assert server.http.delete("/faults").json() == {"cleared": 2}
    await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=1)


@pytest.mark.parametrize("source", ["token", "everyone"])
async def test_delayed_charge_loses_to_a_close_in_between(
    gateway: SandboxGateway, server: Server, key: str, source: str
) -> None:
    token = "tok_delayed_s0.3" if source == "token" else "tok_ok"
    if source == "everyone":
        server.set_fault(operation="charge", fault="delayed", seconds=0.3, key_prefix=key).raise_for_status()
    closed, left = f"{key}:closed", f"{key}:left"
    for each in (closed, left):
        with pytest.raises(GatewayUnavailable):
            await pay(gateway, each, token=token)
        assert await gateway.find(key=each) is None
    assert await gateway.close(key=closed) is None
    # Control, and the sign that the delayed requests have arrived by now: the other key is captured.
    await wait_until(lambda: server.kinds(left) == ["charge"])
    await asyncio.sleep(0.1)
    assert server.kinds(closed) == ["closed"]
    assert await gateway.find(key=closed) is None
    late = await gateway.close(key=left)
    assert late is not None
    assert late.amount_minor == 2500


async def test_delayed_charge_repeats_a_retry_that_overtook_it(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    with pytest.raises(GatewayUnavailable):
        await pay(gateway, key, token="tok_delayed_s0.2_x1")
    await pay(gateway, key, token="tok_delayed_s0.2_x1")
    await asyncio.sleep(0.4)
    assert server.kinds(key) == ["charge"]


async def test_delayed_refund_arrives_later(gateway: SandboxGateway, server: Server, key: str) -> None:
    charge = await pay(gateway, key, token="tok_refund_delayed_s0.1_x1")
    with pytest.raises(GatewayUnavailable):
        await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=2500)
    await wait_until(lambda: server.kinds(key) == ["charge", "refund"])


def test_token_grammar() -> None:
    assert parse_token("tok_ok") == ()
    rules = parse_token("tok_answer_lost_x1__refund_error_500_x2__close_hang_s1.5_x3__find_delayed")
    assert rules is not None
    assert [(rule.operation, rule.fault, rule.times) for rule in rules] == [
        ("charge", Fault("answer_lost", 0.0), 1),
        ("refund", Fault("error_500", 0.0), 2),
        ("close", Fault("hang", 1.5), 3),
        ("find", Fault("delayed", 2.0), None),
    ]
    for operation in OPERATIONS:
        for fault, allowed in FAULTS.items():
            parsed = parse_token(f"tok_{operation}_{fault}")
            assert (parsed is not None) == (operation in allowed), (operation, fault)
    for unknown in ("", "tok_", "ok", "tok_ok_x1", "tok_reset_x0", "tok_reset_s1", "tok_hang_", "tok_ok__"):
        assert parse_token(unknown) is None, unknown


def test_rate_of_a_fault_follows_its_seed() -> None:
    def throw(seed: int, rate: float) -> list[bool]:
        board = FaultBoard()
        board.add_fault({"operation": "find", "fault": "reset", "rate": rate, "seed": seed})
        return [board.take_fault("find", "k") is not None for _ in range(200)]

    assert throw(1, 0.5) == throw(1, 0.5) != throw(2, 0.5)
    assert 60 < sum(throw(1, 0.5)) < 140
    assert (sum(throw(1, 0)), sum(throw(1, 1))) == (0, 200)


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"operation": "pay", "fault": "reset"}, "operation must be"),
        ({"operation": "charge", "fault": "fire"}, "fault must be"),
        ({"operation": "refund", "fault": "decline"}, "does not apply"),
        ({"operation": "*", "fault": "reset", "rate": 2}, "rate must be"),
        ({"operation": "*", "fault": "reset", "times": 0}, "times must be"),
        ({"operation": "*", "fault": "reset", "seconds": 1}, "seconds means something only for"),
        ({"operation": "*", "fault": "reset", "prefix": "order"}, "unknown field prefix"),
    ],
)
def test_malformed_fault_is_refused(server: Server, wish: dict[str, object], complaint: str) -> None:
    answer = server.set_fault(**wish)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]
    assert server.http.get("/faults").json() == {"faults": []}


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
    assert isinstance((await fail_to_find(url)).__cause__, httpx.ConnectError)


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
    env = {"SANDBOX_DECLINE_ABOVE": "5.00", "SANDBOX_LATENCY_MS": "200"}
    with run_server(tmp_path / "ledger.sqlite", env=env) as running:
        gateway = SandboxGateway(running.url)
        await gateway.find(key=key)
        started = time.monotonic()
        await gateway.find(key=key)
        assert time.monotonic() - started < 0.15
        started = time.monotonic()
        charge = await pay(gateway, key, amount_minor=500)
        assert time.monotonic() - started >= 0.2
        started = time.monotonic()
        await gateway.refund(key=key, charge_id=charge.id, amount_minor=500)
        assert time.monotonic() - started >= 0.2
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
