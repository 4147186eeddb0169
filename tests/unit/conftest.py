"""Fixtures of the unit tests: a sandbox gateway for each module, a data dir for each test."""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from payments.gateways.sandbox import SandboxGateway
from tests.gateway import Server, run_server
from tests.local_services import data_dir
from tests.receiver import Receiver, receiving

__all__ = ["data_dir"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("sandbox") / "ledger.sqlite") as running:
        yield running


@pytest.fixture
async def gateway(server: Server) -> AsyncIterator[SandboxGateway]:
    client = SandboxGateway(server.url)
    yield client
    await client.aclose()
    server.http.delete("/faults")


@pytest.fixture
async def hasty(server: Server) -> AsyncIterator[SandboxGateway]:
    """A client that gives up after 0.3 s."""
    client = SandboxGateway(server.url, timeout=0.3)
    yield client
    await client.aclose()


@pytest.fixture
def key() -> str:
    return f"order-{uuid.uuid4()}"


@pytest.fixture
def hasty_webhooks(shop: None, settings: Any) -> None:
    """A shop whose webhooks may go to this machine, and are tried again in tenths of seconds."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.WEBHOOK_TIMEOUT = 1.0
    settings.WEBHOOK_LEASE = 3.0
    settings.WEBHOOK_RETRY_INITIAL = 0.05
    settings.WEBHOOK_RETRY_MAXIMUM = 0.2


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver of webhooks."""
    with receiving() as running:
        yield running
