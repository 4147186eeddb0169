"""Whether the sagas that run now would go on under this code: their histories, replayed against it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from orders.worker import SAGAS

# The message inside of what the SDK says, which is a Rust structure.
MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
QUOTE = 300


@dataclass(frozen=True, slots=True)
class Break:
    """A running saga that this code cannot go on with: the first event of its history at which it cannot,
    such as `11 ACTIVITY_TASK_SCHEDULED`, and why."""

    workflow_id: str
    event: str
    why: str


@dataclass(slots=True)
class Verdict:
    """How many running sagas were replayed, and those of them that broke."""

    replayed: int = 0
    breaks: list[Break] = field(default_factory=list)


async def check_running_sagas(client: Client, *, at_once: int) -> Verdict:
    """Replay the history of every saga that runs on the task queue, `at_once` at a time. Changes nothing.

    No more histories than that are in memory. Raises, in an exception group, RPCError or RuntimeError where
    Temporal does not answer.
    """
    verdict = Verdict()
    running: asyncio.Queue[str | None] = asyncio.Queue(maxsize=at_once)
    with _quiet_sdk():
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(_replay_all(client, running, verdict))
            query = f"ExecutionStatus = 'Running' AND TaskQueue = '{settings.SAGA_TASK_QUEUE}'"
            async for execution in client.list_workflows(
                query, rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT)
            ):
                await running.put(execution.id)
            for _ in range(at_once):
                await running.put(None)
        verdict.breaks.sort(key=lambda found: found.workflow_id)
    return verdict


@contextmanager
def _quiet_sdk() -> Iterator[None]:
    """The SDK logs a traceback for each replay that fails; the verdict says it in a line."""
    logger = logging.getLogger("temporalio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _build_replayer() -> Replayer:
    return Replayer(workflows=SAGAS, workflow_runner=UnsandboxedWorkflowRunner())


async def _replay_all(client: Client, running: "asyncio.Queue[str | None]", verdict: Verdict) -> None:
    """Replay what the queue names until it says None."""
    histories: dict[str, WorkflowHistory] = {}

    async def fetch() -> AsyncIterator[WorkflowHistory]:
        while (workflow_id := await running.get()) is not None:
            try:
                history = await client.get_workflow_handle(workflow_id).fetch_history(
                    rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT)
                )
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
                continue  # it has ended since it was listed, and been deleted
            histories[workflow_id] = history
            yield history

    async with _build_replayer().workflow_replay_iterator(fetch()) as results:
        async for result in results:
            verdict.replayed += 1
            history = histories.pop(result.history.workflow_id)
            if result.replay_failure is not None:
                verdict.breaks.append(await _describe_break(history, result.replay_failure))


async def _describe_break(history: WorkflowHistory, failure: Exception) -> Break:
    """Where the history breaks: the end of the shortest beginning of it that does. The SDK's own message
    names the event only sometimes."""
    replayer = _build_replayer()
    longest_good, shortest_bad = 0, len(history.events)
    while shortest_bad - longest_good > 1:
        middle = (longest_good + shortest_bad) // 2
        beginning = WorkflowHistory(history.workflow_id, list(history.events)[:middle])
        result = await replayer.replay_workflow(beginning, raise_on_replay_failure=False)
        if result.replay_failure is None:
            longest_good = middle
        else:
            shortest_bad, failure = middle, result.replay_failure
    event = history.events[shortest_bad - 1]
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    found = MESSAGE.search(str(failure))
    why = " ".join((found[1] if found else str(failure)).split())
    return Break(history.workflow_id, f"{event.event_id} {name}", why[:QUOTE])
