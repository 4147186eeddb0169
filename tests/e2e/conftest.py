"""Fixtures of the tests that go through the admin and the API."""

from typing import Any

import pytest
from django.test import Client as Browser

from inventory.catalogue import seed_catalogue
from tests.e2e.doors import log_in


@pytest.fixture
def counter(db: None, settings: Any) -> None:
    """The shop as `shop` has it, rolled back after the test: enough where no worker takes part."""
    seed_catalogue()
    settings.OUTBOX_FAST_PATH = False


@pytest.fixture
def boss(counter: None) -> Browser:
    """A superuser's browser."""
    return log_in("boss", superuser=True)
