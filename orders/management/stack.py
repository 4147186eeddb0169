"""What `demo` and `dev` bring up: schema, catalogue, a log-in, the web process, the workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import connection
from django.db.backends.utils import CursorWrapper

from config.embedded import is_connection_lost
from inventory.catalogue import seed_catalogue

DEMO_USER = "demo"
DEMO_PASSWORD = "demo"  # noqa: S105 (a log-in for the developer's own machine, printed on the screen)
# The groups orders/migrations/0004_roles.py makes; the demo has one user of each, with its name as password.
DEMO_ROLES = ["viewer", "support", "warehouse", "finance", "manager"]
WEB_PORT = 8000
SCHEMA_LOCK = 0x0DE5  # any number, the same in every process that migrates
SCHEMA_PATIENCE = 600.0  # seconds: an index of a large table is built in less


class StackError(Exception):
    """A process did not come up. The message says which, and where its log is."""


def prepare_database() -> None:
    """Migrate, seed the catalogue and make the demo log-in; several commands may do so at once.

    Raises StackError when another has been at it for SCHEMA_PATIENCE.
    """
    deadline = time.monotonic() + SCHEMA_PATIENCE
    with connection.cursor() as cursor:
        # Asked for again and again: an index that is built while the site runs waits for every statement
        # that is under way, one that waits for this lock included.
        while not try_schema_lock(cursor):
            if time.monotonic() > deadline:
                raise StackError(
                    f"Another command has been migrating this database for {SCHEMA_PATIENCE:.0f} s. "
                    "See what it says, or stop it, and run this again."
                )
            time.sleep(0.2)
        try:
            call_command("migrate", verbosity=0, interactive=False)
            seed_catalogue()
            make_demo_user()
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [SCHEMA_LOCK])


def try_schema_lock(cursor: CursorWrapper) -> bool:
    """Take the lock of whoever migrates; False while somebody else has it."""
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [SCHEMA_LOCK])
    return bool(cursor.fetchone() == (True,))


def make_demo_user() -> None:
    """The administrator whose log-in the demo prints, and a user of each role whose group is there.

    Only ever made by `demo` and `dev`. A user who exists is left as he is.
    """
    logins: list[tuple[str, str, bool]] = [
        (DEMO_USER, DEMO_PASSWORD, True),
        *((role, role, False) for role in DEMO_ROLES),
    ]
    for name, password, is_superuser in logins:
        user, is_new = User.objects.get_or_create(
            username=name,
            defaults={"email": f"{name}@shop.example", "is_staff": True, "is_superuser": is_superuser},
        )
        if is_new:
            user.set_password(password)
            user.save()
            user.groups.set(Group.objects.filter(name=name))


def find_free_port(wanted: int) -> int:
    """`wanted`, or the next port that is free on the loopback interface."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StackError(
        f"No port between {wanted} and {wanted + 99} is free; stop something that listens there."
    )


def listens_on(pid: int, port: int) -> bool:
    """Whether a descendant of that process has the port, rather than another program."""
    import psutil  # comes with the embedded services; not every start of a stack has a web process

    try:
        family = psutil.Process(pid).children(recursive=True)
        found = [one for process in family for one in process.net_connections("tcp4")]
    except psutil.Error:
        return False  # one of them has just ended
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)


class Stack:
    """Child processes of one command. They end with it, even when it is killed with -9."""

    def __init__(self, *, log_dir: Path, quiet: bool, environment: dict[str, str] | None = None) -> None:
        """`environment` stands in for our own, for a stack that is not to share our services."""
        self.log_dir = log_dir
        self.environment = environment
        self.quiet = quiet
        self.children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.files = ExitStack()

    def start_workers(self, count: int, *, shop_url: str = "", reload: bool = False) -> None:
        """Start `count` workers under their supervisor. Mails link to the shop at `shop_url`, if it is given
        and the environment names no other."""
        self._start(
            "workers",
            [
                *(sys.executable, str(settings.BASE_DIR / "manage.py"), "run_saga_workers"),
                *("--count", str(count)),
                *(["--reload"] if reload else []),
            ],
            patience=settings.WORKER_GRACE + 10,
            environment={"SHOP_URL": settings.SHOP_URL or shop_url},
        )

    def start_module(self, name: str, module: str, *arguments: str) -> None:
        """Start a module of ours as a process called `name`; it ends at SIGTERM."""
        self._start(name, [sys.executable, "-m", module, *arguments], patience=10)

    def start_web(self, *, reload: bool = False) -> str:
        """Start the web process on port 8000, or the next free one. Returns its address once it answers."""
        port = find_free_port(WEB_PORT)
        while not self._serve(port, reload=reload):
            tried, port = port, find_free_port(port)
            if port == tried:  # nobody was faster than our process: it ended for another reason
                raise StackError(f"The web process did not come up; see {self.log_dir}/web.log.")
        address = f"http://127.0.0.1:{port}"
        if port != WEB_PORT:
            print(f"port {WEB_PORT} is taken, the shop is on {address}", file=sys.stderr)
        return address

    def _serve(self, port: int, *, reload: bool) -> bool:
        """Start the web process on that port: True once it answers, False when it ended before."""
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        gunicorn = [
            *(sys.executable, "-m", "gunicorn", "--chdir", str(settings.BASE_DIR)),
            *("--config", str(settings.BASE_DIR / "config" / "gunicorn.py"), "--bind", f"127.0.0.1:{port}"),
        ]
        process = self._start(
            "web", [*manage, "runserver", f"127.0.0.1:{port}"] if reload else gunicorn, patience=10
        )
        deadline = time.monotonic() + 60
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise StackError(f"The web process does not answer; see {self.log_dir}/web.log.")
            if not listens_on(process.pid, port):
                time.sleep(0.1)
                continue
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                    return True
            except urllib.error.HTTPError as error:
                raise StackError(
                    f"The web process answers {error.code}; see {self.log_dir}/web.log."
                ) from error
            except OSError:
                time.sleep(0.1)
        self.children.remove(("web", process))
        return False

    def find_process(self, name: str) -> int | None:
        """The pid of the child of that name, below which all its processes are; None if there is none."""
        return next((process.pid for each, process in self.children if each == name), None)

    def find_dead(self) -> str | None:
        """What has ended and where to read why, if a child or the local services have."""
        if is_connection_lost():
            return f"The local services have ended; see {self.log_dir}/guardian.log."
        for name, process in self.children:
            if process.poll() is not None:
                log = f"see {self.log_dir}/{name}.log" if self.quiet else "its last lines are above"
                return f"The {name} process has ended; {log}."
        return None

    def stop(self) -> None:
        """End every child: first asked, then made to. Workers finish what is in flight."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C cannot make it any faster
        for _, process in self.children:
            if process.stdin is not None:
                process.stdin.close()  # the minder's pipe: it stops what it minds
        for _, process in self.children:
            process.wait(settings.WORKER_GRACE + 30)
        self.files.close()

    def _start(
        self, name: str, argv: list[str], *, patience: float, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        output: IO[bytes] | None = None
        if self.quiet:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            log = os.open(self.log_dir / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            output = self.files.enter_context(os.fdopen(log, "ab"))
        spec = {"argv": argv, "stop": [[signal.SIGTERM.name, patience]]}
        process = subprocess.Popen(
            [sys.executable, "-m", "config.embedded.minder", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=output or sys.stderr,
            stderr=output or sys.stderr,
            cwd=settings.BASE_DIR,
            env={**(os.environ if self.environment is None else self.environment), **(environment or {})},
            start_new_session=True,
        )
        self.children.append((name, process))
        return process
