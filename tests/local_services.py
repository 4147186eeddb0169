"""Clients of the embedded services in tests: started, left, killed, and what they leave behind."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from temporalio.client import Client

from config.embedded import catalogue, read_status
from config.embedded.postgres import name_outside_place

CHECKOUT = Path(__file__).resolve().parents[1]
AS_ROOT = os.geteuid() == 0
ALL = "postgres,temporal,gateway,mail"
SERVICE_VARIABLES = [entry.variable for entry in catalogue.CATALOGUE.values()]

CLIENT_PROGRAM = """
import json, sys
from pathlib import Path
from config.embedded import EmbeddedServiceError, attach_services
notes = []
try:
    environment = attach_services(
        Path.cwd(), "test client", need=set(sys.argv[1].split(",")), report=notes.append
    )
except EmbeddedServiceError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(1)
print(json.dumps({"environment": environment, "notes": notes}), flush=True)
sys.stdin.read()
"""


@dataclass
class RunningClient:
    """A process of its own that attaches, tells what it got, and stays until its stdin is closed."""

    process: subprocess.Popen[str]
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        assert "environment" in self.answer, self.answer
        found: dict[str, str] = self.answer["environment"]
        return found

    def read_answer(self) -> None:
        assert self.process.stdout is not None
        self.answer = json.loads(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.leave()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Short (a socket's path is), and walkable for PostgreSQL's account when we are root."""
    top = Path(tempfile.mkdtemp(prefix="odt-", dir="/tmp"))
    top.chmod(0o755)
    path = top / "data"
    yield path
    for pid in find_processes(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until_nothing_is_left(path)
    shutil.rmtree(top)
    if name_outside_place(path).exists():
        shutil.rmtree(name_outside_place(path))


def client_environment(data_dir: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in SERVICE_VARIABLES}
    kept.pop("DJANGO_SECRET_KEY", None)
    return {**kept, "ORDER_DESK_DATA_DIR": str(data_dir), "PYTHONPATH": str(CHECKOUT)}


def start_client(
    data_dir: Path, need: str, *, python: str = sys.executable, wait: bool = True, **options: Any
) -> RunningClient:
    environment = client_environment(data_dir) | options.pop("environment", {})
    process = subprocess.Popen(
        [python, "-c", CLIENT_PROGRAM, need],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/", **options,
    )  # fmt: skip
    client = RunningClient(process)
    if wait:
        client.read_answer()
    return client


@contextlib.contextmanager
def running(data_dir: Path, need: str, **options: Any) -> Iterator[RunningClient]:
    client = start_client(data_dir, need, **options)
    try:
        yield client
    finally:
        client.leave()


def find_processes(data_dir: Path) -> dict[int, str]:
    """Everything that works on this data dir, seen from outside: by command line or working directory."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            places = (str(data_dir), str(name_outside_place(data_dir)))
            if any(place in command or process.cwd().startswith(place) for place in places):
                found[process.pid] = command
    return found


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def wait_until_nothing_is_left(data_dir: Path) -> None:
    deadline = time.monotonic() + 30
    while left := find_processes(data_dir):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def stat_modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    every = {parent for path in paths for parent in (path, *path.parents) if parent.exists()}
    return {path: ((found := path.stat()).st_mode, found.st_uid, found.st_gid) for path in every}


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own http address
        content: bytes = answer.read()
        return content


def send_mail(
    environment: dict[str, str], *, to: str, subject: str = "Hello", message_id: str = "<1@example.org>"
) -> None:
    message = MIMEMultipart("alternative")
    message["From"], message["To"], message["Subject"] = "desk@example.org", to, subject
    message["Message-ID"] = message_id
    message.attach(MIMEText("plain <text>"))
    message.attach(MIMEText("<p>rich</p><script>alert(1)</script>", "html"))
    with smtplib.SMTP(environment["EMAIL_HOST"], int(environment["EMAIL_PORT"]), timeout=10) as smtp:
        smtp.send_message(message)


def list_mail(environment: dict[str, str], query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fetch(f"{environment['MAIL_SINK_URL']}/messages.json{query}"))
    return found


def query(environment: dict[str, str], statement: str) -> Any:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def start_workflow(environment: dict[str, str], workflow_id: str) -> None:
    async def start() -> None:
        client = await Client.connect(environment["TEMPORAL_ADDRESS"])
        await client.start_workflow("Nothing", id=workflow_id, task_queue="nobody-polls")

    asyncio.run(start())


def has_workflow(environment: dict[str, str], workflow_id: str) -> bool:
    async def describe() -> str:
        client = await Client.connect(environment["TEMPORAL_ADDRESS"])
        return (await client.get_workflow_handle(workflow_id).describe()).id

    return asyncio.run(describe()) == workflow_id


def read_services(data_dir: Path) -> dict[str, Any]:
    services: dict[str, Any] = read_status(data_dir)["services"]
    return services


def find_processes_by_service(data_dir: Path) -> dict[str, int]:
    """The control of `wait_until_nothing_is_left`: it does see each service while it runs."""
    seen = find_processes(data_dir)
    return {name: one["pid"] for name, one in read_services(data_dir).items() if one["pid"] in seen}
