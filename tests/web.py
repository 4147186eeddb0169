"""Web processes in tests: a real gunicorn on the test's database."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.processes import PROJECT, build_environment, wait_until


@contextmanager
def serving(*, workers: int = 2, threads: int = 8, **variables: str) -> Iterator[str]:
    """Gunicorn with so many processes and threads, as the shop runs it; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)  # more than any test has clients
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", "config/gunicorn.py"),
                *("--bind", f"fd://{listener.fileno()}", "--workers", str(workers)),
                *("--threads", str(threads), "--log-level", "warning", "--access-logfile", os.devnull),
            ],
            cwd=PROJECT,
            env={**os.environ, **build_environment(), "LOG_LEVEL": "ERROR", **variables},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        ) as process:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"

            def is_up() -> bool:
                assert process.poll() is None, "the web process has ended"
                try:
                    return httpx.get(f"{address}/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            try:
                wait_until(is_up, "the web process answers")
                yield address
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
