"""`manage.py run_saga_workers`: the supervisor of the workers and, with a hidden flag, one of them."""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders.child import EX_TEMPFAIL, WAITING_MARK, run_child
from orders.supervisor import supervise

logger = logging.getLogger("orders.worker")

MOST_WORKERS = 64


class Command(BaseCommand):
    help = (
        "Run the worker processes that carry orders through their sagas. Ctrl-C or SIGTERM once finishes "
        "what is in flight, twice stops at once."
    )
    # They would load every view and open nothing a worker needs; `manage.py check` runs them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--count",
            default=settings.WORKER_COUNT,
            metavar="N",
            help=f"how many processes, 1 to {MOST_WORKERS} (default: WORKER_COUNT, now %(default)s)",
        )
        parser.add_argument(
            "--reload", action="store_true", help="restart the workers one by one when the code changes"
        )
        parser.add_argument(
            "--heartbeat",
            type=Path,
            metavar="FILE",
            help="touch FILE every few seconds while all processes are ready, for a health check",
        )
        parser.add_argument("--child", type=int, help=argparse.SUPPRESS)

    def handle(
        self, *, count: str | int, reload: bool, heartbeat: Path | None, child: int | None, **options: Any
    ) -> None:
        if child is not None:
            end_process(work_as_child(child))
        # The children inherit it. They carry out the same few statements all the time.
        os.environ.setdefault("DATABASE_PREPARE_AFTER", "5")
        # Neither Temporal nor the database is touched here: the SDK's core does not survive a fork, and
        # what the supervisor does not need cannot take it down.
        sys.exit(
            supervise(
                build_child_command,
                count=parse_count(count),
                grace=settings.WORKER_GRACE,
                directory=settings.BASE_DIR,
                watch=reload,
                heartbeat=heartbeat,
            )
        )


def parse_count(value: str | int) -> int:
    """The number of workers. Raises CommandError with exit code 2 for anything but 1 to 64."""
    try:
        count = int(value)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST_WORKERS:
        raise CommandError(
            f"The number of workers must be a whole number from 1 to {MOST_WORKERS}, not {str(value)!r}. "
            "Set it with --count or WORKER_COUNT.",
            returncode=2,
        )
    return count


def build_child_command(index: int) -> list[str]:
    """A fresh interpreter. The addresses of the local services are in the environment it inherits."""
    return [sys.executable, "manage.py", "run_saga_workers", "--child", str(index)]


def work_as_child(index: int) -> int:
    """Run worker number `index` until it is told to stop. Returns the exit code."""
    from orders.worker import run_worker  # the supervisor must not load the Temporal SDK

    async def work(stop: asyncio.Event) -> None:
        await run_worker(index=index, stop=stop)

    try:
        run_child(work, grace=settings.WORKER_GRACE)
    except Exception as error:
        causes = list(iterate_causes(error))
        if any(is_unreachable(cause) for cause in causes):
            logger.warning(
                "%sTemporal at %s: %s", WAITING_MARK, settings.TEMPORAL_ADDRESS, shorten_reason(causes[0])
            )
            return EX_TEMPFAIL
        if isinstance(causes[0], RuntimeError):  # how the SDK tells that it cannot go on
            logger.error("worker %s cannot go on: %s", index, shorten_reason(causes[0]))
        else:
            logger.exception("worker %s cannot go on", index)
        return 1
    return 0


def end_process(code: int) -> NoReturn:
    """End without taking the interpreter apart.

    The SDK's own threads still run then, and on Python 3.11 they can abort it ("PyGILState_Release:
    thread state must be current"), which would make a clean drain look like a crash.
    """
    logging.shutdown()
    with contextlib.suppress(OSError):  # the supervisor, our reader, may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """The errors inside task groups, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from iterate_causes(inner)
    else:
        yield error


def is_unreachable(error: BaseException) -> bool:
    """Whether Temporal does not answer. The SDK has only RuntimeError and its text for that."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        text.startswith("Failed client connect")
        or (text.startswith("Worker validation failed") and "code: NotFound" not in text)
    )


def shorten_reason(error: BaseException) -> str:
    """The error on one line of bearable length: the message inside, where the SDK shows a Rust structure."""
    text = " ".join(str(error).split()) or type(error).__name__
    inner = re.search(r'(?:message|error): "([^"]+)"', text)
    if inner:
        text = inner.group(1)
    return text if len(text) <= 300 else f"{text[:300]} ..."
