"""A process under the supervisor: drains on its first signal, and when its supervisor is gone.

Its stdin is a pipe from the supervisor and ends with it, which is how it learns of a kill -9.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvloop

# The exit code for "what I need cannot be reached": tried again for ever, never a crash loop.
EX_TEMPFAIL = 75
READY_MARK = "ready: "
WAITING_MARK = "waiting for "

# Objects between two looks for garbage (700 by default), and seconds after which a thread that computes lets
# another go on (5 ms): an order's way leads from thread to thread some thirty times.
GARBAGE_AFTER = 10_000
SWITCH_AFTER = 0.0005

# Seconds after the grace until a child ends itself, a little before its supervisor would kill it.
CHILD_MARGIN = 3.0


def run_child(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, grace: float) -> None:
    """Run `work` until it ends or raises. Its event is set by SIGTERM, SIGINT or the end of stdin.

    From then on the kernel gives it `grace` seconds and a little. A second signal ends the process at once.
    """

    async def live() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        draining = threading.Event()

        def begin_drain() -> None:
            draining.set()
            # SIGALRM ends the process also when the interpreter hangs, or waits for a thread at its exit.
            signal.setitimer(signal.ITIMER_REAL, grace + CHILD_MARGIN)
            loop.call_soon_threadsafe(stop.set)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if draining.is_set():
                os._exit(128 + number)
            begin_drain()

        def watch_supervisor() -> None:
            with contextlib.suppress(OSError):
                while os.read(0, 1024):
                    pass
            if not draining.is_set():
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    begin_drain()

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        threading.Thread(target=watch_supervisor, name="supervisor-watch", daemon=True).start()
        await work(stop)

    # What has been loaded stays; looking through it for garbage again and again is of no use, nor is it after
    # every few hundred objects.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    sys.setswitchinterval(SWITCH_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
