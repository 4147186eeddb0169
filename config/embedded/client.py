"""Attaching a command to the guardian of its data dir, or starting that guardian first."""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.embedded.catalogue import (
    CATALOGUE,
    CODE_ROOT,
    DataDir,
    EmbeddedServiceError,
    explain_obstacle,
    find_data_dir,
    list_unset_services,
)

ATTACH_SECONDS = 120.0
QUIET_SECONDS = 0.5  # a wait shorter than this needs no explanation
RETRY_SECONDS = 0.05
MAX_STARTS = 2  # guardians that vanish without a word before we give up

# Open for as long as this process lives: their end tells the guardian that we are gone.
_connections: list[socket.socket] = []


class _GuardianGone(Exception):
    """The connection ended without an answer: the guardian was stopping, or died."""


def attach_services(
    base_dir: Path,
    command: str,
    *,
    need: set[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """The variables to export for every service that no variable names yet; {} when all are named.

    `need` narrows to some of `postgres, temporal, gateway, mail`; `report` gets short lines for a
    person: that something is being started, and notes such as a port that was taken.
    """
    needed = [name for name in list_unset_services() if need is None or name in need]
    if not needed:
        return {}
    obstacles = [obstacle for obstacle in map(explain_obstacle, needed) if obstacle]
    if obstacles:
        raise EmbeddedServiceError("\n".join(obstacles))
    data = DataDir(find_data_dir(base_dir))
    _create_data_dir(data)
    request = {"pid": os.getpid(), "command": command, "need": needed}
    reply = _Attachment(data, request, report).run()
    if "error" in reply:
        raise EmbeddedServiceError(reply["error"])
    for note in reply["notes"]:
        if report:
            report(note)
    environment: dict[str, str] = reply["environment"]
    if os.environ.get("DJANGO_SECRET_KEY"):
        del environment["DJANGO_SECRET_KEY"]
    return environment


def is_connection_lost() -> bool:
    """Whether the guardian has ended (or was killed) while this process still relies on its services."""
    return any(map(_has_ended, _connections))


def read_status(data_dir: Path) -> dict[str, Any]:
    """What runs for this data dir: `running`, `guardian_pid`, `clients`, `services` with pids and ports.

    After a kill -9 of the guardian `running` is False and the rest tells what it last knew.
    """
    data = DataDir(data_dir)
    try:
        status = json.loads(data.status.read_text())
    except FileNotFoundError:
        status = {"guardian_pid": None, "clients": [], "services": {}}
    running = True
    with contextlib.suppress(FileNotFoundError):
        lock = _try_lock(data)
        if lock is not None:
            running = False
            os.close(lock)
    return {**status, "running": running and data.lock.exists()}


def _create_data_dir(data: DataDir) -> None:
    """Only directories made here get a mode: as root traversable, for PostgreSQL's account."""
    missing = [path for path in (data.path, *data.path.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another client was faster
                path.mkdir(mode=0o700)
                path.chmod(0o711 if os.geteuid() == 0 else 0o755)
        (data.path / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EmbeddedServiceError(_explain_unwritable(data, error)) from error


def _explain_unwritable(data: DataDir, error: OSError) -> str:
    return (
        f"the data directory {data.path} cannot be used ({error}): run as its owner, "
        "or name another one with ORDER_DESK_DATA_DIR"
    )


def _try_lock(data: DataDir, *, create: bool = False) -> int | None:
    """The held lock as a file descriptor, or None while a guardian (or one that starts one) has it."""
    import fcntl  # not on Windows, where the message about wheels must still appear

    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDWR
    handle = os.open(data.lock, flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


class _Attachment:
    """One attempt to be answered by a guardian, through starts and stops of guardians, within a deadline."""

    def __init__(self, data: DataDir, request: dict[str, Any], report: Callable[[str], None] | None) -> None:
        self.data = data
        self.request = request
        self.report = report
        self.began = time.monotonic()
        self.starts = 0

    def run(self) -> dict[str, Any]:
        while time.monotonic() - self.began < ATTACH_SECONDS:
            self._start_guardian_if_none()
            try:
                connection = self._connect()
            except (FileNotFoundError, ConnectionError, BlockingIOError):
                self._wait_a_moment()  # it is starting, or stopping: the lock tells which in the next round
                continue
            try:
                reply = self._ask(connection)
            except (_GuardianGone, ConnectionError):
                connection.close()
                self._wait_a_moment()
                continue
            except BaseException:
                connection.close()
                raise
            if "error" in reply:
                connection.close()
            else:
                _keep_open(connection)
            return reply
        raise EmbeddedServiceError(
            f"no answer from the guardian of the local services within {ATTACH_SECONDS:.0f} s: "
            f"see {self.data.log('guardian')}"
        )

    def _start_guardian_if_none(self) -> None:
        """The lock is taken here and inherited by the guardian: there is never a second one to send away."""
        try:
            lock = _try_lock(self.data, create=True)
        except PermissionError as error:
            raise EmbeddedServiceError(_explain_unwritable(self.data, error)) from error
        if lock is None:
            return
        try:
            if self.starts == MAX_STARTS:
                log = self.data.log("guardian")
                raise EmbeddedServiceError(
                    f"the guardian of the local services ends at once, see {log}:\n{_read_tail(log)}"
                )
            self.starts += 1
            _start_guardian(self.data, lock)
        finally:
            os.close(lock)  # the guardian has its own copy

    def _connect(self) -> socket.socket:
        path = json.loads(self.data.status.read_text())["socket"]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(QUIET_SECONDS)
            connection.connect(path)
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise ConnectionRefusedError("the guardian does not accept") from error
            raise
        return connection

    def _ask(self, connection: socket.socket) -> dict[str, Any]:
        connection.sendall(json.dumps(self.request).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            if time.monotonic() - self.began > ATTACH_SECONDS:
                raise EmbeddedServiceError(
                    f"the local services are not ready after {ATTACH_SECONDS:.0f} s: "
                    f"see {self.data.path / 'logs'}"
                )
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                self._explain_wait()
                continue
            if not chunk:
                raise _GuardianGone
            received += chunk
        connection.settimeout(None)
        reply: dict[str, Any] = json.loads(received)
        return reply

    def _wait_a_moment(self) -> None:
        if time.monotonic() - self.began > QUIET_SECONDS:
            self._explain_wait()
        time.sleep(RETRY_SECONDS)

    def _explain_wait(self) -> None:
        if self.report:
            titles = ", ".join(CATALOGUE[name].title for name in self.request["need"])
            self.report(f"starting {titles} ...")
            self.report = None


def _start_guardian(data: DataDir, lock: int) -> None:
    log = data.log("guardian")
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    command = [sys.executable, "-m", "config.embedded.guardian", "--data-dir", str(data.path)]
    try:
        # Returns at once: the guardian forks away, so that it is nobody's child and no zombie later.
        subprocess.run(
            [*command, "--lock-fd", str(lock)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=CODE_ROOT,
            start_new_session=True, pass_fds=[lock], timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServiceError(
            f"the guardian of the local services did not start ({error}): see {log}"
        ) from error
    finally:
        os.close(output)


def _read_tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _keep_open(connection: socket.socket) -> None:
    if not _connections:
        atexit.register(_close_connections)
        os.register_at_fork(after_in_child=_close_connections)
    _connections.append(connection)


def _has_ended(connection: socket.socket) -> bool:
    """The guardian says nothing after its answer: readable means ended."""
    try:
        return not connection.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _close_connections() -> None:
    """At exit, and in a forked child: it must not hold services that only its parent asked for."""
    while _connections:
        _connections.pop().close()
