"""The benchmark as a developer runs it, in small. Nothing here depends on speed."""

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.e2e.test_load_test import run

pytestmark = pytest.mark.usefixtures("shop")


def test_benchmark_compares_orders_with_empty_sagas() -> None:
    done = run("bench", "--rounds", "1", "--orders", "3", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    kinds = {"empty", "order", "rollback"}
    assert report["rounds"] == 1
    assert set(report["rate"]) == set(report["p50_ms"]) == set(report["spread"]["rate"]) == kinds
    assert set(report["ratio"]) == set(report["interval"]) == {"order", "rollback", "alone"}
    for name, (low, high) in report["interval"].items():
        assert low == high == report["ratio"][name] > 0  # of a single round nothing more is known
    assert report["ratio"]["order"] == pytest.approx(
        report["rate"]["order"] / report["rate"]["empty"], rel=0.05
    )
    assert "round 1: empty" in done.stderr


def test_benchmark_never_runs_where_books_may_be_real(settings: Any) -> None:
    settings.PAYMENT_GATEWAY_URL = "https://bank.example"
    with pytest.raises(CommandError, match="only runs on a developer's machine") as refusal:
        call_command("bench")
    assert refusal.value.returncode == 2


def test_wrong_use_says_what_is_right() -> None:
    with pytest.raises(CommandError, match="take numbers from 1") as refusal:
        call_command("bench", "--rounds", "0")
    assert refusal.value.returncode == 2
