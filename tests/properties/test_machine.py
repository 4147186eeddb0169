"""Orders, stock and payments through many made-up days, none of which may leave an order half done."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from tests.properties.machine import OrderDesk
from tests.properties.shop import SmallShop, open_shop
from tests.switches import guards

# `make proof` runs 500 days of 50 steps, in parts that test processes share; CI a few short ones.
PARTS = 10


# One control is enough for CI.
CONTROLS = [guards.CHARGE_KEY, guards.TOMBSTONE, guards.CLOSE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All parts and controls with --full, the first of each without."""
    chosen = slice(None) if metafunc.config.getoption("--full") else slice(1)
    if "part" in metafunc.fixturenames:
        metafunc.parametrize("part", range(PARTS)[chosen])
    if "guard" in metafunc.fixturenames:
        metafunc.parametrize("guard", CONTROLS[chosen])


@pytest.fixture
def small_shop(shop: None, settings: Any, tmp_path: Path) -> Iterator[SmallShop]:
    with open_shop(tmp_path, settings) as opened:
        yield opened


def run_days(shop: SmallShop, *, runs: int, steps: int, number: int, phases: list[Phase]) -> type[OrderDesk]:
    """Run the machine so often, with so many steps each. Raises what a step finds."""

    class Days(OrderDesk):
        pass

    Days.shop = shop
    seed(number)(Days)
    run_state_machine_as_test(
        Days,
        settings=hypothesis_settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    return Days


@pytest.mark.timeout(1800)
def test_no_day_leaves_an_order_half_done(small_shop: SmallShop, part: int, is_full: bool) -> None:
    chosen = os.environ.get("PROPERTIES_SEED") or random.SystemRandom().randrange(10**9)
    runs, steps = (500 // PARTS, 50) if is_full else (8, 30)
    print(f"part {part} of PROPERTIES_SEED={chosen}: {runs} runs of {steps} steps")
    days = run_days(
        small_shop,
        runs=runs,
        steps=steps,
        number=int(chosen) + part,
        phases=[Phase.generate, Phase.shrink],
    )
    print(
        f"{days.runs} runs, {days.steps} steps, {days.orders_placed} orders, {days.late_effects} late effects"
    )
    assert days.runs >= runs
    assert days.late_effects, "no attempt came late, so nothing was shown about those"


@pytest.mark.timeout(900)
def test_control_without_a_guard_the_machine_finds_the_violation(small_shop: SmallShop, guard: str) -> None:
    found = ""
    with guards.without(guard):
        try:
            run_days(small_shop, runs=300, steps=30, number=1, phases=[Phase.generate])
        except AssertionError as violation:
            found = " ".join(str(violation).split())[:300] or repr(violation)
    print(f"without {guard}: {found}")
    assert found, "the machine found nothing, so it proves nothing about this guard"
