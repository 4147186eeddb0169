"""The payment gateway as the rest of the code sees it: four idempotent calls, its ledger, and its errors.

Amounts are integer minor units (cents). Currencies are ISO 4217 codes: any case in, upper case out.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Charge:
    """Money captured at the gateway under `key`; `refunded_minor` of `amount_minor` has gone back."""

    id: str
    key: str
    amount_minor: int
    currency: str
    refunded_minor: int


@dataclass(frozen=True, slots=True)
class Refund:
    """`amount_minor` of the charge `charge_id`, given back under the refund's own `key`."""

    id: str
    key: str
    charge_id: str
    amount_minor: int


class LineKind(StrEnum):
    """What a line of a gateway's ledger says of its key."""

    CHARGE = "charge"
    DECLINED = "declined"
    REFUND = "refund"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the gateway's own ledger; `position` orders the lines. Fields that a kind has not are "
    "empty."""

    position: int
    at: datetime
    kind: LineKind
    key: str
    amount_minor: int = 0
    currency: str = ""
    charge_id: str = ""
    refund_id: str = ""


class GatewayUnavailable(Exception):
    """No verdict: an outage, a timeout, a 5xx or a 429. Whether it took effect is unknown: ask again.

    `retry_after` is the wait in seconds the gateway asked for, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class PaymentDeclined(Exception):
    """The charge was refused for good. `code` is for programs, `message` for the customer and staff."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class ChargeClosed(Exception):
    """The key was closed: no charge can succeed under it any more."""


class RefundRefused(Exception):
    """The gateway refuses the refund for good: a person must look."""


class GatewayMisuse(Exception):
    """Our own bug: a key used again with other parameters, or a malformed request. Permanent."""


class Gateway(Protocol):
    """What a payment gateway must do. Every call may raise GatewayUnavailable or GatewayMisuse."""

    async def charge(self, *, key: str, amount_minor: int, currency: str, token: str) -> Charge:
        """Capture `amount_minor` once per `key`, however often it is asked.

        The same key and parameters give the same answer for ever, a decline included; as that answer is the
        stored one, its `refunded_minor` is 0 (`find` and `close` report refunds).
        Raises PaymentDeclined, ChargeClosed after `close`, and GatewayMisuse for a key with other parameters.
        """
        ...

    async def find(self, *, key: str) -> Charge | None:
        """Return the charge captured under `key` as it is now, or None.

        None promises nothing: a request still in the network may capture later. Only `close` rules that out.
        """
        ...

    async def refund(self, *, key: str, charge_id: str, amount_minor: int) -> Refund:
        """Give `amount_minor` of a charge back, once per refund `key`.

        Raises RefundRefused when more would go back than was captured, the charge is unknown, or the gateway
        says no for good; GatewayMisuse for a key with other parameters.
        """
        ...

    async def close(self, *, key: str) -> Charge | None:
        """Return the charge captured under `key` as it is now, or None after shutting the key for good.

        After None no charge request under the key can capture, not even one already in the network.
        Idempotent.
        """
        ...

    async def list_lines(self, *, key_prefix: str, after: int, limit: int) -> list[LedgerLine]:
        """Up to `limit` lines of the gateway's ledger that come after position `after`, in their order.

        For whoever compares the books: fewer than `limit` means that there are no more.
        """
        ...

    async def aclose(self) -> None:
        """Release the connections of the running event loop."""
        ...
