"""Fixtures of the crash tests."""

from tests.crash.shopping import secret

__all__ = ["secret"]
