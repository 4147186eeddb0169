"""The real stack of a storm, which it alone uses: servers to be killed and started, web process, workers."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from django.conf import settings

from config.embedded import EmbeddedServiceError
from config.embedded.catalogue import CATALOGUE, DataDir, explain_obstacle
from config.embedded.postgres import name_outside_place
from config.embedded.services import Service, build_services
from orders.management.stack import Stack, StackError
from orders.management.storms.plans import SETTINGS

READY_SECONDS = 60.0
FIRST_ATTEMPTS = 4
# Variables of whoever starts a storm that must not steer its processes.
STEERING = (
    *("API_", "DATABASE_", "DJANGO_", "EMAIL_", "OUTBOX_", "PAYMENT_", "PG", "REFUND_", "SAGA_", "SANDBOX_"),
    *("SHOP_", "TEMPORAL_", "WEBHOOK_", "WORKER_"),
)


class Server:
    """One of the servers: it hangs on a pipe of ours, so it ends with us, however that comes about."""

    def __init__(self, service: Service, data: DataDir) -> None:
        self.service = service
        self.data = data
        self.process: subprocess.Popen[bytes] | None = None
        self.has_run = False

    def start(self) -> None:
        """Start it, and wait until it answers. Raises StackError when it does not."""
        attempts = 1 if self.has_run else FIRST_ATTEMPTS
        for left in reversed(range(attempts)):
            self.service.prepare(choose_ports=not self.has_run)
            self._spawn()
            if self._becomes_ready():
                self.has_run = True
                return
            self.stop()
            if left:  # another program may have been faster on a port
                continue
            title = CATALOGUE[self.service.name].title
            raise StackError(f"{title} did not come up; see {self.data.log(self.service.name)}.")

    def _becomes_ready(self) -> bool:
        assert self.process is not None  # noqa: S101 - just started
        deadline = time.monotonic() + READY_SECONDS
        while not self.service.check_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _spawn(self) -> None:
        service = self.service
        command = service.build_command()
        if service.minded:
            spec: dict[str, Any] = {
                "argv": command,
                "record": str(self.data.run_record(service.name)),
                "marker": service.marker,
                "stop": [[number.name, patience] for number, patience in service.stop_plan],
                "uid": service.account and service.account.uid,
                "gid": service.account and service.account.gid,
                "cwd": "/",
                "umask": 0o077,
            }
            command = [sys.executable, "-m", "config.embedded.minder", json.dumps(spec)]
        with self.data.log(service.name).open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=settings.BASE_DIR,
                env=clean_environment() | {"LC_ALL": "C"},
                start_new_session=True,
            )

    def kill(self) -> int:
        """kill -9 of the server and of every process it has, as a power cut would. Returns how many."""
        import psutil  # comes with the embedded services

        if self.process is None:
            return 0
        family = psutil.Process(self.process.pid).children(recursive=True)
        for process in family:  # the parent first: it would otherwise see its children die, and react
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        if alive:
            raise StackError(f"Processes survive SIGKILL: {[process.pid for process in alive]}.")
        self._end()
        return len(family)

    def stop(self) -> None:
        """Stop it as it is stopped in peace: its pipe ends."""
        if self.process is not None:
            self._end()

    def _end(self) -> None:
        assert self.process is not None  # noqa: S101 - asked by the callers
        assert self.process.stdin is not None  # noqa: S101 - we asked for a pipe
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Scene:
    """The stack of a storm: four servers, a web process, workers, and the people and goods they need."""

    def __init__(
        self, place: Path, *, workers: int = 0, variables: Mapping[str, str] = MappingProxyType(SETTINGS)
    ) -> None:
        self.data = DataDir(place)
        self.workers = workers
        create_place(place)
        # Nobody looks for this UI, and the port where people look for theirs may be taken during an outage.
        services = build_services(self.data, ui_ports=())
        self.servers = {name: Server(service, self.data) for name, service in services.items()}
        self.stack: Stack | None = None
        self.environment = {
            **clean_environment(),
            **variables,
            "ORDER_DESK_EMBEDDED": "1",
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(48),
        }
        self.address = ""
        self.supply: dict[str, Any] = {}

    def open(self, names: Iterable[str] = tuple(CATALOGUE)) -> None:
        """Start these servers. What is run on the scene from now on knows their addresses."""
        for name in names:
            self.servers[name].start()
            self.environment |= self.servers[name].service.list_environment()

    def play(self, *, scarce: int) -> None:
        """Start web process and workers, with `scarce` products of which there are two units each."""
        self.supply = json.loads(self.manage("storm", "--prepare", str(scarce)))
        self.stack = Stack(log_dir=self.data.path / "logs", quiet=True, environment=self.environment)
        self.stack.start_workers(self.workers)
        self.address = self.stack.start_web()

    def take_scarce(self, count: int) -> list[str]:
        """SKUs of products with two units each, which nobody has ordered yet."""
        if len(self.supply["scarce"]) < count:
            self.supply = json.loads(self.manage("storm", "--prepare", str(count)))
        taken, self.supply["scarce"] = self.supply["scarce"][:count], self.supply["scarce"][count:]
        return list(taken)

    def manage(self, *arguments: str, timeout: float = 300) -> str:
        """What a command of manage.py prints on the storm's stack. Raises StackError when it fails."""
        ended = self.run_manage(*arguments, timeout=timeout)
        if ended.returncode != 0:
            raise StackError(
                f"manage.py {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}"
            )
        return ended.stdout

    def run_manage(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py on the storm's stack."""
        return subprocess.run(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments],
            cwd=settings.BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def find_ready_workers(self) -> list[int]:
        """The workers that have said they are ready and are alive."""
        import psutil

        log = (self.data.path / "logs" / "workers.log").read_text(errors="replace")
        ready = {int(pid) for pid in re.findall(r"ready: worker-\d+@\S+:(\d+) ", log)}
        return sorted(pid for pid in ready if psutil.pid_exists(pid) and _is_worker(pid))

    def check_alive(self) -> None:
        """Raises StackError when the web process or the workers' supervisor has ended."""
        dead = self.stack.find_dead() if self.stack else None
        if dead:
            raise StackError(dead)

    def stop(self) -> None:
        """End everything: the workers first, as they need the servers to finish what is in flight."""
        try:
            if self.stack is not None:
                self.stack.stop()
        finally:
            for server in reversed(self.servers.values()):
                server.stop()

    def remove(self) -> None:
        """Forget the data."""
        shutil.rmtree(self.data.path)
        outside = name_outside_place(self.data.path)
        if outside.exists():
            shutil.rmtree(outside)


def _is_worker(pid: int) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "run_saga_workers" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def create_place(place: Path) -> None:
    """An empty data directory, which PostgreSQL's account can walk through when we are root."""
    if place.exists():
        shutil.rmtree(place)
    for directory in (place, place / "logs", place / "run"):
        directory.mkdir(parents=True, mode=0o700)
    place.chmod(0o711 if os.geteuid() == 0 else 0o700)


def clean_environment() -> dict[str, str]:
    """Our environment without what would steer the storm's processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(STEERING)}


def find_obstacles(environment: Mapping[str, str]) -> list[str]:
    """Why no storm can be had here, in sentences; empty when one can."""
    named = [entry.variable for entry in CATALOGUE.values() if environment.get(entry.variable)]
    if named:
        return [
            f"{', '.join(named)} {'names' if len(named) == 1 else 'name'} a service that people may rely on, "
            "and a storm kills its services. It starts its own and takes no others: unset "
            f"{'it' if len(named) == 1 else 'them'} and run this again."
        ]
    return [obstacle for obstacle in map(explain_obstacle, CATALOGUE) if obstacle]


@contextlib.contextmanager
def opened(scene: Scene, names: Iterable[str] = tuple(CATALOGUE)) -> Iterator[Scene]:
    """The scene with these servers; everything on it is stopped at the end, whatever happened in between."""
    before = signal.getsignal(signal.SIGINT)
    try:
        scene.open(names)
        yield scene
    except EmbeddedServiceError as error:
        raise StackError(str(error)) from error
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        try:
            scene.stop()
        finally:
            signal.signal(signal.SIGINT, before)
