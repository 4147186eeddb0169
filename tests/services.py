"""Gives the test-suite services of its own, beside a running demo, before Django reads its settings.

Loaded with `-p tests.services` (see pyproject.toml). Test processes of xdist inherit the addresses.
"""

import os
from pathlib import Path

from config.embedded import attach_services

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("ORDER_DESK_DATA_DIR", str(ROOT / ".local" / "test"))
os.environ.update(attach_services(ROOT, "pytest"))
