"""Asks Temporal whether it carries on every order that is not at its end."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from config.temporal import connect_temporal, run_in_db
from orders.audit.rule import Rule, Scope, Unreachable, Violation, read_rows

# Asked at once.
QUESTIONS = 50

# What is not a violation by itself: only if Temporal runs nothing for the order.
SAGA_MISSING = Rule(
    name="saga_missing",
    says=(
        "Every order that is not at its end has a running saga, a message to Temporal that is on its way, or "
        "a flag for a person."
    ),
    finding=(
        "Order {number} over {total} {currency} is {status} and has not moved since {moved_at:%Y-%m-%d "
        "%H:%M:%S} UTC: {sagas}, and nobody was told (order {order_id})."
    ),
    cause="Likely its saga was terminated by hand, or Temporal has lost its data.",
    sql="""
        SELECT o.number, o.id AS order_id, o.status, o.total, o.currency,
            m.moved_at AT TIME ZONE 'UTC' AS moved_at
        FROM {orders} o
        LEFT JOIN {trail} told ON o.status = 'cancelled' AND told.order_id = o.id
            AND told.name = 'send_cancellation_email'
                AND told.state IN ('done', 'resolved', 'nothing_to_undo')
        CROSS JOIN LATERAL (
            SELECT greatest(
                o.accepted_at, o.completed_at, o.cancel_requested_at, o.rollback_started_at, o.rolled_back_at,
                (SELECT max(coalesce(t.finished_at, t.started_at))
                    FROM orders_trailentry t WHERE t.order_id = o.id),
                (SELECT max(m.delivered_at) FROM orders_outboxmessage m WHERE m.order_id = o.id),
                (SELECT max(greatest(f.raised_at, f.cleared_at))
                    FROM orders_attentionflag f WHERE f.order_id = o.id)
            ) AS moved_at
        ) m
        WHERE o.status IN ('pending', 'created', 'cancelling', 'cancelled') AND told.id IS NULL
            AND m.moved_at < now() - %(quiet)s
            AND NOT EXISTS (
                SELECT 1 FROM orders_attentionflag f WHERE f.order_id = o.id AND f.cleared_at IS NULL
            )
            AND NOT EXISTS (
                SELECT 1 FROM orders_outboxmessage m WHERE m.order_id = o.id AND m.delivered_at IS NULL
            )
    """,
)


async def find_missing_sagas(scope: Scope) -> list[Violation]:
    """Orders that nothing carries on. Raises Unreachable when Temporal does not answer.

    They are read again after it has: what has moved meanwhile is left for the next audit.
    """
    quiet = await run_in_db(read_rows, sql=SAGA_MISSING.sql, scope=scope)
    if not quiet:
        return []
    sagas = await ask_about([row["order_id"] for row in quiet])
    lost = {row["order_id"]: row for row in quiet if sagas[row["order_id"]]}
    if not lost:
        return []
    still = {row["order_id"]: row for row in await run_in_db(read_rows, sql=SAGA_MISSING.sql, scope=scope)}
    return [
        SAGA_MISSING.tell(row | {"sagas": sagas[order_id]})
        for order_id, row in lost.items()
        if still.get(order_id) == row
    ]


async def ask_about(order_ids: list[UUID]) -> dict[UUID, str]:
    """What became of each order's sagas, in words; empty while one runs."""
    at_once = asyncio.Semaphore(QUESTIONS)
    try:
        # Connecting has no time-out of its own.
        async with asyncio.timeout(settings.TEMPORAL_RPC_TIMEOUT * 2):
            client = await connect_temporal()

        async def ask(order_id: UUID) -> str:
            async with at_once:
                return await describe_sagas(client, order_id)

        return dict(zip(order_ids, await asyncio.gather(*map(ask, order_ids)), strict=True))
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise Unreachable(
            f"Temporal ({settings.TEMPORAL_ADDRESS or 'TEMPORAL_ADDRESS is not set'}) cannot be asked about "
            f"{len(order_ids)} orders that have not moved: {str(error) or type(error).__name__}"
        ) from error


async def describe_sagas(client: Client, order_id: UUID) -> str:
    """What became of the order's sagas; empty when one is running."""
    found: list[str] = []
    for workflow_id in (f"order-{order_id}", f"order-{order_id}-cancel"):
        status = await find_status(client, workflow_id)
        if status == WorkflowExecutionStatus.RUNNING:
            return ""
        if status is not None:
            found.append(f"{workflow_id} is {status.name.lower()}")
    return "; ".join(found) or "Temporal knows no saga of it"


async def find_status(client: Client, workflow_id: str) -> Any:
    """The workflow's status, None if Temporal knows none under this id."""
    try:
        described = await client.get_workflow_handle(workflow_id).describe(
            rpc_timeout=timedelta(seconds=settings.TEMPORAL_RPC_TIMEOUT)
        )
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    return described.status
