"""Keeps worker processes running: starts, watches, restarts, drains and reloads them, and is their way out.

Knows neither Django nor Temporal. The child's side is in orders.child.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orders.child import EX_TEMPFAIL, READY_MARK, WAITING_MARK

# After the grace a child ends itself, and a little later its supervisor kills it.
SUPERVISOR_MARGIN = 5.0

HEALTHY_SECONDS = 10.0
CRASHES_IN_A_ROW = 5
# While reloading, one more try tells a killed worker from code that does not start.
RELOAD_CRASHES_IN_A_ROW = 2
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
LONGEST_WAIT_FOR_SERVICES = 5.0
READY_SECONDS = 30.0
REPEAT_WAITING_LINE = 60.0
HEARTBEAT_INTERVAL = 5.0

SCAN_INTERVAL = 1.0
WATCHED_SUFFIXES = (".py", ".html", ".txt")
UNWATCHED_DIRECTORIES = {"__pycache__", "node_modules", "staticfiles", "tests"}

LONGEST_LINE = 64 * 1024
COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)


@dataclass
class BackOff:
    """How long to pause before a dead child is started again."""

    crashes: int = 0
    misses: int = 0

    def note_death(self, *, code: int, ran: float) -> float:
        """Count a death after `ran` seconds and return the pause: none to speak of, then 1, 2, 4 ... 30 s.

        A child that ran well starts anew. One that cannot reach its services is not a crash.
        """
        if code == EX_TEMPFAIL:
            self.misses += 1
            return min(2.0 ** min(self.misses - 2, 10), LONGEST_WAIT_FOR_SERVICES)
        self.misses = 0
        self.crashes = self.crashes + 1 if ran < HEALTHY_SECONDS else 0
        if self.crashes <= 1:
            return FIRST_PAUSE
        return min(2.0 ** min(self.crashes - 2, 10), LONGEST_PAUSE)


def describe_exit(code: int) -> str:
    """An exit code as a person says it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def take_snapshot(root: Path) -> dict[str, int]:
    """The modification time of each watched file below `root`."""
    times: dict[str, int] = {}
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name[0] != "." and name not in UNWATCHED_DIRECTORIES]
        for file in files:
            if file.endswith(WATCHED_SUFFIXES):
                with contextlib.suppress(OSError):  # gone since the walk
                    path = os.path.join(directory, file)
                    times[path] = os.stat(path).st_mtime_ns
    return times


