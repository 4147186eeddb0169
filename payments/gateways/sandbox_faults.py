"""The sandbox gateway's fault switches: what a payment token asks for, and the faults set for everyone.

Token grammar, parsed only by `parse_token`:

    token     = "tok_" rule ("__" rule)*
    rule      = "ok" | [operation "_"] fault ("_x" N | "_s" SECONDS)*
    operation = "charge" | "refund" | "close" | "find"             without one: charge
    fault     = "decline" | "declined" (the same)                  charge only
              | "refused"                                          refund only
              | "error_500" | "rate_limited" | "hang" | "reset" | "answer_lost" | "delayed" | "slow"

`_x3`: only the first 3 requests of that operation under the same key (counted in the ledger file, so a
restart does not start over). `_s1.5`: seconds, for hang (how long it holds, default 30), answer_lost (how
long it holds after it has done as asked, default 0), delayed (when it arrives, default 2), slow (how much
later it answers as it would have, default 1) and rate_limited (Retry-After, default 1).
Rules for one operation take turns: the next begins when the one before is used up. Examples: tok_ok,
tok_declined, tok_ok__close_hang_s5_x1, tok_answer_lost_x1__refund_error_500_x2. Any other string is an
unknown token, which the gateway declines.
"""

import random
import re
import threading
from dataclasses import dataclass, field
from typing import Any

OPERATIONS = ("charge", "refund", "close", "find")
FAULTS: dict[str, tuple[str, ...]] = {  # fault -> the operations it makes sense for
    "decline": ("charge",),
    "refused": ("refund",),
    "error_500": OPERATIONS,
    "rate_limited": OPERATIONS,
    "hang": OPERATIONS,
    "reset": OPERATIONS,
    "answer_lost": OPERATIONS,
    "delayed": OPERATIONS,
    "slow": OPERATIONS,
}
DEFAULT_SECONDS = {"hang": 30.0, "answer_lost": 0.0, "delayed": 2.0, "slow": 1.0, "rate_limited": 1.0}
MAX_SECONDS = 3600.0

