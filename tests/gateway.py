"""A sandbox gateway of a test's own: a real server process with its ledger and switches at hand."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from payments.gateways.protocol import (
    Charge,
    Gateway,
)

ROOT = Path(__file__).resolve().parents[1]
NO_EFFECT = ("error_500", "rate_limited", "hang", "reset")


class Server:
    """A running sandbox server, with its ledger and switches at hand."""

    def __init__(self, ledger: Path, *options: str, port: int = 0, env: dict[str, str] | None = None) -> None:
        self.ledger = ledger
        command = [sys.executable, "-m", "payments.gateways.sandbox_server", "--ledger", str(ledger)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--exit-on-stdin-eof", *options],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line!r}"
        self.url = line.split()[3].rstrip(",")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=5)
        assert self.http.get("/health").json() == {"status": "ok", "pid": self.process.pid}

    def entries(self, key_prefix: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/ledger", params={"key_prefix": key_prefix}).json()[
            "entries"
        ]
        return found

    def kinds(self, key_prefix: str) -> list[str]:
        return [entry["kind"] for entry in self.entries(key_prefix)]

    def set_fault(self, **fault: object) -> httpx.Response:
        return self.http.post("/faults", json=fault)

    def release(self) -> None:
        self.http.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)


@contextmanager
def run_server(
    ledger: Path, *options: str, port: int = 0, env: dict[str, str] | None = None
) -> Iterator[Server]:
    server = Server(ledger, *options, port=port, env=env)
    try:
        yield server
    finally:
        server.release()


async def pay(gateway: Gateway, key: str, *, amount_minor: int = 2500, token: str = "tok_ok") -> Charge:
    return await gateway.charge(key=key, amount_minor=amount_minor, currency="EUR", token=token)


async def ask(gateway: Gateway, operation: str, key: str, charge: Charge | None, token: str) -> object:
    """Call one operation by its name; `charge` is what a refund refunds."""
    if operation == "charge":
        return await pay(gateway, key, token=token)
    if operation == "refund":
        assert charge is not None
        return await gateway.refund(key=f"{key}:refund", charge_id=charge.id, amount_minor=2500)
    return await (gateway.close(key=key) if operation == "close" else gateway.find(key=key))


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited for 5 s in vain"
        await asyncio.sleep(0.005)
