"""The worked examples of docs/add-a-step.md and docs/change-the-saga.md, on a copy of the project."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from orders import desk
from orders.models import Order, OrderStatus
from orders.selectors import get_order
from orders.worker import SAGAS
from tests.copies import ProjectCopy
from tests.crash.shopping import status_of
from tests.desk import place, read_books, read_trail
from tests.processes import Crew, wait_until

# Each starts a dozen processes, one after the other.
pytestmark = [pytest.mark.usefixtures("shop"), pytest.mark.timeout(600)]

CANCEL = """
import time
from orders import desk, selectors
from orders.models import Order
order = Order.objects.get(status="completed")
desk.cancel_order(order_id=order.pk, actor="test", reason="test")
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    order = selectors.get_order(order.pk)
    steps = selectors.summarise_trail(order.trail.all())
    if selectors.is_settled(order, steps):
        break
    time.sleep(0.1)
print([step.name for step in steps if step.kind == "undo"])
"""


def test_worked_example_adds_a_step_and_its_undo(tmp_path: Path) -> None:
    copy = ProjectCopy(tmp_path)
    copy.apply_example("add-a-step.md")
    replayed = copy.run(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/saga/test_replay.py",
            "-k",
            "history or control",
        ),
    )
    assert "passed" in replayed
    # Case 2 is declined before the courier; the demo knows the undos of the plan as it was, so the copy's
    # own verdict on case 1 is what counts here.
    shown = json.loads(copy.run(sys.executable, "manage.py", "demo", "--exit", "--json", "--workers", "1"))
    completed, declined = shown["cases"]
    names = [(step["name"], step["status"]) for step in completed["trail"]]
    assert names.index(("process_payment", "done")) + 1 == names.index(("book_courier", "done"))
    assert "book_courier" not in [step["name"] for step in declined["trail"]]

    with subprocess.Popen(
        [sys.executable, "manage.py", "run_saga_workers", "--count", "1"],
        cwd=copy.folder,
        env=copy.environment,
        stderr=subprocess.DEVNULL,
    ) as workers:
        try:
            undone = copy.run(sys.executable, "manage.py", "shell", "-v", "0", "-c", CANCEL)
        finally:
            workers.terminate()
    assert undone.strip() == str(
        ["cancel_courier", "refund_payment", "release_inventory", "cancel_order", "send_cancellation_email"]
    )


PATCHED = 'if workflow.patched("pause-before-payment"):'


def place_one_that_waits(start: Callable[..., Crew]) -> Order:
    """An order under this code whose payment is tried again and again; its workers have been stopped."""
    crew = start(1)
    crew.wait_ready(1)
    order = place(token="tok_error_500")
    wait_until(
        lambda: ("process_payment", "failed") in read_trail(get_order(order.pk)),
        "the payment has failed",
    )
    crew.clean_up()
    return order


def check_sagas(copy: ProjectCopy) -> subprocess.CompletedProcess[str]:
    return copy.try_run(sys.executable, "manage.py", "check_sagas")


def test_worked_example_changes_the_saga_under_running_orders(
    tmp_path: Path, start: Callable[..., Crew]
) -> None:
    order = place_one_that_waits(start)
    copy = ProjectCopy(tmp_path)
    copy.apply_example("change-the-saga.md")
    saga = copy.folder / "orders" / "sagas" / "place_order.py"
    with_patched = saga.read_text()
    assert with_patched.count(PATCHED) == 1

    # What Temporal lists is a moment behind what it runs.
    wait_until(
        lambda: "1 running sagas would go on" in check_sagas(copy).stdout, "the order's saga is listed"
    )
    allowed = check_sagas(copy)
    assert (allowed.returncode, allowed.stderr) == (0, "")

    saga.write_text(with_patched.replace(PATCHED, "if True:"))
    refused = check_sagas(copy)
    assert refused.returncode == 1
    assert (
        f"order {order.number} (order-{order.pk}): breaks at event 6 ACTIVITY_TASK_SCHEDULED"
        in refused.stdout
    )
    assert "1 of 1 running sagas would break: do not deploy this" in refused.stderr
    saga.write_text(with_patched)

    # The order goes on under the changed code; a new one has the pause.
    with subprocess.Popen(
        [sys.executable, "manage.py", "run_saga_workers", "--count", "1"],
        cwd=copy.folder,
        env=copy.environment,
        stderr=subprocess.DEVNULL,
    ) as workers:
        try:
            desk.cancel_order(order_id=order.pk, actor="ada", reason="changed my mind")
            wait_until(lambda: status_of(order.pk) == OrderStatus.CANCELLED, "the old order has ended")
        finally:
            workers.terminate()
    assert (read_books(order.pk).net, read_books(order.pk).held) == (0, 0)

    # Its history is kept and replayed, beside those from before the change.
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    copy.run(*tests, "tests/saga/histories.py", "-k", "completed_after_a_pause")
    recorded = (copy.folder / "tests/saga/histories/completed_after_a_pause.json").read_text()
    types = [event["eventType"] for event in json.loads(recorded)["events"]]
    assert {"EVENT_TYPE_MARKER_RECORDED", "EVENT_TYPE_TIMER_STARTED"} <= set(types)
    assert "passed" in copy.run(*tests, "tests/saga/test_replay.py", "-k", "history")

    # And the way back is closed for orders that have begun with it: the code from before cannot go on.
    history = WorkflowHistory.from_json(f"order-{order.pk}", recorded)
    with pytest.raises(NondeterminismError):
        asyncio.run(Replayer(workflows=SAGAS).replay_workflow(history))
