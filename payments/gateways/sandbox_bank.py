"""What the sandbox gateway does with a request: acts out the fault it meets, or applies it to the ledger.

No HTTP here, and no Django anywhere: standard library only.
"""

import threading
import time
from dataclasses import dataclass
from decimal import Decimal

from payments.gateways.sandbox_faults import Fault, FaultBoard, parse_token
from payments.gateways.sandbox_ledger import Answer, Ledger


@dataclass(frozen=True, slots=True)
class Request:
    """One well-formed call of an operation; fields an operation does not have are empty."""

    operation: str
    key: str
    amount_minor: int = 0
    currency: str = ""
    token: str = ""
    charge_id: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer: hold the connection for `hold_seconds` (or until the client gives up), then reset it."""

    hold_seconds: float = 0.0


class Bank:
    """Decides which fault a request meets, and applies requests to the ledger.

    `decline_above_minor` and `latency_seconds` (charges and refunds) are the bank's behaviour.
    """

    def __init__(self, ledger: Ledger, *, decline_above_minor: int, latency_seconds: float) -> None:
        self.ledger = ledger
        self.faults = FaultBoard()
        self._decline_above_minor = decline_above_minor
        self._latency_seconds = latency_seconds

    def answer(self, request: Request) -> Answer | Silence:
        """Act out the fault the request meets, if any, and return the answer or the lack of one."""
        fault = self._take_fault(request)
        if self._latency_seconds and request.operation in ("charge", "refund"):
            time.sleep(self._latency_seconds)
        if delay := self.faults.take_delay(request.operation, request.key):
            time.sleep(delay)
        match fault:
            case None:
                return self.apply(request)
            case Fault(name="decline"):
                return self.apply(request, decline=("card_declined", "The card was declined."))
            case Fault(name="refused"):
                return Answer.of_error(409, "refund_refused", "The bank refuses this refund.")
            case Fault(name="error_500"):
                return Answer.of_error(500, "internal_error", "The gateway failed.")
            case Fault(name="rate_limited", seconds=seconds):
                return Answer.of_error(429, "rate_limited", "Too many requests.", retry_after=seconds)
            case Fault(name="hang", seconds=seconds):
                return Silence(hold_seconds=seconds)
            case Fault(name="reset"):
                return Silence()
            case Fault(name="answer_lost", seconds=seconds):
                self.apply(request)
                return Silence(hold_seconds=seconds)
            case Fault(name="delayed", seconds=seconds):
                self._apply_later(request, seconds)
                return Silence()
            case Fault(name="slow", seconds=seconds):
                time.sleep(seconds)
                return self.apply(request)
        raise AssertionError(f"no such fault: {fault}")

    def apply(self, request: Request, *, decline: tuple[str, str] | None = None) -> Answer:
        """Apply a request to the ledger: the one path for prompt, lost and delayed requests alike."""
        match request.operation:
            case "charge":
                return self.ledger.charge(
                    key=request.key,
                    amount_minor=request.amount_minor,
                    currency=request.currency,
                    token=request.token,
                    decline=decline or self._find_decline(request),
                )
            case "refund":
                return self.ledger.refund(
                    key=request.key, charge_id=request.charge_id, amount_minor=request.amount_minor
                )
            case "close":
                return self.ledger.close_key(request.key)
            case "find":
                return self.ledger.find_charge(request.key)
        raise AssertionError(f"no such operation: {request.operation}")

    def _find_decline(self, request: Request) -> tuple[str, str] | None:
        if parse_token(request.token) is None:
            return ("invalid_token", "The payment token is not valid.")
        if request.amount_minor > self._decline_above_minor:
            limit = Decimal(self._decline_above_minor).scaleb(-2)
            return ("amount_above_limit", f"The card was declined: the amount is above {limit:.2f}.")
        return None

    def _take_fault(self, request: Request) -> Fault | None:
        """Return the fault this request meets: its token's first, then those set for everyone."""
        token: str | None = request.token
        if request.operation == "charge":
            self.ledger.remember_token(request.key, request.token)
        elif request.operation == "refund":
            token = self.ledger.find_token_of_charge(request.charge_id)
        else:
            token = self.ledger.find_token_of_key(request.key)
        for rule in parse_token(token or "") or ():
            if rule.operation == request.operation and (
                rule.times is None
                or self.ledger.take_turn(
                    key=request.key, operation=rule.operation, rule=rule.text, times=rule.times
                )
            ):
                return rule.fault
        return self.faults.take_fault(request.operation, request.key)

    def _apply_later(self, request: Request, seconds: float) -> None:
        # Only in memory: like a packet in the network, it is gone when the process is.
        timer = threading.Timer(seconds, self.apply, args=(request,))
        timer.daemon = True
        timer.start()
