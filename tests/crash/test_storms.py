"""Every storm in short, on a real stack of its own, and that nothing of that stack outlives its command."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from orders.management.storms.plans import FULL, SHORT
from orders.management.storms.results import Kept, Result
from tests.local_services import CHECKOUT, client_environment, find_processes, wait_until

# Seven stacks' worth of processes are started, killed and started again.
pytestmark = pytest.mark.timeout(600)


def build_command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", "storm", *arguments]


def find_family(data_dir: Path) -> dict[int, str]:
    """Every process of a storm in that data dir: those at work there, and those that were told of it."""
    found = find_processes(data_dir)
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            is_ours = process.environ().get("ORDER_DESK_DATA_DIR") == str(data_dir)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


@contextmanager
def storming(data_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A storm that goes on until it is stopped."""
    process = subprocess.Popen(
        build_command(*arguments),
        cwd=CHECKOUT,
        env=client_environment(data_dir),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_after_every_short_storm_nothing_is_half_done(data_dir: Path) -> None:
    report = data_dir.parent / "report.json"
    ended = subprocess.run(
        build_command("--short", "--seed", "20261123", "--json", str(report)),
        cwd=CHECKOUT,
        env=client_environment(data_dir),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    tests = {test["test"]: test for test in json.loads(report.read_text())["tests"]}
    assert list(tests) == list(FULL)
    for name, test in tests.items():
        storm = SHORT[name]
        assert (test["n"], test["violations"]) == (storm.orders, [])
        # It was no calm that was survived: everything that was to strike has struck.
        for kind in ("worker", "postgres", "temporal"):
            assert test["counts"].get(f"{kind} kills", 0) == getattr(storm, f"{kind}_kills"), (name, test)
        assert bool(test["counts"].get("gateway faults")) == bool(storm.fault_rate), (name, test)
        assert bool(test["counts"].get("cancels accepted")) == storm.has_actors, (name, test)
    assert find_family(data_dir) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_storm_that_is_stopped_leaves_no_process(data_dir: Path, number: signal.Signals) -> None:
    with storming(data_dir, "workers", "--short", "--orders", "1000") as storm:
        assert storm.stderr is not None
        for line in storm.stderr:
            if "orders, workers killed" in line:
                break
        # The control: servers, their minders, web and workers are there to be left behind.
        wait_until(lambda: len(find_family(data_dir)) > 12, 60)
        storm.send_signal(number)
        storm.communicate(timeout=90)  # reads what it still says: a full pipe would hold it up
    assert storm.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    began = time.monotonic()
    while left := find_family(data_dir):
        assert time.monotonic() - began < 60, left
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (["workers"], {"DATABASE_URL": "postgresql://db.example/orders"}, "DATABASE_URL names a service"),
        (["workers"], {"TEMPORAL_ADDRESS": "t:7233", "EMAIL_HOST": "mail"}, "unset them and run this again"),
        (["earthquake"], {}, "There is no storm earthquake; there are workers, postgres,"),
        (["workers", "--orders", "3"], {}, "--orders takes a number from 20"),
        (
            ["--prepare", "2"],
            {"DATABASE_URL": "postgresql://db.example/orders", "ORDER_DESK_EMBEDDED": ""},
            "only runs on a developer's machine",
        ),
    ],
)
def test_what_cannot_be_done_is_explained_and_nothing_is_started(
    data_dir: Path, arguments: list[str], variables: dict[str, str], complaint: str
) -> None:
    ended = subprocess.run(
        build_command(*arguments),
        cwd=CHECKOUT,
        env={**client_environment(data_dir), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not data_dir.exists()


def make_result(*violations: str) -> Result:
    return Result("workers", "workers killed", 200, "orders", 24, [*violations], 7, 1.5, "abc")


def test_a_run_is_taken_up_after_the_last_test_that_ended_well(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", "abc")
    kept.keep("storm workers 200", make_result())
    kept.keep("storm postgres 100", make_result("order 7 is stuck"))
    later = Kept(tmp_path / "kept", "abc")
    found = later.find("storm workers 200")
    assert found is not None
    assert (found.n, found.faults, found.violations, found.seed) == (200, 24, [], 7)
    assert later.find("storm postgres 100") is None, "a test with violations is done again"
    assert later.find("storm temporal 100") is None
    assert Kept(tmp_path / "kept", "def").find("storm workers 200") is None, "other code proves nothing"
    Kept(tmp_path / "kept", "unknown").keep("storm workers 200", make_result())
    assert Kept(tmp_path / "kept", "unknown").find("storm workers 200") is None
