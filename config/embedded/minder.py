"""Runs one foreign binary and stops it when the pipe on stdin ends - also after a kill -9 of its other end.

A minder exists because a parent-death signal is Linux only, while the end of a pipe is seen everywhere.
Its argument is JSON: argv, stop (pairs of signal name and seconds), and optionally uid, gid, cwd, umask,
record and marker (see `record_process`).
"""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from config.embedded.processes import record_process


def is_lifeline_cut(timeout: float | None) -> bool:
    """Nothing is ever written to the pipe: readable means ended."""
    return bool(select.select([sys.stdin], [], [], timeout)[0]) and not os.read(sys.stdin.fileno(), 1)


def start_binary(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    """In a session of its own, and as the unprivileged account when one is named."""
    account: dict[str, Any] = {}
    if spec.get("uid") is not None:
        account = {"user": spec["uid"], "group": spec["gid"], "extra_groups": []}
    return subprocess.Popen(
        spec["argv"],
        stdin=subprocess.DEVNULL,
        cwd=spec.get("cwd"),
        umask=spec.get("umask", -1),
        start_new_session=True,
        **account,
    )


def stop_binary(binary: subprocess.Popen[bytes], plan: list[tuple[str, float]]) -> int:
    for name, patience in plan:
        binary.send_signal(signal.Signals[name])
        try:
            return binary.wait(patience)
        except subprocess.TimeoutExpired:
            print(f"minder: still running {patience} s after {name}", file=sys.stderr, flush=True)
    binary.kill()
    return binary.wait()


def mind_binary(spec: dict[str, Any]) -> int:
    """Sleep in select until the binary exits, the guardian is gone, or someone asks us to stop."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake the select
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: asked_to_stop.append(received))
    if is_lifeline_cut(0):
        return 0
    binary = start_binary(spec)
    if "record" in spec:
        record_process(Path(spec["record"]), pid=binary.pid, marker=spec["marker"])
    while True:
        if asked_to_stop:
            return stop_binary(binary, spec["stop"])
        if (code := binary.poll()) is not None:
            return code
        ready, _, _ = select.select([sys.stdin, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        if sys.stdin in ready and is_lifeline_cut(0):
            return stop_binary(binary, spec["stop"])


if __name__ == "__main__":
    exit_code = mind_binary(json.loads(sys.argv[1]))
    # A shell's convention for "ended by a signal", so that the guardian's log can tell.
    sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)
