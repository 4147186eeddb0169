"""Tells Temporal what the database decided, and sweeps up what nobody has told it in time."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Exists, F, OuterRef
from django.utils import timezone
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from config.temporal import DatabaseBusy, run_in_db
from orders.models import STARTS, Order, OrderStatus, OutboxKind, OutboxMessage
from orders.sagas.policy import SagaInput, SagaPolicy

logger = logging.getLogger("orders.dispatch")

BATCH = 50
# How many messages a worker delivers at once. With more, sagas begin faster than the worker goes on with
# those that have begun, and their tasks time out in the queue.
DELIVERIES = 2
# Seconds a worker has for a workflow task before another gets it; it asks for more while it works.
TASK_TIMEOUT = 10.0


def read_policy() -> SagaPolicy:
    """The policy new sagas are started with, from settings."""
    return SagaPolicy(
        attempt_timeout=settings.SAGA_ATTEMPT_TIMEOUT,
        step_deadline=settings.SAGA_STEP_DEADLINE,
        retry_initial=settings.SAGA_RETRY_INITIAL,
        retry_maximum=settings.SAGA_RETRY_MAXIMUM,
        release_after=settings.SAGA_RELEASE_AFTER,
        email_required=settings.SAGA_EMAIL_REQUIRED,
    )


async def deliver(client: Client, message: OutboxMessage) -> bool:
    """Tell Temporal. Returns whether it was told, which the caller notes; why it could not be is noted here.

    Doing it twice is harmless: a started workflow is not started again, and signals are idempotent.
    """
    try:
        if message.kind in STARTS:
            await start_saga(client, message)
        else:
            await signal_saga(client, message)
    except (RPCError, RuntimeError) as error:
        await run_in_db(note_failure, message=message, error=f"{type(error).__name__}: {error}")
        logger.warning("could not deliver %s: %s", message, error)
        return False
    return True


async def start_saga(client: Client, message: OutboxMessage) -> None:
    """Start the saga under its order's workflow id. Already started, or ended, is success.

    A repair starts it also where one of that id has ended, which is why there is a repair. Delivered twice,
    it finds the order rolled back.
    """
    reuse = WorkflowIDReusePolicy.REJECT_DUPLICATE
    if message.kind == OutboxKind.REPAIR:
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    try:
        await client.start_workflow(
            message.name,
            args=[
                SagaInput(order_id=str(message.order_id), policy=read_policy()),
                *([message.argument] if message.argument else []),
            ],
            id=message.workflow_id,
            task_queue=settings.SAGA_TASK_QUEUE,
            # Work of a quick attempt on a killed worker is noticed only then.
            task_timeout=timedelta(seconds=min(settings.SAGA_ATTEMPT_TIMEOUT, TASK_TIMEOUT)),
            memo={"request_id": message.request_id} if message.request_id else None,
            id_reuse_policy=reuse,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            # The answer holds the first workflow task, if this client's worker has a place for it.
            request_eager_start=True,
            rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT),
        )
    except WorkflowAlreadyStartedError:
        logger.info("%s was already carried out", message.workflow_id)


async def signal_saga(client: Client, message: OutboxMessage) -> None:
    """Send the signal. Where the saga has ended, the order says whether that is an answer."""
    try:
        await client.get_workflow_handle(message.workflow_id).signal(
            message.name,
            args=[message.argument] if message.argument else [],
            rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT),
        )
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        if not await run_in_db(is_moot, message=message):
            raise


def is_moot(*, message: OutboxMessage) -> bool:
    """Whether the order no longer needs the signal: its saga has ended and left it in a final state."""
    status = Order.objects.values_list("status", flat=True).get(pk=message.order_id)
    return status in (OrderStatus.CANCELLED, OrderStatus.COMPLETED, OrderStatus.SHIPPED)


_NOTE_DELIVERIES = """
    UPDATE orders_outboxmessage SET delivered_at = %s, attempts = attempts + 1, last_error = ''
    WHERE id = ANY(%s) AND delivered_at IS NULL
"""


def note_deliveries(*, messages: Sequence[OutboxMessage]) -> None:
    """Mark the messages as delivered."""
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_DELIVERIES, [timezone.now(), [message.pk for message in messages]])


def note_failure(*, message: OutboxMessage, error: str) -> None:
    """Note why Temporal could not be told and when to try again: doubling, up to OUTBOX_RETRY_MAXIMUM."""
    wait = min(
        2.0 ** min(message.attempts, 10) * settings.OUTBOX_POLL_INTERVAL, settings.OUTBOX_RETRY_MAXIMUM
    )
    OutboxMessage.objects.filter(pk=message.pk, delivered_at=None).update(
        attempts=F("attempts") + 1,
        last_error=error,
        next_attempt_at=timezone.now() + timedelta(seconds=wait),
    )


def claim_due(*, limit: int = BATCH) -> list[OutboxMessage]:
    """Lease the messages that are due, each order's in the order they were written.

    Rows another dispatcher is claiming are skipped. The lease outlasts the RPC timeout, so that nobody
    else takes a message while it is being delivered.
    """
    if not OutboxMessage.objects.is_due(timezone.now()):
        return []
    earlier = OutboxMessage.objects.filter(order=OuterRef("order"), pk__lt=OuterRef("pk"), delivered_at=None)
    due = list(
        OutboxMessage.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(~Exists(earlier), delivered_at=None, next_attempt_at__lte=timezone.now())
        .order_by("pk")[:limit]
    )
    OutboxMessage.objects.filter(pk__in=[message.pk for message in due]).update(
        next_attempt_at=timezone.now() + timedelta(seconds=settings.OUTBOX_LEASE)
    )
    return due


async def sweep(client: Client, turns: asyncio.Semaphore | None = None) -> int:
    """Deliver what is due, each message in its turn. Returns how many were delivered."""
    turns = turns or asyncio.Semaphore(DELIVERIES)

    async def deliver_in_turn(message: OutboxMessage) -> bool:
        async with turns:
            is_told = await deliver(client, message)
        if is_told:
            await run_in_db(note_deliveries, messages=[message])
        return is_told

    messages = await run_in_db(claim_due)
    return sum(await asyncio.gather(*(deliver_in_turn(message) for message in messages)))


async def run_dispatcher(client: Client, stop: asyncio.Event, turns: asyncio.Semaphore) -> None:
    """Sweep until `stop` is set: again at once while there is work, otherwise every OUTBOX_POLL_INTERVAL.
    `turns` are shared with whoever else delivers in this process."""
    while not stop.is_set():
        try:
            if await sweep(client, turns):
                continue
        except (DatabaseError, DatabaseBusy) as error:
            # The database is away: say so and try again; the worker's activities do the same.
            logger.warning("the dispatcher could not read the outbox: %s", error)
        try:
            await asyncio.wait_for(stop.wait(), settings.OUTBOX_POLL_INTERVAL)
        except TimeoutError:
            continue
