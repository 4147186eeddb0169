"""The supervisor with stand-in children: small Python scripts instead of Temporal workers."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from django.core.management import CommandError

from orders.child import EX_TEMPFAIL
from orders.management.commands.run_saga_workers import is_unreachable, parse_count, shorten_reason
from orders.supervisor import BackOff, describe_exit, take_snapshot

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0

DRIVER = """
import sys
from pathlib import Path
from orders import supervisor

supervisor.SUPERVISOR_MARGIN = 0.5
supervisor.FIRST_PAUSE, supervisor.LONGEST_PAUSE, supervisor.LONGEST_WAIT_FOR_SERVICES = 0.05, 0.1, 0.1
supervisor.SCAN_INTERVAL = 0.1
sys.exit(
    supervisor.supervise(
        lambda index: [sys.executable, "child.py", str(index)],
        count=int(sys.argv[1]), grace=float(sys.argv[2]), directory=Path(sys.argv[3]),
        watch=sys.argv[4] == "watch",
    )
)
"""

# Says that it is ready, and works until it is told to stop.
OBEDIENT = """
import asyncio, sys
from orders import child
from orders.child import run_child

child.CHILD_MARGIN = 0.5

async def work(stop):
    print("ready: number", sys.argv[1], flush=True)
    await stop.wait()
    print("draining", flush=True)

