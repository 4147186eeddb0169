"""The yardstick: a saga of four activities that do nothing, on a plain worker without anything of ours.

`python -m orders.management.load.empty ADDRESS NAMESPACE TASK_QUEUE` runs the worker until SIGTERM.
"""

import asyncio
import os
import signal
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker


@activity.defn
async def do_nothing() -> None:
    """What is left of a step without its work."""


@workflow.defn
class EmptySaga:
    """Four steps, one after the other, as an order's saga has them before it is complete."""

    @workflow.run
    async def run(self) -> None:
        for _ in range(4):
            await workflow.execute_activity(do_nothing, start_to_close_timeout=timedelta(seconds=60))


async def run_empty_worker(address: str, namespace: str, task_queue: str) -> None:
    """Work until SIGTERM. Raises RuntimeError when Temporal cannot be reached."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, namespace=namespace)
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=[EmptySaga],
        activities=[do_nothing],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(run_empty_worker(*sys.argv[1:4]))
    # Without taking the interpreter apart: the SDK's own threads still run, and can abort it (Python 3.11).
    os._exit(0)
