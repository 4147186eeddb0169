"""The sandbox gateway's fault switches, by token and for everyone."""

import asyncio

import aiohttp
import pytest

from payments.gateways.protocol import (
    GatewayUnavailable,
    PaymentDeclined,
    RefundRefused,
)
from payments.gateways.sandbox import SandboxGateway
from payments.gateways.sandbox_faults import FAULTS, OPERATIONS, Fault, FaultBoard, parse_token
from tests.gateway import NO_EFFECT, Server, ask, pay, wait_until


@pytest.mark.parametrize("source", ["token", "everyone"])
@pytest.mark.parametrize("fault", [*NO_EFFECT, "answer_lost"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_fault_strikes_once_and_then_the_request_succeeds(
    gateway: SandboxGateway, hasty: SandboxGateway, server: Server, key: str,
    operation: str, fault: str, source: str,
) -> None:  # fmt: skip
    # A read whose connection breaks is sent once more within the call.
    times = 2 if operation == "find" and fault in ("reset", "answer_lost") else 1
    token = f"tok_{operation}_{fault}_x{times}" if source == "token" else "tok_ok"
    charge = None if operation == "charge" else await pay(gateway, key, token=token)
    before = server.kinds(key)
    if source == "everyone":
        server.set_fault(operation=operation, fault=fault, times=times, key_prefix=key).raise_for_status()
    effect = [operation] if operation in ("charge", "refund") else []

    with pytest.raises(GatewayUnavailable) as struck:
        await ask(hasty if fault == "hang" else gateway, operation, key, charge, token)
    assert server.kinds(key) == before + (effect if fault == "answer_lost" else [])
    assert struck.value.retry_after == (1.0 if fault == "rate_limited" else None)
    if fault in ("reset", "answer_lost"):
        assert isinstance(struck.value.__cause__, aiohttp.ClientOSError), "not a TCP reset"
    if fault == "hang":
        assert isinstance(struck.value.__cause__, TimeoutError)

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


async def test_slow_gateway_answers_later_what_it_would_have_answered(
    gateway: SandboxGateway, server: Server, key: str
) -> None:
    slow = server.set_fault(operation="*", fault="slow", seconds=0.2, key_prefix=key).json()["fault"]
    other = server.set_fault(operation="find", fault="reset", key_prefix=f"{key}:other").json()["fault"]
    began = asyncio.get_running_loop().time()
    await pay(gateway, key)
    with pytest.raises(PaymentDeclined):  # a token's own fault is met as well
        await pay(gateway, f"{key}:2", token="tok_declined")
    await pay(gateway, f"{key}:3", token="tok_slow_s0.2")
    assert asyncio.get_running_loop().time() - began >= 0.8
    assert server.kinds(key) == ["charge", "declined", "charge"]
    assert [one["fired"] for one in server.http.get("/faults").json()["faults"]] == [3, 0]

    assert server.http.delete("/faults", params={"id": slow["id"]}).json() == {"cleared": 1}
    assert [one["id"] for one in server.http.get("/faults").json()["faults"]] == [other["id"]]


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
