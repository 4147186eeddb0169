"""Faults and breakpoints inside the real database: triggers that fail a statement N times, or hold it."""

import asyncio
import os
import smtplib
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from typing import Any

import psycopg
from aiosmtpd.controller import Controller
from django.db import connection

FIRST_PAUSE = 7_000


def connect() -> "psycopg.Connection[tuple[object, ...]]":
    """A connection of its own to the test's database, outside Django's transactions."""
    options = connection.settings_dict
    return psycopg.connect(
        host=options["HOST"],
        port=options["PORT"],
        user=options["USER"],
        password=options["PASSWORD"],
        dbname=options["NAME"],
        autocommit=True,
    )


def _create_trigger(
    db: "psycopg.Connection[tuple[object, ...]]",
    name: str,
    table: str,
    event: str,
    when: str,
    body: str,
    *,
    timing: str = "BEFORE",
) -> None:
    db.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN {body} RETURN NEW; END $$"
    )
    db.execute(
        f"CREATE TRIGGER {name} {timing} {event} ON {table} FOR EACH ROW "
        f"WHEN ({when}) EXECUTE FUNCTION {name}()"
    )


def _drop_trigger(db: "psycopg.Connection[tuple[object, ...]]", name: str, table: str) -> None:
    db.execute(f"DROP TRIGGER {name} ON {table}")
    db.execute(f"DROP FUNCTION {name}()")


@contextmanager
def failing(table: str, event: str, *, when: str = "true", times: int) -> Iterator[None]:
    """The statement fails the first `times` times. A sequence counts: it is not rolled back."""
    with connect() as db:
        db.execute("CREATE SEQUENCE test_failures")
        _create_trigger(
            db,
            "test_fail",
            table,
            event,
            when,
            f"IF nextval('test_failures') <= {times} THEN RAISE EXCEPTION 'injected failure'; END IF;",
        )
        try:
            yield
        finally:
            _drop_trigger(db, "test_fail", table)
            db.execute("DROP SEQUENCE test_failures")


class Pause:
    """A held breakpoint. `is_reached` tells whether somebody waits at it; `release` lets everybody pass."""

    def __init__(self, db: "psycopg.Connection[tuple[object, ...]]", key: int) -> None:
        self.db = db
        self.key = key

    def is_reached(self) -> bool:
        return self.count_waiting() != 0

    def count_waiting(self) -> int:
        row = self.db.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [self.key],
        ).fetchone()
        assert row is not None
        return int(str(row[0]))

    def release(self) -> None:
        self.db.execute("SELECT pg_advisory_unlock_all()")

    def arm(self) -> None:
        """Hold the next one that comes, after a release."""
        self.db.execute("SELECT pg_advisory_lock(%s)", [self.key])


@contextmanager
def pausing(
    table: str, event: str, *, when: str = "true", key: int = FIRST_PAUSE, timing: str = "BEFORE"
) -> Iterator[Pause]:
    """The statement waits at a breakpoint, its rows locked, until it is released (or this block ends)."""
    name = f"test_pause_{key}"
    with connect() as db:
        db.execute("SELECT pg_advisory_lock(%s)", [key])
        hold = f"PERFORM pg_advisory_xact_lock_shared({key});"
        _create_trigger(db, name, table, event, when, hold, timing=timing)
        pause = Pause(db, key)
        try:
            yield pause
        finally:
            pause.release()
            _drop_trigger(db, name, table)


@contextmanager
def pausing_commit(table: str, *, key: int = FIRST_PAUSE + 1) -> Iterator[Pause]:
    """The COMMIT of a transaction that has inserted into the table waits at a breakpoint.

    Once it is released the database commits, whatever has become of the client that asked it to.
    """
    name = f"test_pause_{key}"
    with connect() as db:
        db.execute("SELECT pg_advisory_lock(%s)", [key])
        db.execute(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN PERFORM pg_advisory_xact_lock_shared({key}); RETURN NULL; END $$"
        )
        db.execute(
            f"CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {table} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
        pause = Pause(db, key)
        try:
            yield pause
        finally:
            pause.release()
            _drop_trigger(db, name, table)


def count_blocked(statement: str) -> int:
    """How many statements that contain this text wait for a lock in the test's database."""
    with connect() as db:
        row = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND query LIKE %s",
            [f"%{statement}%"],
        ).fetchone()
    assert row is not None
    return int(str(row[0]))