def kill_group(process: asyncio.subprocess.Process | None) -> None:
    """End a child at once, with whatever it started: it leads a process group of its own."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


class Child:
    """One place of the crew: a process, and its successor when it dies."""

    def __init__(self, index: int, crew: "Supervisor") -> None:
        self.name = f"worker-{index}"
        self.crew = crew
        self.command = crew.build_command(index)
        self.process: asyncio.subprocess.Process | None = None
        self.back_off = BackOff()
        self.started = 0.0
        self.restarts = 0
        self.code = 0
        self.last_line = ""
        self.stopping = asyncio.Event()
        self.restarting = False
        self.is_ready = False
        self.settled = asyncio.Event()  # ready, or dead
        self.wake = asyncio.Event()  # ends a pause early
        colour = COLOURS[(index - 1) % len(COLOURS)]
        self.prefix = f"\033[{colour}m[{self.name}]\033[0m" if crew.coloured else f"[{self.name}]"

    async def keep_running(self) -> None:
        """Start the process again whenever it ends, until `stop`."""
        while not self.stopping.is_set():
            self.code = await self._live_once()
            if self.stopping.is_set():
                return
            self.restarts += 1
            if self.restarting:
                continue
            self.settled.set()
            ran = time.monotonic() - self.started
            pause: float | None = self.back_off.note_death(code=self.code, ran=ran)
            if self.crew.watched and self.back_off.crashes >= RELOAD_CRASHES_IN_A_ROW:
                pause = None
                self.crew.say(f"{self.name} {describe_exit(self.code)} again: waiting for the code to change")
            elif self.code != EX_TEMPFAIL:
                self.crew.say(f"{self.name} {describe_exit(self.code)}; starting it again in {pause:g} s")
                self.crew.end_if_hopeless(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), pause)

    async def _live_once(self) -> int:
        self.restarting = self.is_ready = False
        self.settled.clear()
        self.wake.clear()
        self.started = time.monotonic()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                # Never written to. It ends when this process does, however that comes about.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.crew.directory,
                env=self.crew.environment,
                # The terminal's Ctrl-C reaches the supervisor alone; it decides.
                start_new_session=True,
            )
        except OSError as error:
            self._show(f"{self.command[0]} cannot be started: {error}")
            return 1
        if self.stopping.is_set():
            self._terminate()
        assert self.process.stdout is not None  # noqa: S101 - asked for above
        relay = asyncio.create_task(self._relay(self.process.stdout))
        code = await self.process.wait()
        await asyncio.wait({relay}, timeout=1.0)  # a process it left behind may hold the pipe open
        relay.cancel()
        return code

    async def _relay(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._show(line.decode(errors="replace"))
        if rest:
            self._show(rest.decode(errors="replace"))

    def _show(self, line: str) -> None:
        self.last_line = line.strip() or self.last_line
        if READY_MARK in line:
            self.is_ready = True
            self.settled.set()
            self.crew.said_waiting = None
        if WAITING_MARK not in line or self.crew.may_say_waiting():
            write_line(f"{self.prefix} {line.rstrip()}")

    async def restart(self) -> bool:
        """Drain the process and start the next one. Returns False when that one does not start."""
        self.back_off = BackOff()
        self.restarting = True
        self.settled.clear()
        self.wake.set()
        self._terminate()
        patience = self.crew.grace + SUPERVISOR_MARGIN
        asyncio.get_running_loop().call_later(patience, kill_group, self.process)
        try:
            await asyncio.wait_for(self.settled.wait(), patience + READY_SECONDS)
        except TimeoutError:
            return True
        return self.is_ready or self.code == EX_TEMPFAIL

    def stop(self) -> None:
        """Drain, and start no successor."""
        self.stopping.set()
        self.wake.set()
        self._terminate()

    def _terminate(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def is_hopeless(self) -> bool:
        """Whether it keeps dying soon after its start."""
        recovered = self.is_alive() and time.monotonic() - self.started >= HEALTHY_SECONDS
        return self.back_off.crashes >= CRASHES_IN_A_ROW and not recovered


class Supervisor:
    """The crew of children and what they have in common. `run` is its whole life, inside one event loop."""

    def __init__(
        self,
        build_command: Callable[[int], Sequence[str]],
        *,
        count: int,
        grace: float,
        directory: Path,
        watch: bool,
        heartbeat: Path | None,
    ) -> None:
        self.build_command = build_command
        self.grace = grace
        self.directory = directory
        self.watched = watch
        self.heartbeat = heartbeat
        self.coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if not self.coloured:
            self.environment["NO_COLOR"] = "1"
        self.said_waiting: float | None = None
        self.signals = 0
        self.ending = asyncio.Event()
        self.hopeless_because = ""
        self.children = [Child(index, self) for index in range(1, count + 1)]

    async def run(self) -> int:
        """Keep the children running until a signal, or until none of them can live. Returns the exit code."""
        self._listen_to_signals()
        snapshot = take_snapshot(self.directory) if self.watched else {}
        lives = [asyncio.create_task(child.keep_running()) for child in self.children]
        tasks = [*lives, asyncio.create_task(self.ending.wait())]
        if self.watched:
            tasks.append(asyncio.create_task(self._reload_on_change(snapshot)))
        if self.heartbeat is not None:
            tasks.append(asyncio.create_task(self._show_heartbeat(self.heartbeat)))
        # Only `ending` ends by itself: anything else that does has raised, and is not to pass unseen.
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        for task in tasks[len(lives) :]:
            task.cancel()
        return await self._drain(lives)

    async def _drain(self, lives: list["asyncio.Task[None]"]) -> int:
        began = time.monotonic()
        running = [child for child in self.children if child.is_alive()]
        if running:
            self.say(f"draining {len(running)} of {len(self.children)} workers, at most {self.grace:g} s")
        for child in self.children:
            child.stop()
        _, late = await asyncio.wait(lives, timeout=self.grace + SUPERVISOR_MARGIN)
        for child in self.children:
            kill_group(child.process)
        if late:
            await asyncio.wait(late)
        # SIGTERM ends a child that has not begun to work; so does EX_TEMPFAIL.
        failed = [child for child in running if child.code not in (0, -signal.SIGTERM, EX_TEMPFAIL)]
        for child in failed:
            self.say(f"{child.name} did not drain: it {describe_exit(child.code)}")
        restarts = sum(child.restarts for child in self.children)
        self.say(
            f"{len(running) - len(failed)} of {len(running)} workers drained "
            f"in {time.monotonic() - began:.1f} s; {restarts} restarts before"
        )
        if self.hopeless_because:
            self.say(f"gave up: every worker keeps dying; the last error was: {self.hopeless_because}")
        return 1 if failed or self.hopeless_because else 0

    def _listen_to_signals(self) -> None:
        # Not loop.add_signal_handler: it may not fire while the loop is under load.
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.signals += 1
            if self.signals == 1:
                loop.call_soon_threadsafe(self.ending.set)
                return
            for child in self.children:
                kill_group(child.process)
            os.write(2, b"[supervisor] stopped at once\n")
            os._exit(130)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    async def _reload_on_change(self, snapshot: dict[str, int]) -> None:
        while True:
            await asyncio.sleep(SCAN_INTERVAL)
            now = await asyncio.to_thread(take_snapshot, self.directory)
            changed = sorted(path for path, _ in snapshot.items() ^ now.items())
            snapshot = now
            if changed:
                self.say(f"{Path(changed[0]).relative_to(self.directory)} has changed: restarting one by one")
                await self._restart_one_by_one()

    async def _show_heartbeat(self, file: Path) -> None:
        while True:
            if all(child.is_ready and child.is_alive() for child in self.children):
                await asyncio.to_thread(file.touch)
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    async def _restart_one_by_one(self) -> None:
        for child in self.children:
            if not await child.restart():
                self.say(f"{child.name} does not start; the others stay as they are until the next change")
                return

    def end_if_hopeless(self, child: Child) -> None:
        """Give up when every child keeps dying."""
        if all(each.is_hopeless() for each in self.children):
            self.hopeless_because = child.last_line or describe_exit(child.code)
            self.ending.set()

    def may_say_waiting(self) -> bool:
        """Once for the whole crew, and again each minute: not each child at each try."""
        now = time.monotonic()
        if self.said_waiting is not None and now - self.said_waiting < REPEAT_WAITING_LINE:
            return False
        self.said_waiting = now
        return True

    def say(self, text: str) -> None:
        write_line(f"[supervisor] {text}")


def write_line(line: str) -> None:
    """To stderr. Whoever reads it may be gone, which is no reason to stop working."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def supervise(
    build_command: Callable[[int], Sequence[str]],
    *,
    count: int,
    grace: float,
    directory: Path,
    watch: bool = False,
    heartbeat: Path | None = None,
) -> int:
    """Keep `count` processes of `build_command(1..count)` running, started in `directory`.

    `grace` is how many seconds a child has to finish what is in flight; `watch` restarts the children when
    a file below `directory` changes; `heartbeat` is a file that is touched every few seconds while every
    child is alive and ready, for a health check to read. Returns 0 when all drained in time and 1 when not,
    or when every child keeps crashing. A second signal ends the process with 130.
    """

    async def live() -> int:
        supervisor = Supervisor(
            build_command, count=count, grace=grace, directory=directory, watch=watch, heartbeat=heartbeat
        )
        return await supervisor.run()

    return asyncio.run(live())
