"""Webhooks while things die: a worker between a receiver's answer and the record of it, and Temporal."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from orders.models import WebhookDelivery, WebhookEvent
from tests.faults import pausing
from tests.processes import Crew, wait_until
from tests.receiver import Receiver, receiving
from tests.webhooks import HASTY, make_client, make_endpoint, place_for, publish, read_log, read_states


@pytest.fixture
def receiver(shop: None, settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with receiving() as running:
        yield running


def test_worker_killed_between_answer_and_record_has_it_delivered_again_under_the_same_id(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    make_endpoint(f"{receiver.url}/ok")
    order = place_for(make_client())
    crew = start(1, **HASTY)
    with pausing("orders_webhookattempt", "INSERT") as pause:
        wait_until(pause.is_reached, "the receiver has answered")
        assert len(receiver.calls) == 1
        [victim] = crew.pids_of()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(victim), "the worker is dead")
    assert read_states() == ["waiting"]
    assert WebhookDelivery.objects.get().attempts == 1
    wait_until(lambda: read_states() == ["delivered"], "delivered again")
    assert len(receiver.calls) == 2
    assert len({call.event_id for call in receiver.calls}) == 1
    assert len({call.body for call in receiver.calls}) == 1
    # What was not recorded is not in the log: at least once, not exactly once.
    assert read_log() == [(204, "")]
    assert str(order.pk) in receiver.calls[0].body


def test_worker_killed_while_it_sends_leaves_the_delivery_to_another(
    receiver: Receiver, start: Callable[..., Crew]
) -> None:
    make_endpoint(f"{receiver.url}/hang")
    publish(place_for(make_client()), WebhookEvent.CANCELLED)
    crew = start(1, **HASTY)
    wait_until(lambda: len(receiver.calls) == 1, "it is being sent")
    [victim] = crew.pids_of()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(read_log_of_cancelled()) > 0, "another worker has tried it")
    assert read_log_of_cancelled()[0] == (None, "There was no answer within 1 s.")


def read_log_of_cancelled() -> list[tuple[int | None, str]]:
    return read_log(WebhookDelivery.objects.get(event=WebhookEvent.CANCELLED).pk)


@contextmanager
def temporal_server(database: Path) -> Iterator[str]:
    """A Temporal server of the test's own, stopped when the block ends; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(sys.executable).parent / "temporal"
    found = str(binary) if binary.exists() else shutil.which("temporal")
    assert found, "the temporal binary comes with requirements-dev.lock"
    with subprocess.Popen(
        [
            *(found, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", str(database), "--log-level", "error"),
        ],
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def test_webhooks_are_delivered_while_temporal_is_stopped(
    receiver: Receiver, start: Callable[..., Crew], tmp_path: Path
) -> None:
    make_endpoint(f"{receiver.url}/flaky/2")
    order = place_for(make_client())
    with temporal_server(tmp_path / "temporal.db") as address:
        crew = start(1, TEMPORAL_ADDRESS=address, **HASTY)
        crew.wait_ready(1)
        wait_until(lambda: read_states() == ["delivered"], "before the outage")
    with pytest.raises(OSError, match="refused"), socket.socket() as probe:
        probe.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    publish(order, WebhookEvent.NEEDS_ATTENTION, occurrence="while Temporal is stopped")
    wait_until(lambda: read_states() == ["delivered"] * 2, "while it is stopped")
    assert len(crew.pids_of()) == 1  # the same process all the time
