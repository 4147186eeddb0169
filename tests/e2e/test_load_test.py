"""The load test as a developer runs it, in small. Nothing here depends on speed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import CommandError, call_command

from config.embedded.catalogue import DataDir
from orders.management.load.goods import count_units
from orders.management.load.plan import SKUS, Plan
from orders.management.load.processes import has_proc
from orders.management.load.rig import refuse_company
from orders.models import ApiKey, Order
from tests.desk import check_stock_sums
from tests.processes import PROJECT, build_environment

pytestmark = pytest.mark.usefixtures("shop")

TIMES = {"p50", "p95", "p99"}
PARTS = {"web", "worker", "temporal", "postgres", "gateway", "mail", "client"}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={**os.environ, **build_environment()},
        capture_output=True,
        text=True,
        timeout=100,
    )


def check_report(report: dict[str, Any]) -> None:
    assert (report["orders"], report["completed"], report["cancelled"]) == (24, 18, 6)
    assert (report["unfinished"], report["violations"], report["findings"]) == (0, 0, [])
    assert report["errors"] == {}
    assert 0 < report["orders_per_second"] == pytest.approx(24 / report["seconds"], rel=0.05)
    for times in ("accept_ms", "latency_ms", "rollback_ms"):
        assert set(report[times]) == TIMES
        assert 0 < report[times]["p50"] <= report[times]["p95"] <= report[times]["p99"]
    assert set(report["cpu_ms_per_order"]) == PARTS
    assert set(report["memory_mb"]) == ({"worker-1"} if has_proc() else set())
    for worker in report["memory_mb"].values():
        assert 0 < worker["at_2000"] <= worker["max"] >= worker["end"] > 0
    if has_proc():
        assert report["cpu_ms_per_order"]["worker"] > 0
        assert report["cpu_ms_per_order"]["client"] > 0


def test_load_through_the_service_ends_with_balanced_books() -> None:
    done = run(
        *("load_test", "--orders", "24", "--concurrency", "8", "--decline-rate", "0.25"),
        *("--workers", "1", "--lines", "2", "--gateway-latency", "20", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_report(report)
    assert report["cpu_ms_per_order"]["web"] is None
    assert "\r" not in done.stderr
    assert {order.lines.count() for order in Order.objects.prefetch_related("lines")} == {2}
    check_stock_sums()
    # The gateway is as quick as before, and the shop as it was.
    faults = httpx.get(f"{os.environ['PAYMENT_GATEWAY_URL']}/faults").json()["faults"]
    assert [fault for fault in faults if fault["fault"] == "slow"] == []


def test_load_through_the_api_ends_with_balanced_books() -> None:
    done = run(
        *("load_test", "--orders", "24", "--concurrency", "8", "--decline-rate", "0.25"),
        *("--workers", "1", "--through", "api", "--hot-sku"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_report(report)
    if has_proc():
        assert report["cpu_ms_per_order"]["web"] > 0
    assert {line.sku for order in Order.objects.all() for line in order.lines.all()} == {SKUS[0]}
    assert count_units(Plan(orders=24, concurrency=8, is_hot=True)) == 24
    assert ApiKey.objects.get().revoked_at is not None
    assert set(Order.objects.values_list("client__name", flat=True)) == {"load test"}


def test_load_never_goes_where_books_may_be_real(settings: Any) -> None:
    settings.PAYMENT_GATEWAY_URL = "https://bank.example"
    with pytest.raises(CommandError, match="only runs on a developer's machine") as refusal:
        call_command("load_test")
    assert refusal.value.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["load_test", "--orders", "0"], "a whole number from 1 to 1000000, not '0'"),
        (["load_test", "--orders", "many"], "a whole number from 1 to 1000000, not 'many'"),
        (["load_test", "--decline-rate", "nan"], "a number from 0 to 1, not 'nan'"),
        (["load_test", "--rate", "5", "--concurrency", "5"], "not allowed with"),
    ],
)
def test_wrong_use_says_what_is_right(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError) as refusal:
        call_command(*arguments)
    assert sentence in str(refusal.value)


def test_crew_of_somebody_else_would_be_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_DESK_DATA_DIR", str(tmp_path))
    status = {"clients": [{"pid": os.getpid(), "command": "demo"}], "services": {}}
    DataDir(tmp_path).status.write_text(json.dumps(status))
    refuse_company()  # we are that client
    status["clients"] = [{"pid": 1, "command": "demo"}, {"pid": 1, "command": "shell"}]
    DataDir(tmp_path).status.write_text(json.dumps(status))
    with pytest.raises(CommandError, match=r"`manage\.py demo` is at work") as refusal:
        refuse_company()
    assert refusal.value.returncode == 2
