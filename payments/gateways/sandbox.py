"""The client of the sandbox gateway: the `Gateway` protocol over HTTP, one attempt per call.

Retrying is the saga's business; what this owns is telling "no verdict" apart from a verdict. (aiohttp sends a
GET, which changes nothing, once more when its connection breaks.)
"""

import asyncio
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import aiohttp

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

# Connections to the gateway, and seconds for which an idle one is kept.
_CONNECTIONS = 200
_KEPT_FOR = 30.0


class SandboxGateway:
    """A `Gateway` that talks to `python -m payments.gateways.sandbox_server` at `base_url`.

    `timeout` is in seconds and covers a whole call, connecting included. May be shared by several event
    loops: each has its own connections, which `aclose`, awaited on that loop, releases.
    """

    def __init__(self, base_url: str, *, timeout: float = 10.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout
        # A connection belongs to the event loop it was opened on.
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def charge(self, *, key: str, amount_minor: int, currency: str, token: str) -> Charge:
        """Capture `amount_minor` once per `key`; see `Gateway.charge` for answers and errors."""
        body = {"amount_minor": amount_minor, "currency": currency, "token": token}
        return _read_charge(await self._call("POST", "/charges", key=key, body=body))

    async def find(self, *, key: str) -> Charge | None:
        """Return the charge captured under `key`, or None; see `Gateway.find`."""
        return _read_charge_or_none(await self._call("GET", "/charges", key=key, params={"key": key}))

    async def refund(self, *, key: str, charge_id: str, amount_minor: int) -> Refund:
        """Give `amount_minor` of `charge_id` back once per `key`; see `Gateway.refund`."""
        body = {"charge_id": charge_id, "amount_minor": amount_minor}
        answer = await self._call("POST", "/refunds", key=key, body=body)
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
        return _read_charge_or_none(await self._call("POST", "/close", key=key, body={}))

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
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for finished in [other for other in list(self._sessions) if other.is_closed()]:
                self._sessions.pop(finished).detach()
            # No cookies: a call depends on nothing but its key. No limit of aiohttp's, which is rounded up to
            # whole seconds: `_call` puts one around the whole exchange.
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_KEPT_FOR),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
            self._sessions[loop] = session
        return session

    async def _call(
        self,
        method: str,
        path: str,
        *,
        key: str,
        body: dict[str, object] | None = None,
        params: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request under `key` and return the JSON object of a 200, or raise what else it means."""
        # A header cannot carry every string, and a bad one would be reported as if it were an outage.
        if not (key.isascii() and key.isprintable() and " " not in key and 1 <= len(key) <= 255):
            raise GatewayMisuse(f"Not an idempotency key (1-255 printable ASCII, no spaces): {key!r}")
        headers = {"Idempotency-Key": key}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            try:
                content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError) as exc:
                raise GatewayMisuse(f"The request cannot be written as JSON: {exc}") from exc
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session().request(
                    method,
                    f"{self._base_url}{path}",
                    headers=headers,
                    params=params,
                    data=content,
                    allow_redirects=False,
                ) as response,
            ):
                answer = _read_object(await response.read())
        except TimeoutError as exc:
            raise GatewayUnavailable(f"The gateway did not answer within {self._timeout:g} s.") from exc
        except aiohttp.ClientError as exc:
            reason = str(exc) or type(exc).__name__
            raise GatewayUnavailable(f"The gateway could not be asked: {reason}") from exc
        if response.status == 200 and answer is not None:
            return answer
        _raise_refusal(response, answer)


def _raise_refusal(response: aiohttp.ClientResponse, answer: Mapping[str, Any] | None) -> NoReturn:
    """Raise what a response other than a readable 200 means."""
    status = response.status
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


def _read_object(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a response, or None if there is none."""
    try:
        answer = json.loads(content)
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
