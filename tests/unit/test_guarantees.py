"""docs/guarantees.md names tests; they must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# `file.py::test`, `::test` of the file before it, or a file or folder of tests alone.
NAME = re.compile(r"`((?:tests/)?[\w/]*(?:test_\w+\.py)?)(?:::(test_\w+))?`")


def find_names(page: str) -> list[tuple[Path, str]]:
    """Each test the page names, as a file and a function; the function is empty for a whole file."""
    found: list[tuple[Path, str]] = []
    for place, function in NAME.findall(page):
        if not place.endswith(".py") and not function:
            continue
        path = found[-1][0] if not place else ROOT / ("" if "/" in place else "tests/unit") / place
        found.append((path, function))
    return found


def test_every_test_that_the_guarantees_name_exists() -> None:
    names = find_names((ROOT / "docs" / "guarantees.md").read_text())
    assert len(names) > 50
    missing = [
        f"{path.name}::{function}"
        for path, function in names
        if not path.is_file() or (function and f"def {function}(" not in path.read_text())
    ]
    assert missing == []


def test_a_name_that_is_wrong_is_found() -> None:
    """The control of the test above."""
    page = "`test_outbox.py::test_nothing`, `::test_claimed_message_is_leased`; `tests/crash/test_nowhere.py`"
    (outbox, first), (same, second), (nowhere, whole) = find_names(page)
    assert outbox == same
    assert f"def {first}(" not in outbox.read_text()
    assert f"def {second}(" in same.read_text()
    assert (nowhere.is_file(), whole) == (False, "")
