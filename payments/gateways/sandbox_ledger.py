"""The sandbox gateway's ledger: an append-only SQLite file that decides every charge, refund and closed key.

One "charge" entry is one capture of money: the file's own unique indexes allow no second one for a key, and
none for a closed key. Written with synchronous=NORMAL: kill -9 loses nothing, only a power cut could.
"""

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The indexes are the guards: the code below reads first only to give the right answer.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('charge', 'declined', 'refund', 'closed')),
    key TEXT NOT NULL,
    amount_minor INTEGER CHECK (amount_minor > 0),
    currency TEXT,
    charge_id TEXT,
    refund_id TEXT,
    token TEXT,
    code TEXT,
    message TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS one_outcome_per_charge_key ON entries (key)
    WHERE kind IN ('charge', 'declined');
CREATE UNIQUE INDEX IF NOT EXISTS never_both_captured_and_closed ON entries (key)
    WHERE kind IN ('charge', 'closed');
CREATE UNIQUE INDEX IF NOT EXISTS one_refund_per_key ON entries (key) WHERE kind = 'refund';
CREATE UNIQUE INDEX IF NOT EXISTS one_charge_per_id ON entries (charge_id) WHERE kind = 'charge';
CREATE INDEX IF NOT EXISTS refunds_of_a_charge ON entries (charge_id) WHERE kind = 'refund';
CREATE TRIGGER IF NOT EXISTS entries_never_change BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_go BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- Not money, only the fault switches' memory: the token first seen with a key, and `_x<N>` turns taken.
CREATE TABLE IF NOT EXISTS tokens (key TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (
    key TEXT, operation TEXT, rule TEXT, used INTEGER NOT NULL, PRIMARY KEY (key, operation, rule)
) WITHOUT ROWID;
COMMIT;
"""

_COLUMNS = "seq, at, kind, key, amount_minor, currency, charge_id, refund_id, token, code, message"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway says: an HTTP status, a JSON object and, when to wait is part of it, Retry-After."""

    status: int
    body: dict[str, object]
    retry_after: float | None = None

    @classmethod
    def of_error(cls, status: int, code: str, message: str, *, retry_after: float | None = None) -> "Answer":
        """Return an error answer: {"error": {"code", "message"}}."""
        return cls(status, {"error": {"code": code, "message": message}}, retry_after)


class Ledger:
    """The ledger file at `path` (created if missing). Safe to use from many threads.

    One connection behind one lock: SQLite has one writer anyway, and waiting in line is fair and cheap.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Finish the transaction in hand and close the file for good.

        The lock is kept: a request still running waits for the process to end instead of failing on a closed
        file, so its client sees a lost connection and asks again.
        """
        self._lock.acquire()
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # IMMEDIATE: what is read inside is still true when it is written, even beside a second process.
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk, for one, has already rolled it back
                    self._db.execute("ROLLBACK")
                raise

    def charge(
        self, *, key: str, amount_minor: int, currency: str, token: str, decline: tuple[str, str] | None
    ) -> Answer:
        """Capture, or record the decline (code, message), once per key; a repeat gets the stored answer.

        200 with the charge, 402 declined, 410 the key is closed, 422 the key was used with other parameters.
        """
        with self._transaction() as db:
            stored = _select_one(db, "kind IN ('charge', 'declined') AND key = ?", key)
            if stored is None:
                if _select_one(db, "kind IN ('charge', 'closed') AND key = ?", key) is not None:
                    return Answer.of_error(
                        410, "charge_closed", "This key is closed: nothing can be charged."
                    )
                code, message = decline or (None, None)
                _append(
                    db,
                    kind="declined" if decline else "charge",
                    key=key,
                    amount_minor=amount_minor,
                    currency=currency,
                    token=token,
                    charge_id=None if decline else f"ch_{uuid.uuid4().hex}",
                    code=code,
                    message=message,
                )
                stored = _select_one(db, "kind IN ('charge', 'declined') AND key = ?", key)
                assert stored is not None  # noqa: S101 - written one line above, in this transaction
        if (stored["amount_minor"], stored["currency"], stored["token"]) != (amount_minor, currency, token):
            return _key_reused()
        if stored["kind"] == "declined":
            return Answer.of_error(402, stored["code"], stored["message"])
        return Answer(200, {"charge": _describe_charge(stored, refunded_minor=0)})

    def find_charge(self, key: str) -> Answer:
        """Answer 200 with the captured charge as it is now, or with null."""
        with self._transaction() as db:
            return Answer(200, {"charge": _find_charge(db, key)})

    def close_key(self, key: str) -> Answer:
        """Answer 200 with the captured charge, or with null after writing the tombstone: one transaction."""
        with self._transaction() as db:
            charge = _find_charge(db, key)
            if charge is None and _select_one(db, "kind IN ('charge', 'closed') AND key = ?", key) is None:
                _append(db, kind="closed", key=key)
            return Answer(200, {"charge": charge})

    def refund(self, *, key: str, charge_id: str, amount_minor: int) -> Answer:
        """Give money of a charge back once per key, never more than is left.

        200 with the refund, 409 refused (too much, or no such charge), 422 the key had other parameters.
        """
        with self._transaction() as db:
            stored = _select_one(db, "kind = 'refund' AND key = ?", key)
            if stored is None:
                charge = _select_one(db, "kind = 'charge' AND charge_id = ?", charge_id)
                if charge is None:
                    return Answer.of_error(409, "no_such_charge", f"There is no charge {charge_id}.")
                left = charge["amount_minor"] - _sum_refunds(db, charge_id)
                if amount_minor > left:
                    message = f"Only {left} of {charge['amount_minor']} (minor units) is left to refund."
                    return Answer.of_error(409, "refund_exceeds_charge", message)
                _append(
                    db,
                    kind="refund",
                    key=key,
                    amount_minor=amount_minor,
                    currency=charge["currency"],
                    token=charge["token"],
                    charge_id=charge_id,
                    refund_id=f"re_{uuid.uuid4().hex}",
                )
                stored = _select_one(db, "kind = 'refund' AND key = ?", key)
                assert stored is not None  # noqa: S101 - written one line above, in this transaction
        if (stored["charge_id"], stored["amount_minor"]) != (charge_id, amount_minor):
            return _key_reused()
        names = {"id": "refund_id", "key": "key", "charge_id": "charge_id", "amount_minor": "amount_minor"}
        return Answer(200, {"refund": {name: stored[column] for name, column in names.items()}})

    def list_entries(
        self, key_prefix: str = "", *, after: int = 0, limit: int = -1
    ) -> list[dict[str, object]]:
        """Return the entries whose key starts with `key_prefix`, oldest first.

        `after` and `limit` read page by page: only entries with a higher `seq`,
            and so many at most (-1: all).
        """
        with self._transaction() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM entries WHERE seq > ?2 AND substr(key, 1, length(?1)) = ?1"  # noqa: S608
                " ORDER BY seq LIMIT ?3",
                (key_prefix, after, limit),
            ).fetchall()
        return [dict(row) for row in rows]

    def remember_token(self, key: str, token: str) -> None:
        """Keep the first token seen with a charge key, whatever becomes of the charge."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO tokens (key, token) VALUES (?, ?)", (key, token))

    def find_token_of_key(self, key: str) -> str | None:
        """Return the token first seen with a charge key, or None."""
        with self._transaction() as db:
            row = db.execute("SELECT token FROM tokens WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row["token"])

    def find_token_of_charge(self, charge_id: str) -> str | None:
        """Return the token a charge was made with, or None."""
        with self._transaction() as db:
            row = _select_one(db, "kind = 'charge' AND charge_id = ?", charge_id)
            return None if row is None else str(row["token"])

    def take_turn(self, *, key: str, operation: str, rule: str, times: int) -> bool:
        """Count one use of a token's rule under a key; False once it has been used `times` times."""
        with self._transaction() as db:
            counted = db.execute(
                "INSERT INTO turns (key, operation, rule, used) VALUES (?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET used = used + 1 WHERE used < ?",
                (key, operation, rule, times),
            )
            return counted.rowcount == 1