_RULE = re.compile(
    rf"(?:(?P<operation>{'|'.join(OPERATIONS)})_)?"
    rf"(?P<fault>declined|{'|'.join(FAULTS)})"
    r"(?:_x(?P<times>[1-9][0-9]{0,5})|_s(?P<seconds>[0-9]{1,4}(?:\.[0-9]{1,3})?))*"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to act out; `seconds` means something only to the faults in DEFAULT_SECONDS."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TokenRule:
    """A fault for one operation, for the first `times` requests under a key (None: for ever)."""

    operation: str
    fault: Fault
    times: int | None
    text: str


def parse_token(token: str) -> tuple[TokenRule, ...] | None:
    """Return the rules a token asks for, in order; () for one that simply pays, None for an unknown token."""
    if not token.startswith("tok_"):
        return None
    rules = []
    for text in token.removeprefix("tok_").split("__"):
        if text == "ok":
            continue
        match = _RULE.fullmatch(text)
        if match is None:
            return None
        operation = match["operation"] or "charge"
        name = "decline" if match["fault"] == "declined" else match["fault"]
        if operation not in FAULTS[name] or (match["seconds"] and name not in DEFAULT_SECONDS):
            return None
        seconds = float(match["seconds"]) if match["seconds"] else DEFAULT_SECONDS.get(name, 0.0)
        times = int(match["times"]) if match["times"] else None
        rules.append(TokenRule(operation, Fault(name, seconds), times, text))
    return tuple(rules)


@dataclass(slots=True)
class _GlobalFault:
    id: int
    operation: str
    fault: Fault
    times: int | None
    rate: float
    seed: int | None
    key_prefix: str
    chance: random.Random
    fired: int = field(default=0)

    def fires(self, operation: str, key: str) -> bool:
        if self.operation not in ("*", operation) or operation not in FAULTS[self.fault.name]:
            return False
        if not key.startswith(self.key_prefix) or (self.times is not None and self.fired >= self.times):
            return False
        if self.chance.random() >= self.rate:
            return False
        self.fired += 1
        return True

    def describe(self) -> dict[str, object]:
        return {
            "id": self.id,
            "operation": self.operation,
            "fault": self.fault.name,
            "times": self.times,
            "seconds": self.fault.seconds if self.fault.name in DEFAULT_SECONDS else None,
            "rate": self.rate,
            "seed": self.seed,
            "key_prefix": self.key_prefix or None,
            "fired": self.fired,
        }


class FaultBoard:
    """The faults set for everyone, in memory: a restart clears them. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[_GlobalFault] = []
        self._last_id = 0

    def add_fault(self, wish: dict[str, Any]) -> dict[str, object]:
        """Add the fault a POST /faults body describes and return it. Raises ValueError, saying why."""
        with self._lock:
            fault = _read_global_fault(wish, self._last_id + 1)
            self._last_id = fault.id
            self._faults.append(fault)
            return fault.describe()

    def list_faults(self) -> list[dict[str, object]]:
        """Return every fault set, with how often it has `fired`."""
        with self._lock:
            return [fault.describe() for fault in self._faults]

    def clear_faults(self, fault_id: int | None = None) -> int:
        """Remove every fault, or the one with that id, and return how many there were."""
        with self._lock:
            kept = [each for each in self._faults if fault_id not in (None, each.id)]
            count = len(self._faults) - len(kept)
            self._faults = kept
            return count

    def take_fault(self, operation: str, key: str) -> Fault | None:
        """Return the first fault, in the order they were added, that fires for this request, and count it.

        Not `slow`, which is no reason for the others to stay away: `take_delay` has it.
        """
        with self._lock:
            faults = (each for each in self._faults if each.fault.name != "slow")
            return next((each.fault for each in faults if each.fires(operation, key)), None)

    def take_delay(self, operation: str, key: str) -> float:
        """Return the seconds by which `slow` faults hold this request up, and count them."""
        with self._lock:
            slow = [each for each in self._faults if each.fault.name == "slow"]
            return sum(each.fault.seconds for each in slow if each.fires(operation, key))


def _read_global_fault(wish: dict[str, Any], fault_id: int) -> _GlobalFault:
    known = {"operation", "fault", "times", "seconds", "rate", "seed", "key_prefix"}
    if unknown := sorted(set(wish) - known):
        raise ValueError(f"unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    operation, name = wish.get("operation"), wish.get("fault")
    if operation != "*" and operation not in OPERATIONS:
        raise ValueError(f"operation must be * or one of {', '.join(OPERATIONS)}")
    if name == "declined":
        name = "decline"
    if name not in FAULTS:
        raise ValueError(f"fault must be one of {', '.join(FAULTS)}")
    if operation != "*" and operation not in FAULTS[name]:
        raise ValueError(f"fault {name} does not apply to {operation}")
    times = _read_number(wish, "times", None, low=1, high=1_000_000, whole=True)
    seconds = _read_number(wish, "seconds", None, low=0, high=MAX_SECONDS)
    if seconds is not None and name not in DEFAULT_SECONDS:
        raise ValueError(f"seconds means something only for {', '.join(DEFAULT_SECONDS)}")
    rate = _read_number(wish, "rate", 1.0, low=0, high=1)
    seed = _read_number(wish, "seed", None, low=-(2**63), high=2**63, whole=True)
    key_prefix = wish.get("key_prefix") or ""
    if not isinstance(key_prefix, str):
        raise ValueError("key_prefix must be text")
    return _GlobalFault(
        id=fault_id,
        operation=operation,
        fault=Fault(name, DEFAULT_SECONDS.get(name, 0.0) if seconds is None else float(seconds)),
        times=None if times is None else int(times),
        rate=1.0 if rate is None else float(rate),
        seed=None if seed is None else int(seed),
        key_prefix=key_prefix,
        chance=random.Random(seed),  # noqa: S311 - dice for faults, not for secrets
    )


def _read_number(
    wish: dict[str, Any], name: str, default: float | None, *, low: float, high: float, whole: bool = False
) -> float | None:
    value = wish.get(name)
    if value is None:
        return default
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number from {low} to {high}")
    return value  # type: ignore[no-any-return]  # narrowed just above, in a way mypy does not follow
