"""Fixtures: real PostgreSQL, real Temporal, the real sandbox gateway, real mail."""

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from django.conf import settings
from django.db import connections
from django.test import TransactionTestCase
from temporalio.client import Client
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from config.temporal import connect_temporal, database_threads
from inventory.catalogue import seed_catalogue
from orders.worker import build_worker
from payments.activities import open_gateway
from tests.emptying import empty_tables
from tests.processes import Crew

LONGEST = ("crash", "races")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="races and crashes at the size of `make proof`, not of CI"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.PASSWORD_HASHERS = ["tests.hashers.QuickHasher"]
    # The server shares two cores with all tests. Those of a server that does not answer set their own.
    settings.TEMPORAL_RPC_TIMEOUT = 30.0
    TransactionTestCase._fixture_teardown = empty_tables  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and mostly waits: one process has it, while the others compute."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)


@pytest.fixture
def is_full(request: pytest.FixtureRequest) -> bool:
    """Whether to run at full size."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """As pytest-django's, but the database threads let go of the test database before it is dropped."""
    yield
    pool = database_threads(os.getpid())
    size = pool._max_workers
    together = threading.Barrier(size)

    def let_go() -> None:
        together.wait(10)  # so that every thread takes exactly one of these
        connections.close_all()

    for done in [pool.submit(let_go) for _ in range(size)]:
        done.result(20)


# Sagas that retry in tenths of seconds; whatever reads settings of its own is told the same.
HASTY_SHOP: dict[str, Any] = {
    # Mail is really sent: Django's test set-up would keep it in memory.
    "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
    "SAGA_ATTEMPT_TIMEOUT": 5.0,
    "PAYMENT_GATEWAY_TIMEOUT": 4.0,
    "SAGA_STEP_DEADLINE": 60.0,
    "SAGA_RETRY_INITIAL": 0.05,
    "SAGA_RETRY_MAXIMUM": 0.2,
    "SAGA_RELEASE_AFTER": 0.5,
    "SAGA_ATTENTION_AFTER": 3,
    "OUTBOX_FAST_PATH": False,
    "OUTBOX_FIRST_LEASE": 0.0,
    "OUTBOX_POLL_INTERVAL": 0.05,
    "WORKER_GRACE": 2.0,
}


@pytest.fixture
def shop(transactional_db: None, settings: Any) -> None:
    """A stocked shop, and sagas that retry in tenths of seconds on a task queue of their own."""
    seed_catalogue()
    settings.SAGA_TASK_QUEUE = f"test-{uuid.uuid4()}"
    for name, value in HASTY_SHOP.items():
        setattr(settings, name, value)


@pytest.fixture
def start(shop: None) -> Iterator[Callable[..., Crew]]:
    """Starts worker processes under their supervisor: `start(count, VARIABLE="...")`."""
    crews: list[Crew] = []

    def start_crew(count: int, **variables: str) -> Crew:
        crews.append(Crew(count, **variables))
        return crews[-1]

    yield start_crew
    for crew in crews:
        crew.clean_up()


@pytest_asyncio.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    """A client of the real server, bound to the test session's event loop."""
    yield await connect_temporal()


async def let_go_of_gateway() -> None:
    """Close this process's client of the gateway, so that the next is made anew, from the settings then."""
    if open_gateway.cache_info().currsize:
        await open_gateway().aclose()
    open_gateway.cache_clear()


@asynccontextmanager
async def working(
    client: Client, *, runner: WorkflowRunner | None = None, **options: Any
) -> AsyncIterator[None]:
    """A worker with the sandboxed runner, which also checks determinism, for the time of a test."""
    async with build_worker(
        client, identity=f"test-{os.getpid()}", runner=runner or SandboxedWorkflowRunner(), **options
    ):
        yield
    await let_go_of_gateway()


@pytest_asyncio.fixture
async def worker(shop: None, temporal: Client) -> AsyncIterator[Client]:
    """A running worker on the test's task queue; gives its client."""
    async with working(temporal):
        yield temporal


async def until(condition: Any, *, within: float = 20.0, what: str = "the condition") -> Any:
    """Poll an async condition until it is true, and return what it gave. Fails loudly at the deadline."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        answer = await condition()
        if answer:
            return answer
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come true within {within} s"
        await asyncio.sleep(0.02)
