"""The demo as a user runs it: real worker processes, both cases, and what they leave in the books."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from inventory.models import StockItem
from tests.desk import EMAIL
from tests.processes import PROJECT, build_environment

pytestmark = pytest.mark.usefixtures("shop")

CASE_2_UNDOS = [
    ("refund_payment", "nothing_to_undo"),
    ("release_inventory", "done"),
    ("cancel_order", "done"),
    ("send_cancellation_email", "done"),
]


def run_demo(*options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", "demo", *options],
        cwd=PROJECT,
        env={**os.environ, **build_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )


def ledger(order_id: str) -> list[tuple[str, int]]:
    answer = httpx.get(
        f"{os.environ['PAYMENT_GATEWAY_URL']}/ledger", params={"key_prefix": f"order-{order_id}:"}
    )
    return [(entry["kind"], entry["amount_minor"]) for entry in answer.json()["entries"]]


def mails(order_id: str) -> list[str]:
    found = httpx.get(f"{os.environ['MAIL_SINK_URL']}/messages.json", params={"to": EMAIL}).json()
    return [mail["message_id"].split(".")[0] for mail in found if order_id in mail["message_id"]]


def read_held() -> dict[str, int]:
    return {sku: held for sku, held in StockItem.objects.values_list("product__sku", "reserved") if held}


def test_both_cases_end_as_they_should_and_leave_true_books() -> None:
    assert read_held() == {}
    for held in (2, 4):  # it can be run again and again
        done = run_demo("--exit", "--json", "--workers", "1")
        assert done.returncode == 0, done.stderr
        completed, declined = json.loads(done.stdout)["cases"]
        assert (completed["total"], completed["status"]) == ("400.00", "completed")
        assert (declined["total"], declined["status"]) == ("2700.00", "cancelled")
        undos = [(step["name"], step["status"]) for step in declined["trail"] if step["kind"] == "undo"]
        assert undos == CASE_2_UNDOS
        for step in completed["trail"] + declined["trail"]:
            assert set(step) == {"name", "kind", "status", "attempts", "ms"}
        assert (completed["needs_attention"], declined["needs_attention"]) == (False, False)
        assert ledger(completed["order"]) == [("charge", 40000)]
        assert [entry for entry in ledger(declined["order"]) if entry[0] != "closed"] == [
            ("declined", 270000)
        ]
        assert mails(completed["order"]) == ["<confirmation"]
        assert mails(declined["order"]) == ["<cancellation"]
        assert read_held() == {"HEAD-ANC": held}


def test_human_output_has_a_line_a_step_and_no_colours_in_a_pipe() -> None:
    done = run_demo("--exit", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "\033[" not in done.stdout
    assert sum(line.startswith("  -> ") for line in done.stdout.splitlines()) == 5 + 1 + 3 + 1
    assert sum(line.startswith("  <- ") for line in done.stdout.splitlines()) == 4


def test_wrong_use_is_told_apart_from_failure() -> None:
    done = run_demo("--workers", "99")
    assert (done.returncode, "from 0 to 64" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_interrupted_demo_does_not_look_like_a_success() -> None:
    with subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--exit", "--json", "--workers", "0"],
        cwd=PROJECT, env={**os.environ, **build_environment()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stderr is not None
        assert any(line.startswith("Case 1") for line in demo.stderr)  # no worker carries it on
        demo.send_signal(signal.SIGINT)
        stdout, stderr = demo.communicate(timeout=20)
    assert (demo.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
