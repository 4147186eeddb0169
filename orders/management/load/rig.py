"""The stack a load runs on: workers and, for the API, a web process of its own, on the local services."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from config.embedded import find_data_dir, read_status
from orders.clients import create_key, open_client, revoke_key
from orders.management.load.processes import Meter, find_worker_pids
from orders.management.stack import DEMO_USER, Stack, StackError, prepare_database
from orders.models import Scope

READY_SECONDS = 90.0
READY = re.compile(rb"ready: worker-\d+@\S+:(\d+) ")
# Commands whose workers would take part, and whose work would be measured.
RIVALS = ("bench", "demo", "dev", "load_test", "run_saga_workers")
SERVICES = ("temporal", "postgres", "gateway", "mail")


def refuse_company() -> None:
    """Raises CommandError, exit code 2, while another command has workers on the same local services."""
    clients = read_status(find_data_dir(settings.BASE_DIR))["clients"]
    rivals = {one["command"] for one in clients if one["pid"] != os.getpid() and one["command"] in RIVALS}
    if rivals:
        names = ", ".join(f"`manage.py {name}`" for name in sorted(rivals))
        raise CommandError(
            f"{names} is at work on the same local services and would take part in what is measured: stop "
            "it, or name another directory with ORDER_DESK_DATA_DIR.",
            returncode=2,
        )


class Rig:
    """The processes of one load; `processes` has the pid of each part, with all its children below it."""

    def __init__(self, *, workers: int, slots: int | None = None) -> None:
        self.workers = workers
        self.log_dir = find_data_dir(settings.BASE_DIR) / "logs"
        # The one client asks as much as a whole day's customers.
        environment = {**os.environ, "API_REQUESTS_PER_MINUTE": "0"}
        if slots is not None:
            environment["WORKER_ACTIVITY_SLOTS"] = str(slots)
        self.stack = Stack(log_dir=self.log_dir, quiet=True, environment=environment)
        self.address = ""

    def start_workers(self) -> None:
        """Start the workers and wait until each is ready. Raises StackError when one is not."""
        log = self.log_dir / "workers.log"
        said_before = log.stat().st_size if log.exists() else 0
        self.stack.start_workers(self.workers)
        deadline = time.monotonic() + READY_SECONDS
        while len(self.find_workers().keys() & self._find_ready(log, said_before)) < self.workers:
            self.check_alive()
            if time.monotonic() > deadline:
                raise StackError(f"The workers are not ready within {READY_SECONDS:.0f} s; see {log}.")
            time.sleep(0.1)

    def _find_ready(self, log: Path, said_before: int) -> set[str]:
        """The workers of ours that have said so; others may write to the same log."""
        with log.open("rb") as lines:
            lines.seek(said_before)
            ready = {int(pid) for pid in READY.findall(lines.read())}
        return {name for name, pid in self.find_workers().items() if pid in ready}

    def start_web(self) -> None:
        self.address = self.stack.start_web()

    def find_workers(self) -> dict[str, int]:
        """The worker processes by their names."""
        return find_worker_pids(self.worker_root)

    @property
    def worker_root(self) -> int:
        """The process all workers are below."""
        pid = self.stack.find_process("workers")
        if pid is None:
            raise StackError("No workers were started.")
        return pid

    def check_alive(self) -> None:
        """Raises StackError when a process of ours or the local services have ended."""
        if dead := self.stack.find_dead():
            raise StackError(dead)

    def start_meter(self) -> Meter:
        """Measure the processor time of all parts from now on."""
        services = read_status(find_data_dir(settings.BASE_DIR))["services"]
        return Meter(
            {
                "web": self.stack.find_process("web"),
                "worker": self.worker_root,
                **{name: services.get(name, {}).get("pid") for name in SERVICES},
            }
        )


@contextmanager
def raised(rig: Rig, *, with_web: bool = False) -> Iterator[Rig]:
    """The rig with its database and processes; they are stopped at the end. Raises StackError."""
    try:
        prepare_database()
        if with_web:
            rig.start_web()
        rig.start_workers()
        yield rig
    finally:
        rig.stack.stop()


@contextmanager
def api_key() -> Iterator[str]:
    """A key that may read and place; it is revoked at the end."""
    made = create_key(
        client=open_client(name="load test"), name="load test", scopes=[Scope.READ, Scope.PLACE]
    )
    try:
        yield made.secret
    finally:
        revoke_key(key_id=made.key.pk, revoked_by=User.objects.get(username=DEMO_USER))


@contextmanager
def slowed_gateway(milliseconds: float) -> Iterator[None]:
    """The sandbox gateway answers everything so much later; as before at the end. 0 changes nothing.

    Raises StackError when the gateway does not take it.
    """
    if not milliseconds:
        yield
        return
    wish = {"operation": "*", "fault": "slow", "seconds": milliseconds / 1000}
    fault = ask_gateway("POST", json=wish)["fault"]
    try:
        yield
    finally:
        ask_gateway("DELETE", params={"id": fault["id"]})


def ask_gateway(method: str, **request: Any) -> dict[str, Any]:
    """Set or clear faults of the sandbox gateway; gives its answer. Raises StackError."""
    try:
        with httpx.Client(base_url=settings.PAYMENT_GATEWAY_URL, trust_env=False, timeout=10) as gateway:
            answer = gateway.request(method, "/faults", **request).raise_for_status()
    except httpx.HTTPError as error:
        raise StackError(f"The payment sandbox does not set its faults: {error}") from error
    said: dict[str, Any] = answer.json()
    return said
