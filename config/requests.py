"""The id of a request: taken from its X-Request-ID or made, answered, logged, and told to Temporal."""

import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from uuid import uuid4

from django.http import HttpRequest, HttpResponse

HEADER = "X-Request-ID"
META_KEY = "HTTP_X_REQUEST_ID"
# What may stand in a log line as it is: anything else is replaced, not escaped.
ACCEPTABLE = re.compile(r"[A-Za-z0-9._:-]{1,100}")

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def read_request_id() -> str:
    """The id of the request that is being answered; empty outside of requests."""
    return _request_id.get()


def name_request(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: gives each request its id and answers with it. One that is unfit for logs is replaced."""

    def answer(request: HttpRequest) -> HttpResponse:
        given = request.META.get(META_KEY, "")
        request_id = given if ACCEPTABLE.fullmatch(given) else uuid4().hex
        # What is unfit is gone for whoever reads the header later, the log filter below among them.
        request.META[META_KEY] = request_id
        token = _request_id.set(request_id)
        try:
            response = get_response(request)
        finally:
            _request_id.reset(token)
        response[HEADER] = request_id
        return response

    return answer


class RequestIdFilter(logging.Filter):
    """Logging filter: adds ` request=<id>` as `request_note` to each line; nothing outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = read_request_id()
        # Django logs an answer of 400 or more when all middleware is done, and gives its request along.
        request = getattr(record, "request", None)
        if not request_id and isinstance(request, HttpRequest):
            request_id = request.META.get(META_KEY, "")
        record.request_note = f" request={request_id}" if request_id else ""
        return True
