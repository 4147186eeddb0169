"""How workers hear of a message at the commit that wrote it, instead of at their next look at the outbox.

PostgreSQL tells every worker that listens (NOTIFY), in the message's own words. Each works out by itself
whose it is: the order's id, modulo how many listen. Where they disagree for a moment because one has come or
gone, two deliver, which is harmless, or nobody does, and a dispatcher finds it when its first lease is up.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection
from temporalio.client import Client

from config.temporal import DatabaseBusy, run_in_db
from orders.dispatch import deliver, note_deliveries
from orders.models import OUTBOX_CHANNEL, OutboxMessage

logger = logging.getLogger("orders.listening")

# The class of the shared advisory locks that workers hold while they listen, one for each connection.
LISTENERS = 5_276_103
# Seconds after which the listeners are counted anew (one that died leaves no word), and for how long what was
# delivered waits to be noted together.
COUNT_EVERY = 1.0

_ENTER = "SELECT pg_advisory_lock_shared(%s, pg_backend_pid())"
_LEAVE = "SELECT pg_advisory_unlock_shared(%s, pg_backend_pid())"
# Without a message it says that a listener has come or gone.
_CALL = "SELECT pg_notify(%s, '')"
_LIST = """
    SELECT objid FROM pg_locks
    WHERE locktype = 'advisory' AND classid = %s AND objsubid = 2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY objid
"""


class Listener:
    """One worker's ear, over a connection of its own. `turns` limit what its process delivers at once."""

    def __init__(
        self, client: Client, connection: psycopg.AsyncConnection[Any], turns: asyncio.Semaphore
    ) -> None:
        self.client = client
        self.connection = connection
        self.turns = turns
        self.listeners: list[int] = []
        self.delivering: set[asyncio.Task[None]] = set()
        self.delivered: list[OutboxMessage] = []
        self.is_leaving = False

    async def listen(self) -> None:
        """Deliver what is this worker's until cancelled; what has begun then is seen through.

        Raises psycopg.Error when the connection breaks, DatabaseError or DatabaseBusy when what was
        delivered cannot be noted.
        """
        await self.connection.execute(f"LISTEN {OUTBOX_CHANNEL}")
        await self.connection.execute(_ENTER, [LISTENERS])
        await self.connection.execute(_CALL, [OUTBOX_CHANNEL])
        try:
            while True:
                found = await self.connection.execute(_LIST, [LISTENERS])
                self.listeners = [pid for (pid,) in await found.fetchall()]
                await self.hear()
                await self.note()
        finally:
            self.is_leaving = True
            with suppress(psycopg.Error):  # broken, and left by that
                await self.connection.execute(_LEAVE, [LISTENERS])
                await self.connection.execute(_CALL, [OUTBOX_CHANNEL])
            await asyncio.gather(*self.delivering)
            await self.note()

    async def hear(self) -> None:
        """Take what comes within COUNT_EVERY seconds, or until a listener comes or goes."""
        until = time.monotonic() + COUNT_EVERY
        is_called = False
        while not is_called and (rest := until - time.monotonic()) > 0:
            # To the end of what came together: what is left in the generator would be lost.
            async for notice in self.connection.notifies(timeout=rest, stop_after=1):
                if notice.payload:
                    self.take(notice.payload)
                else:
                    is_called = True

    def take(self, payload: str) -> None:
        """Begin to deliver this message if it is this worker's."""
        told: dict[str, Any] = json.loads(payload)
        if self.is_mine(UUID(told["order_id"])):
            delivery = asyncio.create_task(self.deliver(OutboxMessage(**told)))
            self.delivering.add(delivery)
            delivery.add_done_callback(self.delivering.discard)

    def is_mine(self, order_id: UUID) -> bool:
        """Whether this worker delivers what concerns the order: all of it, so that a start comes first."""
        turn = order_id.int % len(self.listeners)
        return self.listeners[turn] == self.connection.info.backend_pid

    async def deliver(self, message: OutboxMessage) -> None:
        """Deliver it in its turn. One whose turn comes too late belongs to the dispatchers by then."""
        lease_ends = time.monotonic() + settings.OUTBOX_FIRST_LEASE
        try:
            async with self.turns:
                if self.is_leaving or time.monotonic() > lease_ends:
                    return
                is_told = await deliver(self.client, message)
        except (DatabaseError, DatabaseBusy) as error:
            logger.warning("could not deliver %s; a dispatcher will: %s", message, error)
            return
        if is_told:
            self.delivered.append(message)

    async def note(self) -> None:
        """Note what was delivered since the last time. What a crash forgets is delivered again."""
        delivered, self.delivered = self.delivered, []
        if delivered:
            await run_in_db(note_deliveries, messages=delivered)


@asynccontextmanager
async def connect() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of its own to Django's database, in autocommit."""
    parameters = connection.get_connection_params()
    for of_django in ("cursor_factory", "context"):
        parameters.pop(of_django, None)
    async with await psycopg.AsyncConnection.connect(**parameters, autocommit=True) as opened:
        yield opened


async def run_listener(client: Client, turns: asyncio.Semaphore) -> None:
    """Listen until cancelled. While the database is away it is tried again, as by the dispatcher."""
    while settings.OUTBOX_FAST_PATH:
        try:
            async with connect() as opened:
                await Listener(client, opened, turns).listen()
        except (psycopg.Error, DatabaseError, DatabaseBusy) as error:
            logger.warning("cannot listen for messages: %s", error)
            await asyncio.sleep(settings.OUTBOX_POLL_INTERVAL)