def _select_one(db: sqlite3.Connection, condition: str, value: str) -> sqlite3.Row | None:
    """Return the entry that matches; `condition` is always a literal from this module."""
    row: sqlite3.Row | None = db.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE {condition}",  # noqa: S608
        (value,),
    ).fetchone()
    return row


def _append(db: sqlite3.Connection, **columns: Any) -> None:
    columns["at"] = datetime.now(UTC).isoformat(timespec="microseconds")
    names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
    db.execute(f"INSERT INTO entries ({names}) VALUES ({marks})", tuple(columns.values()))  # noqa: S608


def _sum_refunds(db: sqlite3.Connection, charge_id: str) -> int:
    row = db.execute(
        "SELECT coalesce(sum(amount_minor), 0) FROM entries WHERE kind = 'refund' AND charge_id = ?",
        (charge_id,),
    ).fetchone()
    return int(row[0])


def _find_charge(db: sqlite3.Connection, key: str) -> dict[str, object] | None:
    row = _select_one(db, "kind = 'charge' AND kind IN ('charge', 'closed') AND key = ?", key)
    if row is None:
        return None
    return _describe_charge(row, refunded_minor=_sum_refunds(db, row["charge_id"]))


def _describe_charge(row: sqlite3.Row, *, refunded_minor: int) -> dict[str, object]:
    return {
        "id": row["charge_id"],
        "key": row["key"],
        "amount_minor": row["amount_minor"],
        "currency": row["currency"],
        "refunded_minor": refunded_minor,
    }


def _key_reused() -> Answer:
    return Answer.of_error(422, "key_reused", "This key was used before with other parameters.")
