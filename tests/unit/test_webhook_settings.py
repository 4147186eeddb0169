"""Settings of webhooks that make no sense: nothing starts with them, and the message says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

PROJECT = Path(__file__).resolve().parents[2]


def start(**environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that does nothing but read the settings."""
    return subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WEBHOOK_TIMEOUT": "0"}, "WEBHOOK_TIMEOUT takes seconds above 0 such as 10; not '0'"),
        ({"WEBHOOK_TIMEOUT": "ten"}, "WEBHOOK_TIMEOUT takes seconds above 0 such as 10; not 'ten'"),
        ({"WEBHOOK_TIMEOUT": "inf"}, "WEBHOOK_TIMEOUT takes seconds"),
        ({"WEBHOOK_RETRY_INITIAL": "-5"}, "WEBHOOK_RETRY_INITIAL takes seconds"),
        ({"WEBHOOK_RETRY_MAXIMUM": "nan"}, "WEBHOOK_RETRY_MAXIMUM takes seconds"),
        ({"WEBHOOK_RETRY_INITIAL": "4000"}, "not be above WEBHOOK_RETRY_MAXIMUM"),
        ({"WEBHOOK_GIVE_UP_AFTER": "0"}, "WEBHOOK_GIVE_UP_AFTER takes seconds"),
        ({"WEBHOOK_GIVE_UP_AFTER": "604800", "WEBHOOK_KEEP": "7"}, "give up sooner, or keep longer"),
        ({"WEBHOOK_KEEP": "6"}, "WEBHOOK_KEEP must be at least 7 days"),
        ({"WEBHOOK_KEEP": "7.5"}, "WEBHOOK_KEEP takes a whole number"),
        ({"HOUSEKEEPING_INTERVAL": "0"}, "HOUSEKEEPING_INTERVAL takes seconds"),
    ],
)
def test_nothing_starts_with_settings_that_make_no_sense(environment: dict[str, str], said: str) -> None:
    started = start(**environment)
    assert started.returncode == 1
    assert "ImproperlyConfigured" in started.stderr
    assert said in started.stderr


@pytest.mark.parametrize(
    "environment", [{}, {"WEBHOOK_KEEP": "7"}, {"WEBHOOK_KEEP": "", "WEBHOOK_TIMEOUT": ""}]
)
def test_sensible_settings_are_taken(environment: dict[str, str]) -> None:
    assert start(**environment).returncode == 0


def test_lease_outlasts_an_attempt_whatever_its_time_is() -> None:
    """Otherwise two workers would send the same: the lease follows from the time-out."""
    done = subprocess.run(
        [sys.executable, "-c", "import config.settings as s; print(s.WEBHOOK_LEASE)"],
        cwd=PROJECT,
        env={**os.environ, "WEBHOOK_TIMEOUT": "500"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert float(done.stdout) > 500
    assert settings.WEBHOOK_LEASE > settings.WEBHOOK_TIMEOUT
