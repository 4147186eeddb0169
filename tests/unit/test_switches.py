"""The tests' switches load beside a test's database alone; the project's own settings know none of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from tests.processes import PROJECT, SWITCHED, build_environment

pytestmark = pytest.mark.usefixtures("db")

ASK = """
import sys, django
django.setup()
import orders.trail, payments.services
from django.db.backends.base.base import BaseDatabaseWrapper
print(orders.trail.run_attempt.__module__, BaseDatabaseWrapper._commit.__module__,
      payments.services.charge_key.__module__, [name for name in sys.modules if name.startswith("tests")])
"""
SWITCHED_ON = {"CRASH_POINTS": "/tmp/points", "UNGUARDED": "charge key"}  # noqa: S108 - nothing is written there


def start_django(module: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=PROJECT,
        env={
            **os.environ,
            **build_environment(),
            **SWITCHED_ON,
            "DJANGO_SETTINGS_MODULE": module,
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_switches_are_in_where_a_test_asks_for_them() -> None:
    """The control of the tests below."""
    answer = start_django(SWITCHED)
    assert answer.returncode == 0, answer.stderr
    points, guards = "tests.switches.points", "tests.switches.guards"
    assert answer.stdout.startswith(f"{points} {points} {guards} ")


def test_switches_refuse_any_database_but_a_tests() -> None:
    database = build_environment()["DATABASE_URL"]
    real = database.replace(connection.settings_dict["NAME"], "order_desk")
    answer = start_django(SWITCHED, DATABASE_URL=real)
    assert answer.returncode != 0
    assert "ImproperlyConfigured: tests.switches stops and breaks things on purpose." in answer.stderr
    assert "this one is 'order_desk'" in answer.stderr


def test_switches_refuse_a_site_that_is_not_a_developers() -> None:
    answer = start_django(SWITCHED, ORDER_DESK_EMBEDDED="0")
    assert answer.returncode != 0
    assert "ImproperlyConfigured: tests.switches" in answer.stderr


def test_settings_of_the_project_have_no_switch() -> None:
    answer = start_django("config.settings")
    assert answer.returncode == 0, answer.stderr
    own = "orders.trail django.db.backends.base.base payments.services []"
    assert answer.stdout.strip() == own


def test_image_does_not_hold_the_tests() -> None:
    shipped = [
        line for line in Path(PROJECT, ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert "*" in Path(PROJECT, ".dockerignore").read_text().splitlines()
    assert not any("tests" in line for line in shipped)
