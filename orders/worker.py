"""One worker process: sagas, activities, the outbox's dispatcher, the search for lost sagas, the webhooks'
courier, and housekeeping."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from config.temporal import connect_temporal
from inventory.activities import release_inventory, reserve_inventory
from notifications.activities import (
    give_up_copy,
    resend_email,
    send_cancellation_email,
    send_confirmation_email,
)
from orders.activities import audit_books, begin_rollback, cancel_order, complete_order, create_order
from orders.dispatch import DELIVERIES, run_dispatcher
from orders.housekeeping import run_housekeeping
from orders.in_turn import InTurn
from orders.listening import run_listener
from orders.patrol import run_patrol
from orders.sagas.audit_books import AuditBooks
from orders.sagas.cancel_order import CancelOrderSaga
from orders.sagas.place_order import PlaceOrderSaga
from orders.sagas.resend_email import ResendEmail
from orders.schedules import keep_schedule
from orders.trail import TrailInterceptor
from orders.webhooks.courier import run_courier
from payments.activities import process_payment, refund_payment

logger = logging.getLogger("orders.worker")

SAGAS: list[type] = [PlaceOrderSaga, CancelOrderSaga, ResendEmail, AuditBooks]
ACTIVITIES: list[Callable[..., Any]] = [
    create_order,
    reserve_inventory,
    process_payment,
    send_confirmation_email,
    complete_order,
    begin_rollback,
    refund_payment,
    release_inventory,
    cancel_order,
    send_cancellation_email,
    resend_email,
    give_up_copy,
    audit_books,
]


def build_worker(
    client: Client,
    *,
    identity: str,
    runner: WorkflowRunner | None = None,
    task_queue: str | None = None,
    max_cached_workflows: int = 1000,
) -> Worker:
    """A worker for every saga and activity on the task queue. Tests pass the sandboxed runner."""
    return Worker(
        client,
        task_queue=task_queue or settings.SAGA_TASK_QUEUE,
        workflows=SAGAS,
        activities=[*ACTIVITIES, InTurn(ACTIVITIES, worker=identity).try_in_turn],
        interceptors=[TrailInterceptor(identity)],
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        max_concurrent_activities=settings.WORKER_ACTIVITY_SLOTS,
        max_concurrent_local_activities=settings.WORKER_ACTIVITY_SLOTS,
        max_cached_workflows=max_cached_workflows,
        # No payload is kept elsewhere, and more than 1 makes the SDK start an asyncio task for each, twice.
        max_workflow_task_external_storage_concurrency=1,
        # How long a killed worker's sagas wait for it before another worker takes them.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
        graceful_shutdown_timeout=timedelta(seconds=settings.WORKER_GRACE),
        identity=identity,
    )


# Seconds until what has failed is started again: at first, and at most.
START_AGAIN_AFTER = 1.0
START_AGAIN_MAXIMUM = 60.0


async def keep_running(name: str, run: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Run it until it ends or `stop` is set. Whatever it raises is logged, and it is started again: a fault
    of one side job is no reason to end the sagas beside it."""
    pause = START_AGAIN_AFTER
    while not stop.is_set():
        began = time.monotonic()
        try:
            await run()
        except Exception:
            if time.monotonic() - began > START_AGAIN_MAXIMUM:  # it had been well for a while
                pause = START_AGAIN_AFTER
            logger.exception("%s failed and is started again in %.0f s; everything else goes on", name, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            pause = min(pause * 2, START_AGAIN_MAXIMUM)
        else:
            return


async def run_worker(*, index: int, stop: asyncio.Event) -> None:
    """Run until `stop` is set, then finish what is in flight within WORKER_GRACE seconds.

    Raises what makes the worker unable to go on, such as Temporal being out of reach.
    """
    identity = f"worker-{index}@{socket.gethostname()}:{os.getpid()}"
    client = await connect_temporal(identity=identity)
    # Fails for a namespace that does not exist, before anybody is told that the worker is ready.
    await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    worker = build_worker(client, identity=identity)
    turns = asyncio.Semaphore(DELIVERIES)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_dispatcher(client, stop, turns))
        listening = tasks.create_task(
            keep_running("listening for messages", partial(run_listener, client, turns), stop)
        )
        tasks.create_task(keep_running("the audit's schedule", partial(keep_schedule, client), stop))
        tasks.create_task(keep_running("housekeeping", partial(run_housekeeping, stop), stop))
        tasks.create_task(keep_running("the search for lost sagas", partial(run_patrol, client, stop), stop))
        tasks.create_task(
            keep_running("the webhooks' courier", partial(run_courier, stop, worker=identity), stop)
        )
        running = tasks.create_task(worker.run())
        logger.info("ready: %s on task queue %s", identity, settings.SAGA_TASK_QUEUE)
        await stop.wait()
        logger.info("draining: %s", identity)
        listening.cancel()
        # What it is starting may hand this worker a first task, which is not to be lost.
        await asyncio.wait([listening])
        await worker.shutdown()
        await running
