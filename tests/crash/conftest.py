"""Fixtures of the crash tests."""

from tests.crash.shopping import secret
from tests.local_services import data_dir

__all__ = ["data_dir", "secret"]
