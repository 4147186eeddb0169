"""`manage.py check_sagas`: refuses a deploy that the sagas of running orders could not go on under."""

import asyncio
import re
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from temporalio.service import RPCError

from config.temporal import connect_temporal
from orders.models import Order
from orders.replays import Break, Verdict, check_running_sagas

ORDER_ID = re.compile(r"order-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
MOST_AT_ONCE = 64


class Command(BaseCommand):
    help = (
        "Replay the history of every running saga against this code. Ends with 0 if all of them would go on, "
        "1 if one would not, naming the order and the event, and 2 if that could not be found out. Changes "
        "nothing."
    )
    # They would load every view; `manage.py check` runs them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--at-once",
            type=int,
            default=8,
            metavar="N",
            help=f"how many histories are replayed at a time, 1 to {MOST_AT_ONCE} (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        at_once: int = options["at_once"]
        if not 1 <= at_once <= MOST_AT_ONCE:
            raise CommandError(f"--at-once takes 1 to {MOST_AT_ONCE}, not {at_once}.", returncode=2)
        verdict = replay_running(at_once)
        if not verdict.breaks:
            self.stdout.write(f"{verdict.replayed} running sagas would go on under this code.")
            return
        for line in describe_breaks(verdict.breaks):
            self.stdout.write(line)
        raise CommandError(
            f"{len(verdict.breaks)} of {verdict.replayed} running sagas would break: do not deploy this. "
            "docs/change-the-saga.md says how a saga is changed."
        )


def replay_running(at_once: int) -> Verdict:
    """The verdict. Raises CommandError with exit code 2 where Temporal does not answer."""

    async def check() -> Verdict:
        return await check_running_sagas(await connect_temporal(), at_once=at_once)

    try:
        return asyncio.run(check())
    except* (RPCError, RuntimeError) as failures:
        reason = " ".join(str(failures.exceptions[0]).split())
        raise CommandError(
            f"Temporal at {settings.TEMPORAL_ADDRESS or 'TEMPORAL_ADDRESS (not set)'}, namespace "
            f"{settings.TEMPORAL_NAMESPACE}, could not be asked, so nothing is known: {reason[:300]}",
            returncode=2,
        ) from failures


def describe_breaks(breaks: list[Break]) -> list[str]:
    """One line for each, with the order's number; its id where the database cannot be asked."""
    ids = {found.workflow_id: match[1] for found in breaks if (match := ORDER_ID.match(found.workflow_id))}
    try:
        # These columns alone: this code may be newer than the tables.
        numbers = dict(Order.objects.filter(pk__in=ids.values()).values_list("pk", "number"))
    except Error:
        numbers = {}
    names = {str(order_id): f"order {number}" for order_id, number in numbers.items()}
    return [
        f"{names.get(ids.get(found.workflow_id, ''), 'a saga')} ({found.workflow_id}): "
        f"breaks at event {found.event}: {found.why}"
        for found in breaks
    ]
