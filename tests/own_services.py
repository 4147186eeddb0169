"""Services of a test's own, to be taken away and given back: the web process, Temporal, PostgreSQL."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from config.embedded.catalogue import DataDir, find_temporal_binary
from config.embedded.postgres import PostgresService, name_outside_place
from config.embedded.processes import PortBook
from tests.processes import PROJECT, build_environment, wait_until

# Seconds a client waits for an answer before the test fails: people and proxies wait about as long.
PATIENCE = 15.0


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Web:
    """A gunicorn with the project's settings and one worker, on a socket that outlives the worker.

    A worker that is killed is replaced by gunicorn; what arrives meanwhile waits in the socket's queue.
    """

    def __init__(self, **variables: str) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", "config/gunicorn.py", "--workers", "1"),
                *("--bind", f"fd://{self.listener.fileno()}"),
            ],
            cwd=PROJECT,
            env={**os.environ, **build_environment(), **variables},
            pass_fds=[self.listener.fileno()],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def read_log(self) -> list[str]:
        """What gunicorn and the site have logged so far, the access log included."""
        self.log.flush()
        self.log.seek(0)
        return self.log.read().splitlines()

    def find_worker(self) -> int:
        """The process that answers requests now."""
        alive: list[int] = []

        def has_one() -> bool:
            alive.clear()
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        alive.append(child.pid)
            return len(alive) == 1

        wait_until(has_one, "gunicorn has its worker")
        return alive[0]

    def kill_worker(self) -> None:
        """Kill the process that answers requests, and wait until it is dead. gunicorn starts another."""
        victim = psutil.Process(self.find_worker())
        victim.kill()

        def is_dead() -> bool:
            try:
                return victim.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True

        wait_until(is_dead, "the web worker is dead")

    def freeze_worker(self) -> None:
        """Stop the process that answers requests from running on, and wait until it has stopped."""
        worker = psutil.Process(self.find_worker())
        worker.suspend()
        wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, "the web worker has stopped")

    def wait_ready(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.read_log()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.address}/healthz").status_code == 200
            return False

        wait_until(is_up, "the web process answers")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.listener.close()
        self.log.close()


@contextmanager
def serving(**variables: str) -> Iterator[Web]:
    """A web process on the test's database, with these variables; it answers."""
    web = Web(**variables)
    try:
        web.wait_ready()
        yield web
    finally:
        web.stop()


@contextmanager
def silence() -> Iterator[str]:
    """An address that accepts connections and never says a word: a server as it looks when it hangs."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(512)
        yield f"127.0.0.1:{silent.getsockname()[1]}"


class Temporal:
    """A Temporal server with data that is kept while it is down."""

    def __init__(self, directory: Path) -> None:
        self.port = find_port()
        self.address = f"127.0.0.1:{self.port}"
        self.database = directory / "temporal.db"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = find_temporal_binary()
        assert binary, "the temporal binary comes with requirements-dev.lock"
        self.process = subprocess.Popen(
            [
                *(binary, "server", "start-dev", "--headless", "--ip", "127.0.0.1"),
                *("--port", str(self.port), "--db-filename", str(self.database), "--log-level", "error"),
                *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"),
                *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000"),
            ],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def own_temporal(directory: Path) -> Iterator[Temporal]:
    """A running Temporal server."""
    server = Temporal(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Postgres:
    """A PostgreSQL server with a database of ours, whose data is kept while it is down."""

    def __init__(self, directory: Path) -> None:
        for place in (directory, directory / "logs", directory / "run"):
            place.mkdir()
        directory.chmod(0o711)
        data = DataDir(directory)
        self.service = PostgresService(data, PortBook(data.ports))
        self.service.prepare(choose_ports=True)
        self.url = self.service.list_environment()["DATABASE_URL"]
        self.minder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.service.prepare(choose_ports=False)
        account = self.service.account
        spec: dict[str, Any] = {
            "argv": self.service.build_command(),
            "stop": [[signal.SIGQUIT.name, 10]],
            "uid": account and account.uid,
            "gid": account and account.gid,
            "cwd": "/",
            "umask": 0o077,
        }
        # Minded, so that it ends with this process, however that ends.
        self.minder = subprocess.Popen(
            [sys.executable, "-m", "config.embedded.minder", json.dumps(spec)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.service.check_ready, "PostgreSQL takes connections")

    def kill(self) -> None:
        """As a power cut would: no process of it is asked, and it recovers at the next start."""
        if self.minder is None:
            return
        [server] = psutil.Process(self.minder.pid).children()
        family = [server, *server.children()]
        server.kill()
        self.minder.communicate(timeout=30)
        psutil.wait_procs(family, timeout=30)
        self.minder = None


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server with an empty database."""
    # Short, and walkable for the account it runs as when we are root.
    top = Path(tempfile.mkdtemp(prefix="odt-", dir="/tmp"))
    top.chmod(0o755)
    server = None
    try:
        server = Postgres(top / "data")
        server.start()
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(top)
        if name_outside_place(top / "data").exists():
            shutil.rmtree(name_outside_place(top / "data"))
