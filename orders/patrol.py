"""The search for lost sagas: asks Temporal about orders that do not move, and has those rolled back whose
saga does not run any more."""

import asyncio
import logging
from datetime import timedelta

from django.conf import settings
from django.db import Error
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from config.temporal import DatabaseBusy, run_in_db
from orders import lost
from orders.dispatch import deliver
from orders.lost import Suspect
from orders.models import RepairRound

logger = logging.getLogger("orders.patrol")

# Orders asked about at the same time.
AT_ONCE = 20
# How much of the interval a process lets pass before it asks again whether a round is due.
SHARE = 0.1

# A workflow that runs no more, in words. Any state that is not among these is no verdict.
ENDED: dict[WorkflowExecutionStatus, str] = {
    WorkflowExecutionStatus.COMPLETED: "it had ended without finishing the order",
    WorkflowExecutionStatus.FAILED: "it had failed",
    WorkflowExecutionStatus.CANCELED: "it had been cancelled",
    WorkflowExecutionStatus.TERMINATED: "it was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "it had timed out",
}
UNKNOWN = "Temporal has no record of it"


async def find_loss(client: Client, workflow_id: str) -> str:
    """Why no workflow of that id runs, in words; empty while one does. Raises RPCError where Temporal gives
    no answer to that."""
    try:
        found = await client.get_workflow_handle(workflow_id).describe(
            rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT)
        )
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND or _is_about_namespace(error):
            raise
        return UNKNOWN
    return "" if found.status is None else ENDED.get(found.status, "")


def _is_about_namespace(error: RPCError) -> bool:
    """Whether it is the namespace that was not found, which says nothing about a workflow in it."""
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)


async def repair(client: Client, suspect: Suspect) -> bool:
    """Have the order rolled back if its saga is lost. Returns whether it was."""
    why = await find_loss(client, suspect.workflow_id)
    if not why:
        return False
    message = await run_in_db(lost.declare_lost, suspect=suspect, why=why)
    if message is None:
        return False
    logger.error(
        "order %s has lost its saga %s: %s; rolling it back", suspect.number, suspect.workflow_id, why
    )
    # Undelivered, it is in the outbox for any dispatcher.
    await deliver(client, message)
    return True


async def repair_lost_sagas(client: Client, stop: asyncio.Event) -> int:
    """One round over all orders that do not move, or as far as it gets before `stop` is set.

    Returns how many had lost their saga. Raises RPCError or RuntimeError where Temporal does not answer:
    silence is no verdict.
    """
    suspects = await run_in_db(lost.list_suspects)
    if not suspects:
        return 0
    # Before anything is concluded from "not found".
    await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace),
        timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT),
    )
    repaired = 0
    for start in range(0, len(suspects), AT_ONCE):
        if stop.is_set():
            break
        some = suspects[start : start + AT_ONCE]
        repaired += sum(await asyncio.gather(*(repair(client, suspect) for suspect in some)))
    return repaired


async def run_patrol(client: Client, stop: asyncio.Event) -> None:
    """A round every REPAIR_INTERVAL seconds until `stop` is set, by one of all worker processes at a time."""
    while settings.REPAIR_INTERVAL and not stop.is_set():
        try:
            if await run_in_db(RepairRound.objects.claim):
                await repair_lost_sagas(client, stop)
        except (RPCError, RuntimeError, Error, DatabaseBusy) as error:
            logger.warning("the search for lost sagas has to wait for the next round: %s", error)
        try:
            await asyncio.wait_for(stop.wait(), settings.REPAIR_INTERVAL * SHARE)
        except TimeoutError:
            continue
