"""The embedded PostgreSQL 18: where its files lie, whom it runs as for root, how it is made and run."""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.embedded.catalogue import (
    CODE_ROOT,
    DataDir,
    EmbeddedServiceError,
    explain_obstacle,
    find_postgres_install,
)
from config.embedded.processes import (
    PortBook,
    StopPlan,
    read_or_create_secret,
    stop_pids,
    stop_recorded,
)

USER = DATABASE = "orders"
# INT is PostgreSQL's fast shutdown, QUIT its immediate one (recovers from the WAL at the next start).
STOP_PLAN: StopPlan = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))


@dataclass(frozen=True)
class Account:
    """Whom PostgreSQL runs as; it refuses to be root. None as ids: as ourselves."""

    name: str
    uid: int | None
    gid: int | None

    def drop_arguments(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_enter(self, directory: Path) -> bool:
        """Asked of the kernel as that account: mode bits alone miss ACLs and mount options."""
        probe = ["/bin/sh", "-c", 'cd "$1" && [ -x . ]', "sh", str(directory)]
        return subprocess.run(probe, capture_output=True, cwd="/", **self.drop_arguments()).returncode == 0

    def can_run(self, binary: Path) -> bool:
        probe = [str(binary), "--version"]
        try:
            answer = subprocess.run(probe, capture_output=True, cwd="/", **self.drop_arguments())
        except PermissionError:
            return False
        return answer.returncode == 0


def choose_account() -> Account:
    if os.geteuid() != 0:
        return Account(name=str(os.geteuid()), uid=None, gid=None)
    entries = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("nobody", "daemon", "postgres", *entries):
        if name in entries:
            return Account(name=name, uid=entries[name].pw_uid, gid=entries[name].pw_gid)
    raise EmbeddedServiceError(
        "PostgreSQL refuses to run as root and this machine has no other account: "
        "set DATABASE_URL to a PostgreSQL 14+ server"
    )


def name_outside_place(data_dir: Path) -> Path:
    """Where root's PostgreSQL lives when no other account can walk into the checkout (/root is 0700)."""
    digest = hashlib.sha256(f"{CODE_ROOT}\n{data_dir}".encode()).hexdigest()[:12]
    return Path(f"/var/tmp/order-desk-{os.geteuid()}-{digest}")  # noqa: S108 - ownership is verified below


def ensure_outside_place(place: Path) -> Path:
    """Made by us or refused: anyone can create names in /var/tmp."""
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
        place.chmod(0o711)
    found = place.lstat()
    if place.is_symlink() or not place.is_dir() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedServiceError(f"{place} was made by someone else: remove it, or set DATABASE_URL")
    return place


def ensure_owned_dir(directory: Path, account: Account) -> None:
    """A 0700 directory of that account. One that exists already is checked, never changed."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        owner = directory.lstat().st_uid
        wanted = os.geteuid() if account.uid is None else account.uid
        if owner != wanted or directory.is_symlink():
            raise EmbeddedServiceError(
                f"{directory} belongs to user id {owner}, PostgreSQL would run as {account.name} ({wanted}): "
                "run as the same user as before, remove the directory, or set DATABASE_URL"
            ) from None
        return
    if account.uid is not None and account.gid is not None:
        os.chown(directory, account.uid, account.gid)


def place_cluster(data: DataDir, account: Account) -> Path:
    """The directory that holds the cluster: in the data dir if the account can reach it, else outside."""
    inside = data.path / "postgres"
    outside = name_outside_place(data.path) / "postgres"
    if account.uid is None or account.can_enter(data.path):
        # Data that was started outside stays there, even if the checkout has been opened since.
        home = outside if account.uid is not None and not inside.exists() and outside.exists() else inside
    elif inside.exists():
        raise EmbeddedServiceError(
            f"{inside} holds the database, but account {account.name} can no longer reach it: "
            f"make its parent directories traversable again, remove it, or set DATABASE_URL"
        )
    else:
        home = outside
    if home == outside:
        ensure_outside_place(outside.parent)
    ensure_owned_dir(home, account)
    return home


def place_binaries(install: Path, account: Account, data: DataDir) -> Path:
    """The wheel's install, or one copy of it when the account cannot run it where it is."""
    if account.can_run(install / "bin" / "initdb") and account.can_run(install / "bin" / "postgres"):
        return install
    version = subprocess.run(
        [install / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    copy = ensure_outside_place(name_outside_place(data.path)) / f"postgresql-{version}"
    if not copy.exists():
        for leftover in copy.parent.glob(f"{copy.name}.*"):
            shutil.rmtree(leftover)
        unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
        unneeded = shutil.ignore_patterns("include", "*.a")
        # The libraries the wheel bundles lie beside the install (Linux: package.libs, macOS: .dylibs)
        # and are found by relative paths, so they keep their place relative to it.
        package = install.parent
        shutil.copytree(install, unfinished / package.name / install.name, symlinks=True, ignore=unneeded)
        for bundled in (package.with_name(f"{package.name}.libs"), package / ".dylibs"):
            if bundled.is_dir():
                shutil.copytree(bundled, unfinished / bundled.relative_to(package.parent), symlinks=True)
        for directory, names, _ in os.walk(unfinished):
            for name in (".", *names):
                os.chmod(os.path.join(directory, name), 0o755)  # noqa: S103 - public binaries
        unfinished.rename(copy)
    copied = copy / install.parent.name / install.name
    if not account.can_run(copied / "bin" / "initdb"):
        raise EmbeddedServiceError(f"account {account.name} cannot run {copied}: set DATABASE_URL instead")
    return copied


def make_cluster(home: Path, binaries: Path, account: Account, *, password: str, log: Path) -> None:
    """initdb under a temporary name, so that an interrupted one is never taken for a database."""
    unfinished = home / f"data.{os.getpid()}"
    password_file = home / f"password.{os.getpid()}"
    handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(password)
    if account.uid is not None and account.gid is not None:
        os.chown(password_file, account.uid, account.gid)
    command = [
        str(binaries / "bin" / "initdb"),
        f"--pgdata={unfinished}",
        f"--username={USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # The built-in provider sorts and folds the same on every system.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
    ]
    try:
        with log.open("ab") as output:
            made = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                timeout=180, env=clean_environment(), **account.drop_arguments(),
            )  # fmt: skip
        if made.returncode != 0:
            raise OSError(f"initdb ended with code {made.returncode}")
        unfinished.rename(home / "data")
    finally:
        password_file.unlink()


def clean_environment() -> dict[str, str]:
    """Without PG* variables; LC_ALL because macOS makes the postmaster multithreaded when it is unset."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def find_cluster_processes(cluster: Path) -> list[int]:
    """PostgreSQL processes that work in this data directory, backends of a dead postmaster included."""
    import psutil

    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.cwd() == str(cluster.resolve()):
                    found.append(process.pid)
    return found


def clear_postmaster_pid(cluster: Path) -> None:
    """Stop a postmaster that an unrecorded crash left on this cluster; drop a pid file of a foreign pid.

    PostgreSQL judges a dead pid by itself. It takes any live process of its own user for a rival,
    though, and that is what a reused pid looks like.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except FileNotFoundError:
        return
    except ValueError:
        pid = 0  # cut short by a crash of the machine
    own = find_cluster_processes(cluster)
    if own:
        stop_pids([pid] if pid in own else own, STOP_PLAN)
        # Its children saw the postmaster go, and hold the shared memory until they are gone too.
        stop_pids(find_cluster_processes(cluster), ((signal.SIGQUIT, 5.0),))
    if pid == 0 or _is_alive(pid):
        pid_file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


class PostgresService:
    """What the guardian needs to know to keep PostgreSQL running."""

    name = "postgres"
    stop_plan = STOP_PLAN
    minded = True

    def __init__(self, data: DataDir, ports: PortBook) -> None:
        self.data = data
        self.ports = ports
        self.port = 0
        self.cluster = data.path / "postgres" / "data"
        self.marker = str(self.cluster)
        self.notes: list[str] = []
        self.password = ""
        self.binaries = Path()
        self.account: Account | None = None

    def prepare(self, *, choose_ports: bool) -> None:
        """Everything up to the start: account, places, a cluster, nothing left running on it."""
        stop_recorded(self.data.run_record(self.name), STOP_PLAN)
        account = self.account = choose_account()
        install = find_postgres_install()
        if install is None:
            raise EmbeddedServiceError(explain_obstacle(self.name))
        self.binaries = place_binaries(install, account, self.data)
        home = place_cluster(self.data, account)
        self.cluster = home / "data"
        self.marker = str(self.cluster)
        if self.cluster.exists() and not self.data.postgres_password.exists():
            self._set_cluster_aside(home)
        self.password = read_or_create_secret(self.data.postgres_password)
        if self.cluster.exists():
            clear_postmaster_pid(self.cluster)
        else:
            make_cluster(home, self.binaries, account, password=self.password, log=self.data.log(self.name))
        for leftover in home.glob("data.*[0-9]"):  # of an initdb that was cut short
            shutil.rmtree(leftover)
        if choose_ports:
            self.port = self.ports.pick("postgres")

    def _set_cluster_aside(self, home: Path) -> None:
        """The data dir was emptied: orders without their Temporal history are no use, but kept."""
        clear_postmaster_pid(self.cluster)
        aside = home / "data.previous"
        if aside.exists():
            shutil.rmtree(aside)
        self.cluster.rename(aside)
        self.notes.append(f"the database of an earlier data directory was set aside as {aside}")

    def build_command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.binaries / "bin" / "postgres"), "-D", str(self.cluster), *options]

    def check_ready(self) -> bool:
        """A login with our password, so no stranger on the port passes; makes the database once."""
        import psycopg

        parameters: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.port, "user": USER, "password": self.password,
            "connect_timeout": 3,
        }  # fmt: skip
        try:
            with psycopg.connect(dbname="postgres", autocommit=True, **parameters) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if known.fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False  # refused, or "the database system is starting up"
        return True

    def list_environment(self) -> dict[str, str]:
        return {"DATABASE_URL": f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"}

    def list_ports(self) -> dict[str, int]:
        return {"port": self.port}
