"""The one process per data dir that owns the embedded services: starts, watches and stops them.

It lives as long as a client is connected; `config.embedded.client` starts it and hands over the held lock.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from config.embedded.catalogue import CATALOGUE, CODE_ROOT, DataDir, EmbeddedServiceError
from config.embedded.processes import (
    find_recorded,
    read_json,
    read_or_create_secret,
    record_process,
    stop_recorded,
    write_private,
)
from config.embedded.services import Service, build_services

READY_SECONDS = 60.0
FIRST_CLIENT_SECONDS = 20.0
# `manage.py migrate && manage.py runserver` shall find the services of the first command still there.
LINGER_SECONDS = 1.0
FIRST_ATTEMPTS = 4
BACK_OFF_SECONDS = (0.2, 10.0)  # first and longest pause before a crashed service is started again
HEALTHY_SECONDS = 30.0
MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux and 104 on macOS

logger = logging.getLogger("guardian")


class Keeper:
    """Keeps one service running until it is told to stop."""

    def __init__(self, service: Service, guardian: "Guardian") -> None:
        self.service = service
        self.guardian = guardian
        self.data = guardian.data
        self.title = CATALOGUE[service.name].title
        self.state = "new"
        self.error = ""
        self.restarts = 0
        self.minder_pid: int | None = None
        self.settled = asyncio.Event()
        self.stopping = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Also a second chance for a service that failed for an earlier client."""
        if self.task is None or (self.task.done() and not self.stopping.is_set()):
            self.error = ""
            self.restarts = 0
            self._change_state("starting")
            self.task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        self.stopping.set()
        if self.task:
            await self.task

    def _change_state(self, state: str) -> None:
        self.state = state
        if state in ("ready", "failed"):
            self.settled.set()
        else:
            self.settled.clear()
        self.guardian.write_status()
        logger.info("%s is %s", self.title, state)

    async def _keep_running(self) -> None:
        was_ready = False
        failures = 0
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                became_ready = await self._run_once(choose_ports=not was_ready)
            except EmbeddedServiceError as error:
                became_ready, self.error, failures = False, str(error), FIRST_ATTEMPTS
            except Exception as error:  # logged in full, told to the clients, and tried again
                logger.exception("%s could not be started", self.title)
                became_ready, self.error = False, f"{self.title} could not be started: {error}"
            was_ready = was_ready or became_ready
            if self.stopping.is_set():
                break
            healthy = became_ready and time.monotonic() - started > HEALTHY_SECONDS
            failures = 1 if healthy else failures + 1
            if not was_ready and failures >= FIRST_ATTEMPTS:
                self._change_state("failed")
                return
            self.restarts += 1
            self._change_state("restarting")
            pause = min(BACK_OFF_SECONDS[0] * 2 ** min(failures - 1, 10), BACK_OFF_SECONDS[1])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause)
        self._change_state("stopped")

    async def _run_once(self, *, choose_ports: bool) -> bool:
        """One life of the service, from preparing to its exit; True if it was ready in between."""
        await asyncio.to_thread(self.service.prepare, choose_ports=choose_ports)
        if self.stopping.is_set():
            return False
        process = await self._spawn()
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self.stopping.wait())
        ready = asyncio.create_task(self._wait_until_ready())
        try:
            await asyncio.wait((exited, stopping, ready), return_when=asyncio.FIRST_COMPLETED)
            became_ready = ready.done() and ready.result() and not exited.done()
            if became_ready:
                self._change_state("ready")
                await asyncio.wait((exited, stopping), return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                self.error = f"{self.title} ended with code {exited.result()}"
                logger.warning("%s", self.error)
            elif not became_ready:
                self.error = f"{self.title} was not ready within {READY_SECONDS:.0f} s"
            return became_ready
        finally:
            ready.cancel()
            stopping.cancel()
            await self._end_process(process, exited)

    async def _spawn(self) -> asyncio.subprocess.Process:
        """With the read end of our pipe as stdin: when we are gone, however, the service sees it end."""
        service = self.service
        command = service.build_command()
        record = self.data.run_record(service.name)
        if service.minded:
            spec = {
                "argv": command,
                "record": str(record),
                "marker": service.marker,
                "stop": [(number.name, patience) for number, patience in service.stop_plan],
                "uid": service.account.uid if service.account else None,
                "gid": service.account.gid if service.account else None,
                "cwd": "/",  # the account may not be able to enter ours
                "umask": 0o077,
            }
            command = [sys.executable, "-m", "config.embedded.minder", json.dumps(spec)]
        # TEMPORAL_* and PG* of the client that came first must not steer a service all clients share.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PG"))
        }
        environment |= {"LC_ALL": "C"} if service.name == "postgres" else {}
        with self.data.log(service.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=CODE_ROOT,
                env=environment,
            )
        if service.minded:
            self.minder_pid = process.pid
        else:
            record_process(record, pid=process.pid, marker=service.marker)
        return process

    async def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if await asyncio.to_thread(self.service.check_ready):
                return True
            await asyncio.sleep(0.05)
        return False

    async def _end_process(self, process: asyncio.subprocess.Process, exited: "asyncio.Task[int]") -> None:
        """Cutting the lifeline is the order to stop; what does not obey in time is stopped by its record."""
        assert process.stdin is not None  # noqa: S101 - we asked for a pipe
        process.stdin.close()
        patience = sum(seconds for _, seconds in self.service.stop_plan) + 5
        try:
            await asyncio.wait_for(asyncio.shield(exited), patience)
        except TimeoutError:
            logger.warning("%s does not stop, killing it", self.title)
            process.kill()
            await exited
        # A minder that was killed left its binary running.
        record = self.data.run_record(self.service.name)
        await asyncio.to_thread(stop_recorded, record, self.service.stop_plan)


