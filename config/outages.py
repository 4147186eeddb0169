"""What a page answers while the database is away."""

import sys
from collections.abc import Iterator

from django.db import InterfaceError, OperationalError
from django.http import HttpResponse
from django.template import loader

RETRY_AFTER = 5  # seconds


def answer_outage() -> HttpResponse | None:
    """The page for the error that is being handled, if that says that the database is away or too busy.

    It is made without the database and without the request. None for any other error.
    """
    if not any(isinstance(error, OperationalError | InterfaceError) for error in _trace(sys.exc_info()[1])):
        return None
    response = HttpResponse(loader.render_to_string("503.html"), status=503)
    response["Retry-After"] = str(RETRY_AFTER)
    response["Cache-Control"] = "no-store"
    return response


def _trace(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on: a session that cannot be saved hides the database's error."""
    passed: list[BaseException] = []
    while error is not None and error not in passed:
        passed.append(error)
        yield error
        error = error.__cause__ or error.__context__
