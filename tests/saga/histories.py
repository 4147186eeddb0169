"""Records the histories that the replay test keeps: `pytest tests/saga/histories.py` writes them anew.

From the first release on, a deliberate change of the sagas adds files under new names: the old ones stay as
long as orders started under them may be running.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from tests.saga.scenarios import SCENARIOS

FOLDER = Path(__file__).parent / "histories"
# What names a machine or a file of it, and means nothing to a replay. Not `sdkMetadata`: it holds the flags
# by which the SDK decides what it checks, and without them activities could be swapped unnoticed.
PRIVATE = {"stackTrace", "identity", "binaryChecksum", "workerVersion", "requestId"}


def strip(value: Any) -> Any:
    """The history without what is private to the machine that recorded it."""
    if isinstance(value, dict):
        return {key: strip(part) for key, part in value.items() if key not in PRIVATE}
    return [strip(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", SCENARIOS)
async def test_record(worker: Client, name: str) -> None:
    carry_out, _ = SCENARIOS[name]
    history = json.loads((await (await carry_out(worker)).fetch_history()).to_json())
    (FOLDER / f"{name}.json").write_text(json.dumps(strip(history), indent=1, sort_keys=True) + "\n")