def is_blocked(statement: str) -> bool:
    """Whether any does."""
    return count_blocked(statement) != 0


@contextmanager
def silent_mail_server() -> Iterator[tuple[int, threading.Event, list[str]]]:
    """An SMTP server that takes no mail until its event is set; gives its port, the event and its mails."""
    received: list[str] = []
    may_answer = threading.Event()

    class Silent:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            await asyncio.to_thread(may_answer.wait, 60)
            received.append(str(envelope.rcpt_tos))
            return "250 OK"

    with serving(Silent()) as port:
        try:
            yield port, may_answer, received
        finally:
            may_answer.set()


@contextmanager
def refusing_mail_server() -> Iterator[int]:
    """An SMTP server that knows no recipient; gives its port."""

    class Refusing:
        async def handle_RCPT(self, server: Any, session: Any, envelope: Any, *arguments: Any) -> str:
            return "550 No such mailbox"

    with serving(Refusing()) as port:
        yield port


@contextmanager
def unwilling_mail_server() -> Iterator[int]:
    """An SMTP server that refuses every mail once it has seen it; gives its port."""

    class Unwilling:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            return "554 Transaction failed"

    with serving(Unwilling()) as port:
        yield port


class MailServer(Controller):
    """aiosmtpd's, that closes what is connected, or just connecting, when it is stopped: clients go on."""

    def __init__(self, handler: object, port: int) -> None:
        super().__init__(handler, hostname="127.0.0.1", port=port)
        self.sessions: weakref.WeakSet[Any] = weakref.WeakSet()

    def factory(self) -> Any:
        session: Any = super().factory()  # type: ignore[no-untyped-call]
        self.sessions.add(session)
        return session

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        self.closing = self.loop.create_task(self.close())

    async def close(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        for listener in self.server.sockets:
            self.loop.remove_reader(listener.fileno())
        # A session's task ends with its connection, an accepting one with the session's beginning.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for session in self.sessions:
                if session.transport is not None:
                    session.transport.abort()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.loop.stop()


@contextmanager
def serving(handler: object) -> Iterator[int]:
    """An SMTP server with this handler on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = MailServer(handler, port)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


class Relay:
    """An SMTP server before the sink. The recipient's local part says what becomes of which mail:

    `lose-KIND-...`: the first of that kind is delivered and the connection cut before the answer.
    `delay-KIND-...`: delivered when `may_deliver` is set, whatever has become of the sender.
    `refuse-KIND-...`: not taken now.
    """

    def __init__(self) -> None:
        self.may_deliver = threading.Event()
        self.lost: set[str] = set()
        self.held: set[str] = set()
        self.delivered_late: set[str] = set()
        self.late: list[asyncio.Task[None]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message_id = str(message_from_bytes(envelope.content)["Message-ID"]).strip("<>")
        kind = "copy" if message_id.partition("@")[0].count(".") == 2 else message_id.partition(".")[0]
        to = envelope.rcpt_tos[0]
        if to.startswith(f"refuse-{kind}-"):
            return "451 Not now"
        if to.startswith(f"delay-{kind}-"):
            # A task of its own: the server's ends with the connection.
            self.late.append(asyncio.create_task(self.deliver_late(envelope)))
            self.held.add(to)
            await asyncio.shield(self.late[-1])
            return "250 OK"
        await asyncio.to_thread(self.deliver, envelope)
        if to.startswith(f"lose-{kind}-") and message_id not in self.lost:
            self.lost.add(message_id)
            server.transport.abort()
        return "250 OK"

    async def deliver_late(self, envelope: Any) -> None:
        await asyncio.to_thread(self.may_deliver.wait, 300)
        await asyncio.to_thread(self.deliver, envelope)
        self.delivered_late.update(envelope.rcpt_tos)

    def deliver(self, envelope: Any) -> None:
        with smtplib.SMTP(os.environ["EMAIL_HOST"], int(os.environ["EMAIL_PORT"]), timeout=20) as sink:
            sink.sendmail(envelope.mail_from, envelope.rcpt_tos, envelope.content)


@contextmanager
def relaying() -> Iterator[tuple[int, Relay]]:
    """A relay to the mail sink; gives its port."""
    relay = Relay()
    with serving(relay) as port:
        try:
            yield port, relay
        finally:
            relay.may_deliver.set()
