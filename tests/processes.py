"""Real processes in tests: workers and web processes on the test's database and task queue."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from django.conf import settings
from django.db import connection
from psycopg.conninfo import make_conninfo

PROJECT = Path(__file__).resolve().parents[1]
GRACE = 10.0
# As DJANGO_SETTINGS_MODULE: the settings of a process with CRASH_POINTS, or UNGUARDED.
SWITCHED = "tests.switches.settings"
# What config.environment adds for Django, and PostgreSQL does not know.
OURS = ("server_side_binding", "prepare_threshold")


def wait_until(condition: Callable[[], bool], what: str, *, within: float = 40.0) -> float:
    """Poll until the condition is true; gives the seconds it took. Fails loudly at the deadline."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


class Crew:
    """A running supervisor with its workers on the test's database and task queue."""

    def __init__(self, count: int, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "run_saga_workers", "--count", str(count)],
            cwd=PROJECT,
            env={**os.environ, **build_environment(), **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.seen: dict[int, psutil.Process] = {}
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def find(self, pattern: str) -> list[str]:
        """The first group of each line that matches."""
        return [found[1] for line in list(self.lines) if (found := re.search(pattern, line))]

    def pids_of(self, worker: str = r"worker-\d+") -> list[int]:
        """The process ids that have said they are ready, in order."""
        return [int(pid) for pid in self.find(rf"\[{worker}\] .* ready: \S+:(\d+) ")]

    def wait_ready(self, count: int) -> None:
        wait_until(lambda: len(self.pids_of()) >= count, f"{count} workers are ready")
        self.seen.update({child.pid: child for child in psutil.Process(self.process.pid).children()})

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.seen.update({child.pid: child for child in psutil.Process(self.process.pid).children()})
            self.process.kill()
        self.process.wait()
        for child in self.seen.values():  # they hold connections to a database that is about to be emptied
            if child.is_running():
                child.kill()
        psutil.wait_procs(list(self.seen.values()), timeout=10)
        self.reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        print(*self.lines[-40:], sep="\n")  # pytest shows it where the test fails


def build_environment() -> dict[str, str]:
    """The test's database and settings as variables, for processes that read settings of their own."""
    options = connection.settings_dict
    database = make_conninfo(
        dbname=options["NAME"],
        user=options["USER"],
        password=options["PASSWORD"],
        host=options["HOST"],
        port=options["PORT"],
        **{name: value for name, value in options["OPTIONS"].items() if name not in OURS},
    )
    names = (
        "SAGA_TASK_QUEUE",
        "SAGA_ATTEMPT_TIMEOUT",
        "PAYMENT_GATEWAY_TIMEOUT",
        "SAGA_STEP_DEADLINE",
        "SAGA_RETRY_INITIAL",
        "SAGA_RETRY_MAXIMUM",
        "OUTBOX_POLL_INTERVAL",
        "OUTBOX_ATTENTION_AFTER",
        "EMAIL_BACKEND",
    )
    return {
        "DATABASE_URL": database,
        "WORKER_GRACE": str(GRACE),
        "WORKER_DB_THREADS": "4",
        # Audits are their own tests' business: a schedule would outlive the test.
        "AUDIT_INTERVAL": "0",
        **{name: str(getattr(settings, name)) for name in names},
    }
