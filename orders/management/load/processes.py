"""Processor time and memory of processes and their families, read from /proc; nothing where there is none."""

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# Mark of a worker's own command line; the supervisor's has none.
CHILD_FLAG = "--child"


@dataclass(frozen=True, slots=True)
class Stat:
    """A process at one moment. `own` and `reaped` are seconds: of itself, and of the children it has seen
    end."""

    pid: int
    parent: int
    own: float
    reaped: float


def has_proc() -> bool:
    """Whether this system tells what a process takes in the way that is read here."""
    return (PROC / "self" / "stat").exists()


def parse_stat(text: str, *, ticks: int) -> Stat:
    """What /proc/<pid>/stat says, with `ticks` a second. The name in it may hold blanks and brackets."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(")")[2].split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return Stat(
        pid=int(pid), parent=int(fields[1]), own=(utime + stime) / ticks, reaped=(cutime + cstime) / ticks
    )


def read_stats() -> dict[int, Stat]:
    """All processes there are, by pid."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats: dict[int, Stat] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                stat = parse_stat((entry / "stat").read_text(errors="replace"), ticks=ticks)
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            stats[stat.pid] = stat
    return stats


def iterate_family(root: int, stats: Mapping[int, Stat]) -> Iterator[Stat]:
    """The process and its descendants; nothing when it has ended."""
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            yield stats[pid]
            waiting += children.get(pid, [])


class Meter:
    """Processor time of named parts of a stack, each a process with its family, and of this process alone."""

    def __init__(self, parts: Mapping[str, int | None]) -> None:
        self.parts = parts
        self.began = self.read()

    def read(self) -> dict[str, float | None]:
        """Seconds of each part since it was started; None for a part that is not there. `client` is us.

        What has ended counts with the parent that has reaped it, so a family's sum never shrinks.
        """
        if not has_proc():
            return dict.fromkeys([*self.parts, "client"])
        stats = read_stats()
        seconds: dict[str, float | None] = {}
        for name, root in self.parts.items():
            family = list(iterate_family(root, stats)) if root is not None else []
            seconds[name] = sum(stat.own + stat.reaped for stat in family) if family else None
        # Our children are the parts.
        seconds["client"] = stats[os.getpid()].own
        return seconds

    def measure(self) -> dict[str, float | None]:
        """Seconds of each part since this meter was made."""
        return {
            name: None if now is None or (before := self.began[name]) is None else now - before
            for name, now in self.read().items()
        }


def find_worker_pids(supervisor: int) -> dict[str, int]:
    """The worker processes below a supervisor (or its minder), as `worker-1` and so on."""
    import psutil  # comes with the embedded services

    found: dict[str, int] = {}
    try:
        family = psutil.Process(supervisor).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    for process in family:
        try:
            command = process.cmdline()
        except psutil.Error:  # it has just ended
            continue
        if CHILD_FLAG in command[:-1]:
            found[f"worker-{command[command.index(CHILD_FLAG) + 1]}"] = process.pid
    return dict(sorted(found.items()))


def read_memory(pid: int) -> tuple[float, float] | None:
    """Megabytes in memory now and at most so far; None where that cannot be read."""
    try:
        text = (PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kilobytes = {name: int(number) for name, number in re.findall(r"^Vm(RSS|HWM):\s+(\d+) kB$", text, re.M)}
    if len(kilobytes) < 2:  # it has just ended
        return None
    return kilobytes["RSS"] / 1024, kilobytes["HWM"] / 1024


class MemoryLog:
    """Memory of each worker: when so many orders have ended, at the end, and at most."""

    def __init__(self, supervisor: int, *, sample_at: int) -> None:
        self.supervisor = supervisor
        self.sample_at = sample_at
        self.sampled: dict[str, float] | None = None

    def note_progress(self, ended: int) -> None:
        """Take the sample once so many orders have ended."""
        if self.sampled is None and ended >= self.sample_at:
            self.sampled = {name: now for name, (now, _) in self._read().items()}

    def describe(self) -> dict[str, dict[str, float | None]]:
        """Megabytes of each worker. A worker that was started anew has no sample."""
        sampled = self.sampled or {}
        return {
            name: {
                "at_2000": round(sampled[name], 1) if name in sampled else None,
                "end": round(now, 1),
                "max": round(most, 1),
            }
            for name, (now, most) in self._read().items()
        }

    def _read(self) -> dict[str, tuple[float, float]]:
        pids = find_worker_pids(self.supervisor)
        return {name: memory for name, pid in pids.items() if (memory := read_memory(pid))}


def pause_processes(pids: Iterable[int]) -> None:
    """Let them stand still (SIGSTOP); one that has ended is left out."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def resume_processes(pids: Iterable[int]) -> None:
    """Let them go on."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
