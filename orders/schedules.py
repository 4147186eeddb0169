"""The schedule by which Temporal has the books audited."""

import logging
from datetime import timedelta

from django.conf import settings
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from orders.sagas.audit_books import ATTEMPT_TIMEOUT, ATTEMPTS, AuditBooks

logger = logging.getLogger("orders.schedules")

# What was missed while Temporal was away is not caught up on: an audit sees everything there is.
CATCH_UP = timedelta(minutes=5)


def name_schedule() -> str:
    """The schedule's id: one for each task queue, as the workers are."""
    return f"audit-{settings.SAGA_TASK_QUEUE}"


def build_schedule() -> Schedule:
    """An audit every AUDIT_INTERVAL seconds, and never two at once."""
    return Schedule(
        action=ScheduleActionStartWorkflow(
            AuditBooks.run,
            id=name_schedule(),
            task_queue=settings.SAGA_TASK_QUEUE,
            # One that no worker takes must not keep the next from being started.
            execution_timeout=ATTEMPT_TIMEOUT * (ATTEMPTS + 1),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.AUDIT_INTERVAL))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
    )


async def keep_schedule(client: Client) -> None:
    """Bring Temporal's schedule in line with AUDIT_INTERVAL: made (and the first audit begun), changed or
    deleted. Every worker process does this when it starts; doing it again changes nothing."""
    handle = client.get_schedule_handle(name_schedule())
    timeout = timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT)
    if not settings.AUDIT_INTERVAL:
        try:
            await handle.delete(rpc_timeout=timeout)
            logger.info("the books are not audited any more: AUDIT_INTERVAL is 0")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
        return
    try:
        await client.create_schedule(
            name_schedule(), build_schedule(), trigger_immediately=True, rpc_timeout=timeout
        )
        logger.info("the books are audited every %d s", settings.AUDIT_INTERVAL)
    except ScheduleAlreadyRunningError:
        await handle.update(change_interval, rpc_timeout=timeout)


def change_interval(current: ScheduleUpdateInput) -> ScheduleUpdate | None:
    """The schedule with the interval of the settings; None when it has that already. Whether somebody has
    paused it stays as it is."""
    schedule, wanted = current.description.schedule, build_schedule()
    if schedule.spec.intervals == wanted.spec.intervals:
        return None
    wanted.state = schedule.state
    return ScheduleUpdate(wanted)