run_child(work, grace=0.5)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready: and deaf", flush=True)
time.sleep(60)
"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    """Ended; that init has not yet looked at an orphan's exit code does not count."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Crew:
    """A running supervisor, what it has printed, and its children."""

    def __init__(self, directory: Path, *, count: int, grace: float, watch: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(count), str(grace), str(directory), "watch" if watch else "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.lines: list[str] = []
        self.seen: dict[int, psutil.Process] = {}
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in list(self.lines))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        wait_until(lambda: self.count(pattern) >= times, f"{times} x {pattern!r} in {self.lines}")

    def children(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        self.seen.update({child.pid: child for child in children})
        return children

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""  # nothing but the log, and that goes to stderr
        return code

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.children()
            self.process.kill()
            self.process.wait()
        for child in self.seen.values():
            if child.is_running():
                child.kill()
        self.reader.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


Start = Callable[..., Crew]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    crews: list[Crew] = []

    def start_crew(script: str, *, count: int = 2, grace: float = 2.0, watch: bool = False) -> Crew:
        (tmp_path / "child.py").write_text(textwrap.dedent(script))
        crews.append(Crew(tmp_path, count=count, grace=grace, watch=watch))
        return crews[-1]

    yield start_crew
    for crew in crews:
        crew.clean_up()


# --- staying alive ---------------------------------------------------------------------------------------


def test_each_line_carries_the_name_of_its_worker(start: Start) -> None:
    crew = start(
        # The last in one write: the worker may be told to stop as soon as it is ready.
        "import os, sys\nos.write(1, b'to stdout\\n')\n"
        "os.write(2, b'ready: one\\nno newline')\nsys.stdin.read()"
    )
    crew.wait_for(r"ready: one", 2)
    assert crew.end(signal.SIGTERM) == 0
    for name in ("worker-1", "worker-2"):
        assert f"[{name}] to stdout" in crew.lines
        assert f"[{name}] ready: one" in crew.lines
        assert f"[{name}] no newline" in crew.lines


def test_killed_worker_is_started_again_and_the_others_are_left_alone(start: Start) -> None:
    crew = start(OBEDIENT, count=3)
    crew.wait_for("ready: ", 3)
    victim, *others = crew.children()
    victim.kill()
    crew.wait_for("ready: ", 4)
    assert crew.count("was ended by SIGKILL; starting it again in 0.05 s") == 1
    assert {child.pid for child in others} < {child.pid for child in crew.children()}
    assert crew.end(signal.SIGTERM) == 0
    assert "3 of 3 workers drained" in crew.lines[-1]
    assert "1 restarts before" in crew.lines[-1]


def test_crash_loop_of_all_ends_loudly_with_the_last_error(start: Start) -> None:
    crew = start("raise SystemExit('no such table: orders')")
    assert crew.wait() == 1
    assert crew.lines[-1].endswith("the last error was: no such table: orders")


def test_crash_loop_of_one_does_not_end_the_others(start: Start) -> None:
    crew = start("import sys\nif sys.argv[1] == '1': sys.exit('broken')\nprint('ready: ')\nsys.stdin.read()")
    crew.wait_for("worker-1 ended with exit code 1", 8)
    assert crew.process.poll() is None
    assert crew.end(signal.SIGTERM) == 0


def test_unreachable_service_is_waited_for_and_said_once(start: Start, tmp_path: Path) -> None:
    crew = start(
        f"""
        import pathlib, sys
        if not pathlib.Path("up").exists():
            print("waiting for Temporal at nowhere:7233", flush=True)
            with open("tries", "a") as tries:
                tries.write("x")
            sys.exit({EX_TEMPFAIL})
        print("ready: at last", flush=True)
        sys.stdin.read()
        """
    )
    tries = tmp_path / "tries"
    wait_until(lambda: tries.exists() and len(tries.read_text()) > 12, "more tries than a crash loop has")
    (tmp_path / "up").touch()
    crew.wait_for("ready: at last", 2)
    assert crew.count("waiting for Temporal") == 1
    assert crew.end(signal.SIGTERM) == 0


def test_child_that_keeps_ending_by_itself_is_a_crash(start: Start) -> None:
    crew = start("raise SystemExit")
    assert crew.wait() == 1  # although the child's own exit code is 0
    assert crew.lines[-1].startswith("[supervisor] gave up")


# --- ending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_drains_every_child(start: Start, number: signal.Signals) -> None:
    crew = start(OBEDIENT, count=3)
    crew.wait_for("ready: ", 3)
    assert crew.end(number) == 0
    assert crew.count("] draining$") == 3


def test_child_that_does_not_drain_in_time_is_killed_and_told(start: Start) -> None:
    crew = start(STUBBORN, grace=0.2)
    crew.wait_for("ready: ", 2)
    children = crew.children()
    assert crew.end(signal.SIGTERM) == 1
    assert crew.count("did not drain: it was ended by SIGKILL") == 2
    assert all(is_gone(child) for child in children)


def test_second_signal_stops_at_once(start: Start) -> None:
    crew = start(STUBBORN, grace=60)
    crew.wait_for("ready: ", 2)
    children = crew.children()
    crew.process.send_signal(signal.SIGINT)
    crew.wait_for("draining 2 of 2")
    assert crew.end(signal.SIGINT) == 130
    wait_until(lambda: all(is_gone(child) for child in children), "children are gone")


def test_killed_supervisor_leaves_no_child(start: Start) -> None:
    crew = start(OBEDIENT)
    crew.wait_for("ready: ", 2)
    children = crew.children()
    crew.process.kill()
    crew.process.wait()
    wait_until(lambda: all(is_gone(child) for child in children), "children are gone")


def test_child_that_hangs_is_ended_after_its_grace_without_any_supervisor(start: Start) -> None:
    crew = start(OBEDIENT.replace("await stop.wait()", "import time; time.sleep(60)"), count=1)
    crew.wait_for("ready: ")
    (child,) = crew.children()
    crew.process.kill()
    crew.process.wait()
    wait_until(lambda: is_gone(child), "the child is gone")


def test_terminal_interrupt_reaches_only_the_supervisor(start: Start) -> None:
    crew = start(OBEDIENT)
    crew.wait_for("ready: ", 2)
    groups = {os.getpgid(child.pid) for child in crew.children()}
    assert len(groups) == 2
    assert os.getpgid(crew.process.pid) not in groups


def test_second_signal_ends_a_child_at_once() -> None:
    script = OBEDIENT.replace("\n\nrun_child", "\n    await asyncio.sleep(60)\n\nrun_child")
    child = subprocess.Popen(
        [sys.executable, "-c", script.replace("grace=0.5", "grace=60"), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready: number 1\n"
        child.terminate()
        assert child.stdout.readline() == b"draining\n"
        child.terminate()
        assert child.wait(DEADLINE) == 128 + signal.SIGTERM


# --- reloading -------------------------------------------------------------------------------------------


def test_change_restarts_the_workers_one_after_the_other(start: Start, tmp_path: Path) -> None:
    crew = start(OBEDIENT, watch=True)
    crew.wait_for("ready: number", 2)
    old = {child.pid for child in crew.children()}
    (tmp_path / "module.py").write_text("changed = True\n")
    crew.wait_for("ready: number", 4)
    assert crew.count("module.py has changed") == 1
    assert not old & {child.pid for child in crew.children()}
    story = [line.split("] ")[1] for line in crew.lines if "number" in line or "draining" in line]
    assert story[2:] == ["draining", "ready: number 1", "draining", "ready: number 2"]
    assert crew.end(signal.SIGTERM) == 0


def test_code_that_does_not_start_leaves_the_other_workers_running(start: Start, tmp_path: Path) -> None:
    crew = start(OBEDIENT, watch=True)
    crew.wait_for("ready: number", 2)
    (tmp_path / "child.py").write_text("this is no Python\n")
    crew.wait_for("worker-1 .* again: waiting for the code to change")
    crew.wait_for("worker-1 does not start; the others stay as they are")
    assert len(crew.children()) == 1
    (tmp_path / "child.py").write_text(OBEDIENT)
    crew.wait_for("ready: number", 4)
    assert len(crew.children()) == 2
    assert crew.end(signal.SIGTERM) == 0


def test_snapshot_sees_code_and_templates_and_nothing_generated(tmp_path: Path) -> None:
    for name in ("a.py", "templates/mail.txt", ".venv/b.py", "tests/c.py", "staticfiles/d.html", "notes.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert set(take_snapshot(tmp_path)) == {str(tmp_path / "a.py"), str(tmp_path / "templates/mail.txt")}


# --- arithmetic and words --------------------------------------------------------------------------------


def test_pause_grows_while_a_child_keeps_dying_and_starts_anew_after_a_long_life() -> None:
    back_off = BackOff()
    pauses = [back_off.note_death(code=-9, ran=1.0) for _ in range(8)]
    assert pauses == [0.1, 1, 2, 4, 8, 16, 30, 30]
    assert back_off.note_death(code=-9, ran=60.0) == 0.1
    assert back_off.note_death(code=-9, ran=1.0) == 0.1


def test_unreachable_service_is_no_crash_and_is_asked_at_least_every_five_seconds() -> None:
    back_off = BackOff()
    pauses = [back_off.note_death(code=EX_TEMPFAIL, ran=1.0) for _ in range(6)]
    assert pauses == [0.5, 1, 2, 4, 5, 5]
    assert back_off.crashes == 0


def test_exit_is_described_in_words() -> None:
    assert describe_exit(1) == "ended with exit code 1"
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(-250) == "was ended by signal 250"


@pytest.mark.parametrize("value", ["0", "65", "-1", "four", "", "2.5"])
def test_count_that_is_no_number_of_workers_is_refused(value: str) -> None:
    with pytest.raises(CommandError, match="from 1 to 64") as refusal:
        parse_count(value)
    assert refusal.value.returncode == 2


@pytest.mark.parametrize("value", ["1", "64", 4])
def test_count_in_range_is_taken(value: str | int) -> None:
    assert parse_count(value) == int(value)


def test_reason_of_an_unreachable_temporal_is_short() -> None:
    error = RuntimeError(
        "Failed client connect: Server connection error: tonic::transport::Error(Transport, ConnectError("
        'ConnectError("tcp connect error", 127.0.0.1:1, Os { code: 111, kind: ConnectionRefused, '
        'message: "Connection refused" })))'
    )
    assert is_unreachable(error)
    assert shorten_reason(error) == "Connection refused"


def test_missing_namespace_is_a_mistake_and_not_an_outage() -> None:
    assert not is_unreachable(RuntimeError("Worker validation failed: Status { code: NotFound, message: ..."))
