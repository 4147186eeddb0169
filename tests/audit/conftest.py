"""A past for audits: orders of every kind, made once for each module by real sagas."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from django.test import override_settings
from temporalio.client import Client

from config.temporal import run_in_db
from inventory.catalogue import seed_catalogue
from orders.models import Order
from tests.audit.stories import stop_sagas, tell_stories
from tests.conftest import HASTY_SHOP, let_go_of_gateway, working
from tests.emptying import empty_tables
from tests.gateway import Server, run_server


@dataclass(frozen=True)
class Past:
    """The orders by the name of their story, and the gateway they were paid at."""

    orders: dict[str, Order]
    gateway: Server


@asynccontextmanager
async def client_of_its_own() -> AsyncIterator[None]:
    """Activities in this process ask the gateway that the settings name meanwhile."""
    await let_go_of_gateway()
    try:
        yield
    finally:
        await let_go_of_gateway()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def past(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory, temporal: Client
) -> AsyncIterator[Past]:
    """Committed, and emptied when the module's tests are done. Tests that change it roll back."""
    queue = f"test-{uuid.uuid4()}"
    with (
        django_db_blocker.unblock(),
        run_server(tmp_path_factory.mktemp("sandbox") / "ledger.sqlite") as server,
        override_settings(**HASTY_SHOP, SAGA_TASK_QUEUE=queue, PAYMENT_GATEWAY_URL=server.url),
    ):
        await run_in_db(seed_catalogue)
        try:
            async with client_of_its_own():
                async with working(temporal):
                    orders = await tell_stories(temporal)
                    yield Past(orders, server)
                await stop_sagas(temporal)
        finally:
            await run_in_db(empty_tables)


@pytest_asyncio.fixture
async def own_gateway(shop: None, settings: Any, tmp_path: Path) -> AsyncIterator[Server]:
    """A gateway that nobody else pays at: its ledger is this test's alone."""
    with run_server(tmp_path / "ledger.sqlite") as server:
        settings.PAYMENT_GATEWAY_URL = server.url
        async with client_of_its_own():
            yield server
