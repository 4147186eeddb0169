"""Processes killed with -9 where it hurts, and Temporal away: nothing is lost, nothing is done twice."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token

from orders.models import Order, OrderStatus, OutboxMessage
from orders.selectors import get_order
from tests.desk import check_stock_sums, place, read_books, read_trail
from tests.faults import pausing
from tests.processes import PROJECT, Crew, build_environment, wait_until


def read_gateway(order: Order) -> list[str]:
    answer = httpx.get(
        f"{os.environ['PAYMENT_GATEWAY_URL']}/ledger", params={"key_prefix": f"order-{order.pk}:"}
    )
    return [entry["kind"] for entry in answer.json()["entries"]]


def status_of(order_id: UUID | str) -> str:
    return Order.objects.values_list("status", flat=True).get(pk=order_id)


@pytest.mark.parametrize(
    ("table", "event", "when"),
    [
        ("payments_paymentevent", "INSERT", "NEW.kind = 'charged'"),
        ("notifications_emailmessage", "UPDATE", "NEW.state = 'sent'"),
    ],
    ids=["between charge and record", "between mail and record"],
)
def test_worker_killed_between_effect_and_record_repeats_nothing(
    start: Callable[..., Crew], table: str, event: str, when: str
) -> None:
    crew = start(1)
    crew.wait_ready(1)
    order = place()
    with pausing(table, event, when=when) as pause:
        wait_until(pause.is_reached, "the effect is done and not yet recorded")
        [victim] = crew.pids_of()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(victim), "the worker is dead")
    wait_until(lambda: status_of(order.pk) == OrderStatus.COMPLETED, f"completed: {crew.lines[-20:]}")
    assert read_gateway(order) == ["charge"]
    books = read_books(order.pk)
    assert (books.events, books.mails) == (["charged"], ["confirmation sent"])
    trail = list(get_order(order.pk).trail.values_list("name", "state"))
    step = "process_payment" if "payment" in table else "send_confirmation_email"
    assert [state for name, state in trail if name == step] == ["lost", "done"]
    check_stock_sums()


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(**variables: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A gunicorn with one worker on the test's database; gives its address and master process."""
    port = find_port()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{port}"),
            *("--workers", "1", "--threads", "4", "--no-control-socket", "--log-level", "warning"),
        ],
        cwd=PROJECT,
        env={**os.environ, **build_environment(), **variables},
        start_new_session=True,
    ) as process:

        def is_up() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(is_up, "the web process answers")
            yield f"http://127.0.0.1:{port}", process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def post_order(address: str, token: str) -> "httpx.Response":
    return httpx.post(
        f"{address}/api/v1/orders/",
        headers={"Authorization": f"Token {token}"},
        json={"customer_email": "ada@example.com", "items": [{"sku": "HEAD-ANC", "quantity": 2}]},
        timeout=20,
    )


@pytest.fixture
def token(shop: None) -> str:
    user = User.objects.create_user("client", password="irrelevant")
    return str(Token.objects.create(user=user).key)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that accepts connections and never says a word: Temporal as it looks when it hangs."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_web_killed_between_commit_and_start_loses_no_order(
    start: Callable[..., Crew], token: str, black_hole: str
) -> None:
    """The fast path hangs on a silent Temporal when the web process is killed; workers deliver the start."""
    with serving(TEMPORAL_ADDRESS=black_hole) as (address, process):
        began = time.monotonic()
        answers = [post_order(address, token) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202] * 5
        assert time.monotonic() - began < 10  # nobody waited for Temporal
        os.killpg(process.pid, signal.SIGKILL)
    orders = [answer.json()["id"] for answer in answers]
    assert OutboxMessage.objects.filter(delivered_at=None).count() == 5
    assert {status_of(order) for order in orders} == {OrderStatus.PENDING}
    start(1)
    wait_until(
        lambda: all(status_of(order) == OrderStatus.COMPLETED for order in orders), "all are completed"
    )
    assert not OutboxMessage.objects.filter(delivered_at=None).exists()
    for order in Order.objects.all():
        assert read_gateway(order) == ["charge"]


@contextmanager
def temporal_server(port: int, database: Path) -> Iterator[None]:
    """A Temporal server of the test's own, to be stopped and started with its data."""
    binary = Path(sys.executable).parent / "temporal"
    found = str(binary) if binary.exists() else shutil.which("temporal")
    assert found, "the temporal binary comes with requirements-dev.lock"
    with subprocess.Popen(
        [
            *(found, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", str(database), "--log-level", "error"),
            *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"),
        ],
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.kill()


def test_orders_are_accepted_while_temporal_is_down_and_finish_when_it_is_back(
    start: Callable[..., Crew], token: str, tmp_path: Path, settings: Any
) -> None:
    port = find_port()
    settings.TEMPORAL_ADDRESS = f"127.0.0.1:{port}"
    with temporal_server(port, tmp_path / "temporal.db"):
        crew = start(1, TEMPORAL_ADDRESS=settings.TEMPORAL_ADDRESS)
        crew.wait_ready(1)
        before = place()
        wait_until(lambda: status_of(before.pk) == OrderStatus.COMPLETED, "an order before the outage")
    with serving(TEMPORAL_ADDRESS=settings.TEMPORAL_ADDRESS) as (address, _):
        answers = [post_order(address, token) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202] * 5
        orders = [answer.json()["id"] for answer in answers]
        assert {status_of(order) for order in orders} == {OrderStatus.PENDING}
    with temporal_server(port, tmp_path / "temporal.db"):
        wait_until(
            lambda: all(status_of(order) == OrderStatus.COMPLETED for order in orders),
            f"all are completed: {crew.lines[-20:]}",
            within=60,
        )
        crew.clean_up()
    for order in Order.objects.all():
        assert read_gateway(order) == ["charge"]
        assert [state for _, state in read_trail(get_order(order.pk))] == ["done"] * 5
