"""How Temporal, the payment sandbox and the mail sink are started and known to be ready."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from config.embedded.catalogue import DataDir, EmbeddedServiceError, explain_obstacle, find_temporal_binary
from config.embedded.postgres import Account, PostgresService
from config.embedded.processes import PortBook, StopPlan, stop_recorded

PREFERRED_UI_PORTS = range(8080, 8100)


class Service(Protocol):
    """What the guardian needs from each; `prepare` and `check_ready` may block, it calls them in threads."""

    name: str
    stop_plan: StopPlan
    minded: bool  # a foreign binary that needs a minder; our own services watch their stdin themselves
    marker: str  # an argument no other process has: identifies an orphan
    notes: list[str]
    account: Account | None

    def prepare(self, *, choose_ports: bool) -> None: ...
    def build_command(self) -> list[str]: ...
    def check_ready(self) -> bool: ...
    def list_environment(self) -> dict[str, str]: ...
    def list_ports(self) -> dict[str, int]: ...


def build_services(data: DataDir, *, ui_ports: Sequence[int] = PREFERRED_UI_PORTS) -> dict[str, Service]:
    """`ui_ports` are wanted for Temporal's UI, where people look for it; none: any port will do."""
    ports = PortBook(data.ports)
    services: list[Service] = [
        PostgresService(data, ports),
        TemporalService(data, ports, ui_ports),
        GatewayService(data, ports),
        MailService(data, ports),
    ]
    return {service.name: service for service in services}


def create_private_file(path: Path) -> Path:
    """SQLite gives its journal files the mode of the database, so that one is made 0600 first."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    return path


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def answers_http(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class TemporalService:
    name = "temporal"
    stop_plan: StopPlan = ((signal.SIGTERM, 10.0),)
    minded = True
    account: Account | None = None

    def __init__(self, data: DataDir, ports: PortBook, ui_ports: Sequence[int]) -> None:
        self.data = data
        self.ports = ports
        self.ui_ports = ui_ports
        self.database = data.path / "temporal.db"
        self.complete = data.path / "temporal.db.complete"  # it has been ready once
        self.marker = str(self.database)
        self.binary = Path()
        self.port = self.ui_port = self.http_port = self.metrics_port = 0
        self.notes: list[str] = []

    def prepare(self, *, choose_ports: bool) -> None:
        stop_recorded(self.data.run_record(self.name), self.stop_plan)
        binary = find_temporal_binary()
        if binary is None:
            raise EmbeddedServiceError(explain_obstacle(self.name))
        self.binary = binary
        self._drop_unfinished_database()
        if choose_ports:
            self.port = self.ports.pick("temporal")
            self.http_port = self.ports.pick("temporal-http")
            self.metrics_port = self.ports.pick("temporal-metrics")
            self.ui_port = self.ports.pick("temporal-ui", self.ui_ports)
            taken = self.ui_ports and self.ui_port != self.ui_ports[0]
            self.notes = (
                [f"port {self.ui_ports[0]} is taken, Temporal UI is on http://127.0.0.1:{self.ui_port}"]
                if taken
                else []
            )

    def _drop_unfinished_database(self) -> None:
        """Temporal makes its tables only in a new file: one whose making was cut short never starts again."""
        if not self.database.exists():
            self.complete.unlink(missing_ok=True)
        elif not self.complete.exists():
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.database}{suffix}").unlink(missing_ok=True)

    def build_command(self) -> list[str]:
        return [
            str(self.binary), "server", "start-dev",
            "--ip", "127.0.0.1",
            "--port", str(self.port),
            "--ui-port", str(self.ui_port),
            "--http-port", str(self.http_port),
            "--metrics-port", str(self.metrics_port),
            "--db-filename", str(self.database),
            "--sqlite-pragma", "journal_mode=wal",
            "--sqlite-pragma", "synchronous=normal",
            # Without it every task waits 50 ms.
            "--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000",
            "--ui-disable-news-fetch",
            "--disable-config-file", "--disable-config-env",
            "--log-level", "error",
        ]  # fmt: skip

    def check_ready(self) -> bool:
        """The frontend answers and knows the namespace. Asked by its CLI: the SDK would stay in memory."""
        if not accepts_connections(self.port):
            return False
        address = ["--address", f"127.0.0.1:{self.port}", "--command-timeout", "5s"]
        question = [str(self.binary), "operator", "namespace", "describe", "-n", "default", *address]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TEMPORAL_")}
        answer = subprocess.run(question, capture_output=True, timeout=20, env=environment)
        if answer.returncode == 0:
            self.complete.touch(mode=0o600)
        return answer.returncode == 0

    def list_environment(self) -> dict[str, str]:
        return {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self.port}",
            "TEMPORAL_UI_URL": f"http://127.0.0.1:{self.ui_port}",
        }

    def list_ports(self) -> dict[str, int]:
        return {
            "port": self.port,
            "ui_port": self.ui_port,
            "http_port": self.http_port,
            "metrics_port": self.metrics_port,
        }


class GatewayService:
    name = "gateway"
    stop_plan: StopPlan = ((signal.SIGTERM, 5.0),)
    minded = False
    account: Account | None = None

    def __init__(self, data: DataDir, ports: PortBook) -> None:
        self.data = data
        self.ports = ports
        self.ledger = data.path / "gateway.sqlite3"
        self.marker = str(self.ledger)
        self.port = 0
        self.notes: list[str] = []

    def prepare(self, *, choose_ports: bool) -> None:
        stop_recorded(self.data.run_record(self.name), self.stop_plan)
        create_private_file(self.ledger)
        if choose_ports:
            self.port = self.ports.pick("gateway")

    def build_command(self) -> list[str]:
        return [
            sys.executable, "-m", "payments.gateways.sandbox_server",
            "--host", "127.0.0.1",
            "--port", str(self.port),
            "--ledger", str(self.ledger),
            "--exit-on-stdin-eof",
        ]  # fmt: skip

    def check_ready(self) -> bool:
        return answers_http(self.port, "/health")

    def list_environment(self) -> dict[str, str]:
        return {"PAYMENT_GATEWAY_URL": f"http://127.0.0.1:{self.port}"}

    def list_ports(self) -> dict[str, int]:
        return {"port": self.port}


class MailService:
    name = "mail"
    stop_plan: StopPlan = ((signal.SIGTERM, 5.0),)
    minded = False
    account: Account | None = None

    def __init__(self, data: DataDir, ports: PortBook) -> None:
        self.data = data
        self.ports = ports
        self.maildir = data.path / "mail"
        self.marker = str(self.maildir)
        self.smtp_port = self.http_port = 0
        self.notes: list[str] = []

    def prepare(self, *, choose_ports: bool) -> None:
        stop_recorded(self.data.run_record(self.name), self.stop_plan)
        if choose_ports:
            self.smtp_port = self.ports.pick("mail-smtp")
            self.http_port = self.ports.pick("mail-http")

    def build_command(self) -> list[str]:
        return [
            sys.executable, "-m", "config.embedded.mail_sink",
            "--smtp-port", str(self.smtp_port),
            "--http-port", str(self.http_port),
            "--maildir", str(self.maildir),
            "--exit-on-stdin-eof",
        ]  # fmt: skip

    def check_ready(self) -> bool:
        return answers_http(self.http_port, "/health") and accepts_connections(self.smtp_port)

    def list_environment(self) -> dict[str, str]:
        return {
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(self.smtp_port),
            "MAIL_SINK_URL": f"http://127.0.0.1:{self.http_port}",
        }

    def list_ports(self) -> dict[str, int]:
        return {"smtp_port": self.smtp_port, "http_port": self.http_port}
