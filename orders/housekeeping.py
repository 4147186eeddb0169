"""Deletes what has served its time: requests, rate limits, sessions, webhook deliveries, audits."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import Error, connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from config.temporal import DatabaseBusy, run_in_db
from orders.models import AuditRun, DeliveryState, IdempotentRequest, RateLimit, WebhookDelivery

logger = logging.getLogger("orders.housekeeping")

LOCK = 0x0DE6  # any number, the same in every process
BATCH = 1000
# A caller's allowance has long been whole again, so a new row says the same as the old one.
RATE_LIMITS_KEPT = timedelta(days=1)


def list_forgotten_requests() -> QuerySet[Any]:
    """Requests whose key is no longer remembered, by the database's clock, oldest first."""
    age = timedelta(seconds=settings.IDEMPOTENCY_KEEP)
    return IdempotentRequest.objects.filter(created_at__lt=Now() - age).order_by("created_at")


def list_idle_rate_limits() -> QuerySet[Any]:
    """Rate limits nobody has touched for so long that they limit nothing, oldest first."""
    return RateLimit.objects.filter(full_at__lt=Now() - RATE_LIMITS_KEPT).order_by("full_at")


def list_ended_sessions() -> QuerySet[Any]:
    """Log-ins and carts that have expired, oldest first."""
    return Session.objects.filter(expire_date__lt=Now()).order_by("expire_date")


def list_old_deliveries() -> QuerySet[Any]:
    """Webhook deliveries that have ended, and would have been tried next long ago, oldest first. Their
    attempts go with them."""
    age = timedelta(days=settings.WEBHOOK_KEEP)
    ended = WebhookDelivery.objects.exclude(state=DeliveryState.WAITING)
    return ended.filter(next_attempt_at__lt=Now() - age).order_by("next_attempt_at")


def list_old_audits() -> QuerySet[Any]:
    """Results of audits older than AUDIT_KEEP, oldest first. The latest stays: the work queue shows it."""
    latest = AuditRun.objects.order_by("-pk").values("pk")[:1]
    age = timedelta(seconds=settings.AUDIT_KEEP)
    return AuditRun.objects.filter(started_at__lt=Now() - age).exclude(pk__in=latest).order_by("pk")


EXPIRED: dict[str, Callable[[], QuerySet[Any]]] = {
    "idempotent requests": list_forgotten_requests,
    "rate limits": list_idle_rate_limits,
    "sessions": list_ended_sessions,
    "webhook deliveries": list_old_deliveries,
    "audits": list_old_audits,
}


def delete_batch(*, name: str, limit: int = BATCH) -> int | None:
    """Delete up to `limit` of what `EXPIRED` lists under the name, and return how many.

    None means that another process is at it: one at a time holds the advisory lock, to the end of the
    transaction. Rows that somebody is changing are left for the next round, so nobody waits for anybody.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        if cursor.fetchone() != (True,):
            return None
    expired = EXPIRED[name]()
    keys = list(expired.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
    expired.model._default_manager.filter(pk__in=keys).delete()
    return len(keys)


async def clean_up(stop: asyncio.Event) -> dict[str, int]:
    """One round, in short transactions, until nothing is left, another process has taken over, or `stop`
    is set. Returns how many rows of each name were deleted."""
    deleted = dict.fromkeys(EXPIRED, 0)
    for name in EXPIRED:
        while not stop.is_set():
            count = await run_in_db(delete_batch, name=name)
            if count is None:
                return deleted
            deleted[name] += count
            if count < BATCH:
                break
    return deleted


async def run_housekeeping(stop: asyncio.Event) -> None:
    """A round at once and then every HOUSEKEEPING_INTERVAL seconds, until `stop` is set."""
    while not stop.is_set():
        try:
            deleted = await clean_up(stop)
            if any(deleted.values()):
                counts = ", ".join(f"{count} {name}" for name, count in deleted.items())
                logger.info("deleted what had served its time: %s", counts)
        except (Error, DatabaseBusy) as error:
            logger.warning("housekeeping has to wait for the next round: %s", error)
        try:
            await asyncio.wait_for(stop.wait(), settings.HOUSEKEEPING_INTERVAL)
        except TimeoutError:
            continue
