"""What tests of the proof have shown, kept test by test for the commit, so that a run can go on."""

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"


@dataclass
class Result:
    """The outcome of one test."""

    test: str
    title: str
    # How many of what was tried: orders, cells, rounds.
    n: int
    of: str
    faults: int
    violations: list[str]
    seed: int
    seconds: float
    commit: str
    is_short: bool = False
    # What else was counted.
    counts: dict[str, int] = field(default_factory=dict)
    ended_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def name_commit(checkout: Path) -> str:
    """The commit, with a mark of what has been changed since; `unknown` outside of a repository."""
    head = _ask_git(checkout, "rev-parse", "--short=10", "HEAD")
    if not head:
        return UNKNOWN
    changes = _ask_git(checkout, "diff", "HEAD") + _ask_git(checkout, "status", "--porcelain")
    mark = hashlib.sha256(changes.encode()).hexdigest()[:6]
    return f"{head}+{mark}" if changes else head


def _ask_git(checkout: Path, *arguments: str) -> str:
    try:
        asked = subprocess.run(
            ["git", *arguments], cwd=checkout, capture_output=True, text=True, timeout=30, errors="replace"
        )
    except OSError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


class Kept:
    """The finished tests of one commit, in a file of their own."""

    def __init__(self, directory: Path, commit: str) -> None:
        self.file = directory / f"{commit}.json"
        self.commit = commit

    def find(self, key: str) -> Result | None:
        """A test that has ended without a violation on this very code. Others are done again."""
        if self.commit == UNKNOWN or not self.file.exists():
            return None
        kept = json.loads(self.file.read_text()).get(key)
        result = Result(**kept) if kept else None
        return result if result and result.is_clean else None

    def keep(self, key: str, result: Result) -> None:
        """Write it down before the next test begins."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(self.file.read_text()) if self.file.exists() else {}
        unfinished = self.file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({**kept, key: result.describe()}, indent=2))
        unfinished.replace(self.file)
