"""What the tests of sagas share."""

from typing import Any

import pytest


@pytest.fixture
def hasty_repair(shop: None, settings: Any) -> None:
    """An order is looked at after half a second without a sign."""
    settings.REPAIR_AFTER = 0.5
