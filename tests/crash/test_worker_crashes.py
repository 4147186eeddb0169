"""Workers killed with -9 where it hurts: nothing is lost, nothing is done twice."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from orders.models import OrderStatus
from orders.selectors import get_order
from tests.crash.shopping import read_gateway, status_of
from tests.desk import check_stock_sums, place, read_books
from tests.faults import pausing
from tests.processes import Crew, wait_until


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
    assert read_gateway(order.pk) == ["charge"]
    books = read_books(order.pk)
    assert (books.events, books.mails) == (["charged"], ["confirmation sent"])
    trail = list(get_order(order.pk).trail.values_list("name", "state"))
    step = "process_payment" if "payment" in table else "send_confirmation_email"
    assert [state for name, state in trail if name == step] == ["lost", "done"]
    check_stock_sums()