class Guardian:
    """Clients come and go over a unix socket; the services live as long as one of them is connected."""

    def __init__(self, data: DataDir) -> None:
        self.data = data
        self.clients: dict[int, dict[str, Any]] = {}
        self.connections: dict[int, asyncio.StreamWriter] = {}
        self.conversations: set[asyncio.Task[Any]] = set()
        self.socket = Path()
        self.stopping = asyncio.Event()
        self.keepers = {name: Keeper(service, self) for name, service in build_services(data).items()}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self._remove_stale_socket()
        server = await self._open_socket()
        write_private(self.data.status, self._describe())  # without it no client finds us: better not to run
        loop.call_later(FIRST_CLIENT_SECONDS, self._stop_if_alone)
        logger.info("guardian %s serves %s", os.getpid(), self.data.path)
        await self.stopping.wait()
        logger.info("stopping")
        server.close()  # from here on a client waits for our lock and starts the next guardian
        for writer in self.connections.values():
            writer.close()
        await asyncio.gather(*self.conversations)
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers.values()))
        self._remove_socket(self.socket)
        self.data.status.unlink(missing_ok=True)
        logger.info("stopped")

    def write_status(self) -> None:
        """For the clients (where the socket is) and for people (`read_status`)."""
        try:
            write_private(self.data.status, self._describe())
        except OSError as error:  # someone removed the data dir: its services must end all the same
            logger.warning("the status cannot be written: %s", error)

    def _describe(self) -> str:
        status = {
            "guardian_pid": os.getpid(),
            "socket": str(self.socket),
            "clients": list(self.clients.values()),
            "services": {
                name: {
                    "state": keeper.state,
                    "pid": find_recorded(self.data.run_record(name)),
                    "minder_pid": keeper.minder_pid,
                    "restarts": keeper.restarts,
                    **keeper.service.list_ports(),
                }
                for name, keeper in self.keepers.items()
                if keeper.task
            },
        }
        return json.dumps(status)

    def _remove_stale_socket(self) -> None:
        """We hold the lock, so a socket that an earlier guardian recorded has no owner any more."""
        recorded = read_json(self.data.status).get("socket")
        if recorded:
            self._remove_socket(Path(recorded))

    def _remove_socket(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            if path.parent != self.data.path and path.parent.name.startswith("order-desk-"):
                path.parent.rmdir()

    async def _open_socket(self) -> asyncio.Server:
        path = self.data.path / "guardian.sock"
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            path = Path(tempfile.mkdtemp(prefix="order-desk-", dir="/tmp")) / "guardian.sock"
        path.unlink(missing_ok=True)
        previous = os.umask(0o177)  # the reply holds passwords: only we may connect
        try:
            server = await asyncio.start_unix_server(self._serve_client, path)
        finally:
            os.umask(previous)
        self.socket = path
        return server

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = id(writer)
        self.connections[number] = writer
        if task := asyncio.current_task():
            self.conversations.add(task)
            task.add_done_callback(self.conversations.discard)
        try:
            line = await asyncio.wait_for(reader.readline(), 10)
            if not line or self.stopping.is_set():
                return  # gone already; or it takes the silent end for "try again"
            request = json.loads(line)
            self.clients[number] = {"pid": int(request["pid"]), "command": str(request["command"])}
            logger.info("client %s (%s)", request["pid"], request["command"])
            answer = asyncio.create_task(self._provide([str(name) for name in request["need"]]))
            gone = asyncio.create_task(reader.read(1))
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                writer.write(json.dumps(answer.result()).encode() + b"\n")
                await writer.drain()
                await gone
            answer.cancel()
        except (ValueError, KeyError, TypeError, TimeoutError):
            logger.exception("a client did not speak our language")
        except ConnectionError as error:
            logger.info("client gone: %r", error)
        finally:
            self.connections.pop(number).close()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._stop_if_alone)
            if self.clients.pop(number, None):
                self.write_status()

    def _stop_if_alone(self) -> None:
        if not self.connections:
            self.stopping.set()

    async def _provide(self, need: list[str]) -> dict[str, Any]:
        """Start what is not running yet, all at once, and describe it when everything is ready."""
        keepers = [self.keepers[name] for name in need]
        for keeper in keepers:
            keeper.start()
        self.write_status()
        waits = asyncio.gather(*(keeper.settled.wait() for keeper in keepers))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waits, READY_SECONDS + 10)
        troubled = [keeper for keeper in keepers if keeper.state != "ready"]
        if troubled:
            return {"error": "\n".join(self._describe_trouble(keeper) for keeper in troubled)}
        environment = {
            "ORDER_DESK_EMBEDDED": "1",
            "DJANGO_SECRET_KEY": read_or_create_secret(self.data.secret_key),
        }
        for keeper in keepers:
            environment |= keeper.service.list_environment()
        notes = [note for keeper in keepers for note in keeper.service.notes]
        return {"environment": environment, "notes": notes}

    def _describe_trouble(self, keeper: Keeper) -> str:
        entry = CATALOGUE[keeper.service.name]
        log = self.data.log(keeper.service.name)
        lines = log.read_text(errors="replace").splitlines()
        last = f"Its last words: {lines[-1]}\n" if lines else ""
        return (
            f"{keeper.error or f'{keeper.title} is not ready'}.\n{last}"
            f"See {log} and {self.data.log('guardian')}, or set {entry.variable} to {entry.instead}."
        )


def rotate_logs(data: DataDir) -> None:
    """Keep the logs of one earlier life; the guardian's own was opened, and rotated, by the client."""
    for name in CATALOGUE:
        log = data.log(name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))


def leave_client() -> None:
    """Become an orphan: neither the client's terminal nor its waiting for children concerns us."""
    if os.fork() != 0:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lock-fd", type=int, required=True)
    arguments = parser.parse_args()
    os.set_inheritable(arguments.lock_fd, False)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    data = DataDir(arguments.data_dir)
    rotate_logs(data)
    (data.path / "run").mkdir(mode=0o700, exist_ok=True)
    asyncio.run(Guardian(data).run())


if __name__ == "__main__":
    leave_client()
    main()
