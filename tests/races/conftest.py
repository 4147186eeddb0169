"""Fixtures of the races."""

from tests.crash.shopping import secret

__all__ = ["secret"]
