"""The state of the engine: whether Temporal can be reached, and when each worker last asked it for work."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils import timezone
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from config.temporal import background

logger = logging.getLogger("orders.health")

# Seconds a page waits for Temporal at most, and for which an answer is good enough for the next one.
TIME_LIMIT = 1.0
KEPT_FOR = 5.0
# An idle worker's question is held open for a minute, so only a longer silence means something.
SILENT_AFTER = timedelta(seconds=80)

QUEUE_TYPES = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """A worker process and when it last asked for work. Temporal forgets one that is gone after 5 minutes."""

    identity: str
    last_poll: datetime
    # A process with the same name on the same machine has taken over since.
    is_replaced: bool = False

    @property
    def is_silent(self) -> bool:
        return timezone.now() - self.last_poll > SILENT_AFTER


@dataclass(frozen=True, slots=True)
class EngineState:
    """What Temporal answered; `error` says why it did not, and then nothing is known about the workers."""

    error: str = ""
    workers: tuple[WorkerSign, ...] = ()

    @property
    def is_reachable(self) -> bool:
        return not self.error

    @property
    def is_worked(self) -> bool:
        """Whether any worker asks for work."""
        return any(not worker.is_silent for worker in self.workers)


_asking = threading.Lock()
_answers: dict[tuple[str, ...], tuple[float, EngineState]] = {}


def ask_engine() -> EngineState:
    """The state of the engine, at most KEPT_FOR seconds old, within TIME_LIMIT seconds. Raises nothing for
    a Temporal that is away: that is an answer."""
    where = (settings.TEMPORAL_ADDRESS, settings.TEMPORAL_NAMESPACE, settings.SAGA_TASK_QUEUE)
    # One thread asks; the others take its answer.
    with _asking:
        asked, state = _answers.get(where, (0.0, EngineState(error="nobody has asked yet")))
        if not asked or time.monotonic() - asked > KEPT_FOR:
            state = _ask()
            _answers.clear()
            _answers[where] = (time.monotonic(), state)
        return state


def _ask() -> EngineState:
    loop = background()

    async def ask() -> EngineState:
        async with asyncio.timeout(TIME_LIMIT):
            return EngineState(workers=await _list_workers(await loop.client()))

    try:
        return loop.submit(ask()).result()
    except TimeoutError:
        error = f"no answer within {TIME_LIMIT:.0f} s"
    except RPCError as failure:
        error = failure.message
        logger.warning("Temporal cannot be asked: %s", failure)
    except RuntimeError as failure:
        # What the SDK raises while it has no connection; its text is for the log.
        error = f"no connection to {settings.TEMPORAL_ADDRESS}"
        logger.warning("Temporal cannot be reached: %s", failure)
    return EngineState(error=error)


async def _list_workers(client: Client) -> tuple[WorkerSign, ...]:
    """The workers that have polled the sagas' task queue of late, by name."""
    answers = await asyncio.gather(
        *(
            client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=client.namespace,
                    task_queue=TaskQueue(name=settings.SAGA_TASK_QUEUE),
                    task_queue_type=queue_type,
                ),
                timeout=timedelta(seconds=TIME_LIMIT),
            )
            for queue_type in QUEUE_TYPES
        )
    )
    return _merge_polls(poller for answer in answers for poller in answer.pollers)


def _merge_polls(pollers: Iterable[PollerInfo]) -> tuple[WorkerSign, ...]:
    """One sign for each identity: a worker asks for sagas and for activities; either shows that it lives."""
    polls: dict[str, datetime] = {}
    for poller in pollers:
        last = poller.last_access_time.ToDatetime(UTC)
        polls[poller.identity] = max(last, polls.get(poller.identity, last))
    latest: dict[str, datetime] = {}
    for identity, last in polls.items():
        # worker-1@host:pid
        name = identity.rpartition(":")[0] or identity
        latest[name] = max(last, latest.get(name, last))
    return tuple(
        WorkerSign(
            identity=identity,
            last_poll=last,
            is_replaced=latest[identity.rpartition(":")[0] or identity] > last,
        )
        for identity, last in sorted(polls.items())
    )
