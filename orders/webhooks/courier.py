"""The courier of each worker process: claims deliveries that are due, sends them, records what came of it.

Delivered at least once: whoever is killed between a receiver's answer and the record leaves a lease behind,
and when that has run out the delivery is sent again, under the same event id.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import Error, InterfaceError, OperationalError, transaction
from django.db.models import F, Q, Window
from django.db.models.functions import Now, RowNumber
from django.utils import timezone

from config.temporal import DatabaseBusy, run_in_db
from orders.models import DeliveryState, DisabledBy, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from orders.webhooks.registry import disable_endpoint
from orders.webhooks.selectors import read_clock
from orders.webhooks.sending import GONE, Outcome, Sender

logger = logging.getLogger("orders.webhooks")

# What one process has in hand at most: in all, of one client, and for one endpoint. A receiver that hangs
# takes no more than its own share.
MOST = 48
MOST_PER_CLIENT = 12
MOST_PER_ENDPOINT = 4
# How many rows are looked at to find what fits.
CANDIDATES = 200
# Seconds between attempts to record an outcome while the database is away.
RECORD_AGAIN_AFTER = 1.0
# What goes by itself; any other error of the database would come again.
OUTAGES = (OperationalError, InterfaceError, DatabaseBusy)
# A delivery whose outcome cannot be recorded ends after its time as any other, but is tried so often at
# least: its workers may just have been killed.
LAST_TRIES = 3
# For how long every attempt has failed when the endpoint is disabled.
BROKEN_AFTER = timedelta(days=7)


@dataclass(slots=True)
class Load:
    """What a process has in hand, by client and endpoint."""

    clients: "Counter[int]" = field(default_factory=Counter)
    endpoints: "Counter[UUID]" = field(default_factory=Counter)

    @property
    def is_full(self) -> bool:
        return self.clients.total() >= MOST

    def has_room(self, client_id: int, endpoint_id: UUID) -> bool:
        return (
            not self.is_full
            and self.clients[client_id] < MOST_PER_CLIENT
            and self.endpoints[endpoint_id] < MOST_PER_ENDPOINT
        )

    def add(self, client_id: int, endpoint_id: UUID) -> None:
        self.clients[client_id] += 1
        self.endpoints[endpoint_id] += 1


# --- what the database knows -------------------------------------------------------------------------------


def claim_due(*, load: Load) -> list[WebhookDelivery]:
    """Lease deliveries that are due, as many as there is room for beside the `load`. Locks their rows.

    Of each endpoint the first few are looked at, so that a long queue of one hides nobody else's. Rows
    another process is claiming are skipped. The lease outlasts an attempt, so that nobody else takes a
    delivery while it is being sent. The attempt counts from here on, and the next one is put off: also if
    this one's outcome is never recorded, the delivery is tried ever more rarely, and ends.
    """
    now = read_clock()
    if not WebhookDelivery.objects.is_due(now):
        return []
    due = Q(state=DeliveryState.WAITING, next_attempt_at__lte=now) & (
        Q(leased_until=None) | Q(leased_until__lte=now)
    )
    full_clients = [pk for pk, count in load.clients.items() if count >= MOST_PER_CLIENT]
    full_endpoints = [pk for pk, count in load.endpoints.items() if count >= MOST_PER_ENDPOINT]
    candidates = (
        WebhookDelivery.objects.filter(due)
        .exclude(endpoint__in=full_endpoints)
        .exclude(endpoint__client__in=full_clients)
        .annotate(place=Window(RowNumber(), partition_by="endpoint", order_by=["next_attempt_at", "pk"]))
        .filter(place__lte=MOST_PER_ENDPOINT)
        .order_by("place", "next_attempt_at", "pk")
        .values_list("pk", "endpoint__client", "endpoint")[:CANDIDATES]
    )
    room = Load(load.clients.copy(), load.endpoints.copy())
    chosen: list[int] = []
    for pk, client_id, endpoint_id in candidates:
        if room.has_room(client_id, endpoint_id):
            room.add(client_id, endpoint_id)
            chosen.append(pk)
    if not chosen:
        return []
    claimed = list(
        WebhookDelivery.objects.select_for_update(skip_locked=True, of=("self",), no_key=True)
        .select_related("endpoint__client")
        .filter(due, pk__in=chosen)
    )
    lost = [delivery for delivery in claimed if _is_given_up(delivery, now)]
    for delivery in lost:
        delivery.state, delivery.leased_until = DeliveryState.FAILED, None
        logger.error("delivery %d has failed: the outcomes of its attempts were never recorded", delivery.pk)
    taken = [delivery for delivery in claimed if delivery not in lost]
    for delivery in taken:
        delivery.leased_until = now + timedelta(seconds=settings.WEBHOOK_LEASE)
        delivery.next_attempt_at = now + timedelta(seconds=reckon_wait(delivery.attempts))
        delivery.attempts += 1
    WebhookDelivery.objects.bulk_update(claimed, ["state", "leased_until", "next_attempt_at", "attempts"])
    return taken


def _is_given_up(delivery: WebhookDelivery, now: datetime) -> bool:
    """Whether its time is over and nobody recorded what came of its last attempts."""
    return (
        delivery.leased_until is not None
        and delivery.attempts >= LAST_TRIES
        and now >= delivery.created_at + timedelta(seconds=settings.WEBHOOK_GIVE_UP_AFTER)
    )


@transaction.atomic
def record_outcome(
    *, delivery: WebhookDelivery, outcome: Outcome, at: datetime, ms: int, worker: str
) -> None:
    """Log the attempt and write what follows from it. Locks the endpoint's row first if that changes.

    A success counts whoever had the lease. A failure counts only for who still has it: somebody else may be
    at it by now, or the delivery may be withdrawn.
    """
    WebhookAttempt.objects.create(
        delivery=delivery, at=at, ms=ms, status=outcome.status, error=outcome.error, worker=worker
    )
    if outcome.is_gone:
        disable_endpoint(
            endpoint_id=delivery.endpoint_id,
            by=DisabledBy.RECEIVER,
            because=f"The receiver answered {GONE} (Gone): it wants no more.",
            keep=delivery,
        )
    mine = WebhookDelivery.objects.filter(pk=delivery.pk)
    now = read_clock()
    give_up_at = delivery.created_at + timedelta(seconds=settings.WEBHOOK_GIVE_UP_AFTER)
    note_health(delivery=delivery, is_well=outcome.is_delivered, is_over=now >= give_up_at, now=now)
    if outcome.is_delivered:
        mine.exclude(state=DeliveryState.DELIVERED).update(
            state=DeliveryState.DELIVERED, delivered_at=now, leased_until=None
        )
        return
    held = mine.filter(state=DeliveryState.WAITING, leased_until=delivery.leased_until)
    if outcome.is_gone or now >= give_up_at:
        held.update(state=DeliveryState.FAILED, leased_until=None)
    else:
        wait = timedelta(seconds=reckon_wait(delivery.attempts - 1))
        held.update(next_attempt_at=min(now + wait, give_up_at), leased_until=None)


def note_health(*, delivery: WebhookDelivery, is_well: bool, is_over: bool, now: datetime) -> None:
    """Note since when nothing arrives at the endpoint, and disable it when that is long ago and a delivery
    to it `is_over`. Locks its row if there is anything to note. While the client is switched off nothing is
    sent, which says nothing about its receiver.

    Not at any failure: of a receiver that is seldom told anything, the last one may be long ago, and this
    one may pass.
    """
    endpoint = WebhookEndpoint.objects.filter(pk=delivery.endpoint_id)
    if is_well:
        endpoint.exclude(failing_since=None).update(failing_since=None)
    elif delivery.endpoint.client.is_active:
        endpoint.filter(failing_since=None).update(failing_since=now)
        broken = endpoint.filter(failing_since__lte=now - BROKEN_AFTER).first() if is_over else None
        if broken is not None:
            since = f"{broken.failing_since:%Y-%m-%d %H:%M} UTC"
            disable_endpoint(
                endpoint_id=broken.pk,
                by=DisabledBy.RECEIVER,
                because=f"Every attempt to reach the receiver has failed since {since}.",
                keep=delivery,
            )


def reckon_wait(attempts: int) -> float:
    """Seconds until the next attempt after one that failed, and `attempts` before it: doubling up to
    WEBHOOK_RETRY_MAXIMUM, give or take a fifth, so that what failed together is not tried together."""
    wait = min(settings.WEBHOOK_RETRY_INITIAL * 2.0 ** min(attempts, 20), settings.WEBHOOK_RETRY_MAXIMUM)
    return wait * random.uniform(0.8, 1.2)  # noqa: S311 - nothing secret


def withdraw(*, delivery: WebhookDelivery) -> None:
    """Withdraw what was published while its endpoint was being disabled. Nothing was sent."""
    WebhookDelivery.objects.filter(pk=delivery.pk, state=DeliveryState.WAITING).update(
        state=DeliveryState.WITHDRAWN, leased_until=None, attempts=F("attempts") - 1
    )


def give_back(*, deliveries: list[WebhookDelivery]) -> None:
    """Let others take what this process has claimed and not finished."""
    for delivery in deliveries:
        WebhookDelivery.objects.filter(pk=delivery.pk, leased_until=delivery.leased_until).update(
            leased_until=None, next_attempt_at=Now(), attempts=F("attempts") - 1
        )


# --- the courier -------------------------------------------------------------------------------------------


class Courier:
    """What one process has in hand."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.sender = Sender()
        self.in_hand: dict[asyncio.Task[None], WebhookDelivery] = {}

    def weigh(self) -> Load:
        load = Load()
        for delivery in self.in_hand.values():
            load.add(delivery.endpoint.client_id, delivery.endpoint_id)
        return load

    async def take(self) -> bool:
        """Claim what is due and fits, and begin to deliver it. Returns whether there was anything."""
        load = self.weigh()
        if load.is_full:
            return False
        try:
            claimed = await run_in_db(claim_due, load=load)
        except OUTAGES as error:
            # The database is away: say so and try again; the worker's activities do the same.
            logger.warning("webhooks could not be read: %s", error)
            return False
        for delivery in claimed:
            task = asyncio.create_task(self.deliver(delivery), name=f"webhook-{delivery.pk}")
            self.in_hand[task] = delivery
        return bool(claimed)

    async def deliver(self, delivery: WebhookDelivery) -> None:
        """Send one delivery and record what came of it."""
        if delivery.endpoint.disabled_at is not None:
            await self.write(delivery, lambda: run_in_db(withdraw, delivery=delivery))
            return
        at, began = timezone.now(), time.monotonic()
        if delivery.endpoint.client.is_active:
            outcome = await self.sender.send(delivery, at=at)
        else:
            outcome = Outcome(None, "Nothing was sent: the client is switched off.")
        ms = round((time.monotonic() - began) * 1000)
        logger.info(
            "webhook delivery=%d order=%s event=%s attempt=%d status=%s ms=%d%s",
            delivery.pk,
            delivery.order_id,
            delivery.event,
            delivery.attempts,
            outcome.status or "-",
            ms,
            f" error={outcome.error}" if outcome.error else "",
        )
        await self.write(
            delivery,
            lambda: run_in_db(
                record_outcome, delivery=delivery, outcome=outcome, at=at, ms=ms, worker=self.worker
            ),
        )

    async def write(self, delivery: WebhookDelivery, work: Callable[[], Awaitable[None]]) -> None:
        """Write, also if the database is away for a moment. After the lease it is sent again instead.

        Raises any other error of the database: the next try would end the same way.
        """
        until = time.monotonic() + settings.WEBHOOK_LEASE
        while True:
            try:
                await work()
            except OUTAGES as error:
                logger.warning("the outcome of delivery %d is not recorded yet: %s", delivery.pk, error)
                if time.monotonic() >= until:
                    return
                await asyncio.sleep(RECORD_AGAIN_AFTER)
            else:
                return

    def settle(self) -> None:
        """Let go of what is finished. A task that failed has left its lease; the next claim after it tries
        again, or gives up."""
        for task in [task for task in self.in_hand if task.done()]:
            delivery = self.in_hand.pop(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("delivery %d failed", delivery.pk, exc_info=error)

    async def close(self) -> None:
        """Finish what is in hand within WORKER_GRACE seconds, and give the rest back."""
        if self.in_hand:
            await asyncio.wait(self.in_hand, timeout=settings.WORKER_GRACE)
        self.settle()
        unfinished = dict(self.in_hand)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
            try:
                await run_in_db(give_back, deliveries=list(unfinished.values()))
            except (Error, DatabaseBusy) as error:
                logger.warning("webhooks could not be given back, their leases run out: %s", error)
        await self.sender.aclose()


async def run_courier(stop: asyncio.Event, *, worker: str) -> None:
    """Deliver until `stop` is set: at once while there is work, otherwise every OUTBOX_POLL_INTERVAL."""
    courier = Courier(worker)
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            courier.settle()
            if not await courier.take():
                await asyncio.wait(
                    {stopping, *courier.in_hand},
                    timeout=settings.OUTBOX_POLL_INTERVAL,
                    return_when=asyncio.FIRST_COMPLETED,
                )
    finally:
        stopping.cancel()
        await courier.close()
