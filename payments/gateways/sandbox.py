"""The client of the sandbox gateway: the `Gateway` protocol over HTTP, one attempt per call.

Retrying is the saga's business; what this owns is telling "no verdict" apart from a verdict.
"""

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import httpx

from payments.gateways.protocol import (
    Charge,
    ChargeClosed,
    GatewayMisuse,
    GatewayUnavailable,
    LedgerLine,
    LineKind,
    PaymentDeclined,
    Refund,
    RefundRefused,
)

# Many at once, few kept: httpcore's pool walks its idle connections quadratically on every request
# (encode/httpcore#1035). With 200 kept, a second burst of 200 calls took 12 s, past its timeout; with 10,
# less than one.
_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=10, keepalive_expiry=30)


class SandboxGateway:
    """A `Gateway` that talks to `python -m payments.gateways.sandbox_server` at `base_url`.

    `timeout` is in seconds and covers a whole call, connecting included. May be shared by several event
    loops: each has its own connections, which `aclose`, awaited on that loop, releases.
    """

    def __init__(self, base_url: str, *, timeout: float = 10.0) -> None:
        self._base_url = base_url
        self._timeout = timeout
        # A connection belongs to the event loop it was opened on.
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    async def charge(self, *, key: str, amount_minor: int, currency: str, token: str) -> Charge:
        """Capture `amount_minor` once per `key`; see `Gateway.charge` for answers and errors."""
        body = {"amount_minor": amount_minor, "currency": currency, "token": token}
        return _read_charge(await self._call("POST", "/charges", key=key, json=body))

    async def find(self, *, key: str) -> Charge | None:
        """Return the charge captured under `key`, or None; see `Gateway.find`."""
        return _read_charge_or_none(await self._call("GET", "/charges", key=key, params={"key": key}))

    async def refund(self, *, key: str, charge_id: str, amount_minor: int) -> Refund:
        """Give `amount_minor` of `charge_id` back once per `key`; see `Gateway.refund`."""
        body = {"charge_id": charge_id, "amount_minor": amount_minor}
        answer = await self._call("POST", "/refunds", key=key, json=body)
        try:
            found = answer["refund"]
            return Refund(
                id=str(found["id"]),
                key=str(found["key"]),
                charge_id=str(found["charge_id"]),
                amount_minor=int(found["amount_minor"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise GatewayUnavailable("The gateway's answer to a refund could not be read.") from exc

    async def close(self, *, key: str) -> Charge | None:
        """Return the charge captured under `key`, or None after shutting it; see `Gateway.close`."""
        return _read_charge_or_none(await self._call("POST", "/close", key=key, json={}))

    async def list_lines(self, *, key_prefix: str, after: int, limit: int) -> list[LedgerLine]:
        """A page of the sandbox's ledger; see `Gateway.list_lines`."""
        params = {"key_prefix": key_prefix, "after": str(after), "limit": str(limit)}
        answer = await self._call("GET", "/ledger", key="ledger", params=params)
        try:
            return [_read_line(entry) for entry in answer["entries"]]
        except (KeyError, TypeError, ValueError) as exc:
            raise GatewayUnavailable("The gateway's ledger could not be read.") from exc

    async def aclose(self) -> None:
        """Close the running loop's connections. A later call simply opens new ones."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            for finished in [other for other in list(self._clients) if other.is_closed()]:
                self._clients.pop(finished, None)
            # httpx limits each phase and each read, so a dripping answer could still take for ever: `_call`
            # puts one limit around the whole exchange. No proxy from the environment on the way to a sandbox.
            client = httpx.AsyncClient(
                base_url=self._base_url,
                limits=_LIMITS,
                timeout=self._timeout,
                trust_env=False,
                # Loading the certificates takes 35 ms and plain HTTP has no use for them.
                verify=not self._base_url.startswith("http:"),
            )
            self._clients[loop] = client
        return client

    async def _call(
        self,
        method: str,
        path: str,
        *,
        key: str,
        json: dict[str, object] | None = None,
        params: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request under `key` and return the JSON object of a 200, or raise what else it means."""
        # A header cannot carry every string, and httpx would report a bad one as if it were an outage.
        if not (key.isascii() and key.isprintable() and " " not in key and 1 <= len(key) <= 255):
            raise GatewayMisuse(f"Not an idempotency key (1-255 printable ASCII, no spaces): {key!r}")
        client = self._client()
        try:
            request = client.build_request(
                method, path, headers={"Idempotency-Key": key}, json=json, params=params
            )
        except (TypeError, ValueError) as exc:
            raise GatewayMisuse(f"The request cannot be written as JSON: {exc}") from exc
        try:
            async with asyncio.timeout(self._timeout):
                response = await client.send(request)
        except TimeoutError as exc:
            raise GatewayUnavailable(f"The gateway did not answer within {self._timeout:g} s.") from exc
        except httpx.RequestError as exc:
            reason = str(exc) or type(exc).__name__
            raise GatewayUnavailable(f"The gateway could not be asked: {reason}") from exc
        answer = _read_object(response)
        if response.status_code == 200 and answer is not None:
            return answer
        _raise_refusal(response, answer)


def _raise_refusal(response: httpx.Response, answer: Mapping[str, Any] | None) -> NoReturn:
    """Raise what a response other than a readable 200 means."""
    status = response.status_code
    error = answer.get("error") if answer is not None else None
    # A 4xx without the gateway's own error object comes from something in between and is no verdict.
    if status in (408, 429) or not 400 <= status < 500 or not isinstance(error, dict):
        raise GatewayUnavailable(
            f"The gateway answered {status} without a verdict.",
            retry_after=_read_retry_after(response.headers.get("Retry-After")),
        )
    code, message = str(error.get("code")), str(error.get("message"))
    if status == 402:
        raise PaymentDeclined(code, message)
    if status == 410:
        raise ChargeClosed(message)
    if status == 409:
        raise RefundRefused(f"{message} ({code})")
    raise GatewayMisuse(f"{message} ({code})")


def _read_object(response: httpx.Response) -> dict[str, Any] | None:
    """Return the JSON object in a response, or None if there is none."""
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _read_charge(answer: Mapping[str, Any]) -> Charge:
    try:
        found = answer["charge"]
        return Charge(
            id=str(found["id"]),
            key=str(found["key"]),
            amount_minor=int(found["amount_minor"]),
            currency=str(found["currency"]),
            refunded_minor=int(found["refunded_minor"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise GatewayUnavailable("The gateway's answer about a charge could not be read.") from exc


def _read_line(entry: Mapping[str, Any]) -> LedgerLine:
    return LedgerLine(
        position=int(entry["seq"]),
        at=datetime.fromisoformat(entry["at"]),
        kind=LineKind(entry["kind"]),
        key=str(entry["key"]),
        amount_minor=int(entry["amount_minor"] or 0),
        currency=str(entry["currency"] or ""),
        charge_id=str(entry["charge_id"] or ""),
        refund_id=str(entry["refund_id"] or ""),
    )


def _read_charge_or_none(answer: Mapping[str, Any]) -> Charge | None:
    # An explicit null means "no charge"; a missing field is an answer that cannot be read.
    if "charge" in answer and answer["charge"] is None:
        return None
    return _read_charge(answer)


def _read_retry_after(value: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for; None if absent or not a number of seconds."""
    try:
        seconds = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
