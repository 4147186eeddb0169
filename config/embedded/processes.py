"""What the guardian owns in the operating system: private files, free ports, processes known by birth."""

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Below the ephemeral range of Linux (32768) and macOS (49152): no outgoing connection of another
# program can take a service's port between its crash and its restart.
PORT_RANGE = range(20000, 32000)

# Signal and the seconds it may take before the next, harsher one.
StopPlan = Sequence[tuple[signal.Signals, float]]


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read_or_create_secret(path: Path) -> str:
    """A random secret that is made once and kept (0600)."""
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text().strip():
            return kept
    secret = secrets.token_urlsafe(48)
    write_private(path, secret)
    return secret


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing when the file is missing or was cut short by a crash of the machine."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def is_port_free(port: int) -> bool:
    """Nothing listens there, neither on loopback nor on every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    # BSD lets a loopback bind succeed beside a wildcard listener.
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


class PortBook:
    """Ports by purpose. Remembered across guardians, so that bookmarks and open shells keep working."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ports: dict[str, int] = {
            key: port for key, port in read_json(path).items() if isinstance(port, int)
        }
        self.given: dict[str, int] = {}
        self.lock = threading.Lock()  # services are prepared in parallel threads

    def pick(self, key: str, wanted: Sequence[int] = ()) -> int:
        """The first free one of the wanted, the remembered, and random ports."""
        with self.lock:
            others = {port for owner, port in self.given.items() if owner != key}
            remembered = [self.ports[key]] if key in self.ports else []
            chance = random.sample(PORT_RANGE, 200)
            candidates = [port for port in (*wanted, *remembered, *chance) if port not in others]
            port = next((port for port in candidates if is_port_free(port)), None)
            if port is None:
                raise OSError(f"no free port on 127.0.0.1 for {key}")
            self.given[key] = self.ports[key] = port
            write_private(self.path, json.dumps(self.ports))
            return port


def record_process(path: Path, *, pid: int, marker: str) -> None:
    """Note a process so that it can be found, and told from a reuse of its pid, after we were killed."""
    import psutil

    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # gone already: nothing to find later
    write_private(path, json.dumps({"pid": pid, "created": created, "marker": marker}))


def find_recorded(path: Path) -> int | None:
    """The pid of a recorded process, if that very process still runs."""
    import psutil

    record = read_json(path)
    if not record:
        return None
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Birth alone could be skewed by a clock change, a command line alone by a lookalike.
        same = abs(process.create_time() - record["created"]) < 2 and record["marker"] in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process.pid if same else None


def stop_pids(pids: Sequence[int], plan: StopPlan) -> None:
    """Signal processes that are not our children, ever harder, until all are gone."""
    import psutil

    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(pid))
    for number, patience in (*plan, (signal.SIGKILL, 10.0)):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        alive = psutil.wait_procs(alive, timeout=patience)[1]
        if not alive:
            return
    raise OSError(f"processes survive SIGKILL: {[process.pid for process in alive]}")


def stop_recorded(path: Path, plan: StopPlan) -> int | None:
    """Stop what an earlier guardian left behind, if it is still the same process; then forget the record."""
    pid = find_recorded(path)
    if pid is not None:
        stop_pids([pid], plan)
    path.unlink(missing_ok=True)
    return pid
