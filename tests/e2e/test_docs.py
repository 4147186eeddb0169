"""The worked example of docs/add-a-step.md, carried out on a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PROJECT, build_environment

pytestmark = pytest.mark.usefixtures("shop")

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
    copy = tmp_path / "project"
    shutil.copytree(
        PROJECT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".local", ".*_cache", "__pycache__")
    )
    patch = re.search(r"```diff\n(.*?)```", (PROJECT / "docs" / "add-a-step.md").read_text(), re.DOTALL)
    assert patch is not None

    def run(*command: str, text: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=copy,
            # So that git sees a plain folder, and not a repository above the copy.
            env={**os.environ, **build_environment(), "GIT_CEILING_DIRECTORIES": str(tmp_path)},
            input=text,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    run("git", "apply", "-", text=patch[1])
    replayed = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/saga/test_replay.py"),
    )
    assert "passed" in replayed
    # Case 2 is declined before the courier; the demo knows the undos of the plan as it was, so the copy's
    # own verdict on case 1 is what counts here.
    shown = json.loads(run(sys.executable, "manage.py", "demo", "--exit", "--json", "--workers", "1"))
    completed, declined = shown["cases"]
    names = [(step["name"], step["status"]) for step in completed["trail"]]
    assert names.index(("process_payment", "done")) + 1 == names.index(("book_courier", "done"))
    assert "book_courier" not in [step["name"] for step in declined["trail"]]

    with subprocess.Popen(
        [sys.executable, "manage.py", "run_saga_workers", "--count", "1"],
        cwd=copy,
        env={**os.environ, **build_environment()},
        stderr=subprocess.DEVNULL,
    ) as workers:
        try:
            undone = run(sys.executable, "manage.py", "shell", "-v", "0", "-c", CANCEL)
        finally:
            workers.terminate()
    assert undone.strip() == str(
        ["cancel_courier", "refund_payment", "release_inventory", "cancel_order", "send_cancellation_email"]
    )
