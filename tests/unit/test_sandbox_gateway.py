"""The sandbox gateway: charges, refunds and closed keys, with its ledger as the witness."""

import asyncio
from typing import Any

import pytest

from payments.gateways.protocol import (
    Charge,
    ChargeClosed,
    GatewayMisuse,
    PaymentDeclined,
    RefundRefused,
)
from payments.gateways.sandbox import SandboxGateway
from tests.gateway import Server, ask, pay


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
