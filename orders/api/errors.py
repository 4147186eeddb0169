"""Every error of the API as RFC 9457 `application/problem+json`, and the kinds of problems there are."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from config.requests import read_request_id
from orders.idempotency import KeyInUse, KeyReused
from orders.refusals import StateConflict
from orders.services import InvalidOrder

logger = logging.getLogger("orders.api")

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds, while the database is away


class Kind(NamedTuple):
    """A kind of problem. The URN is what programs tell it by: it never changes."""

    slug: str
    status: int
    title: str

    @property
    def urn(self) -> str:
        return f"urn:problem-type:order-desk:{self.slug}"


INVALID_REQUEST = Kind("invalid-request", 400, "The request is not valid")
MALFORMED = Kind("malformed", 400, "The request cannot be read")
HTTPS_REQUIRED = Kind("https-required", 400, "HTTPS is needed")
KEY_REQUIRED = Kind("idempotency-key-required", 400, "An Idempotency-Key is needed")
NOT_AUTHENTICATED = Kind("not-authenticated", 401, "An API key is needed")
NOT_PERMITTED = Kind("not-permitted", 403, "The API key may not do this")
NOT_FOUND = Kind("not-found", 404, "There is nothing at this address")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "The address has no such method")
NOT_ACCEPTABLE = Kind("not-acceptable", 406, "The answer cannot have this form")
STATE_CONFLICT = Kind("state-conflict", 409, "The state does not allow this")
SHORT_OF_STOCK = Kind("short-of-stock", 409, "There is not enough in stock")
KEY_IN_USE = Kind("idempotency-key-in-use", 409, "A request with this key is being carried out")
LENGTH_REQUIRED = Kind("length-required", 411, "The body's length is needed")
TOO_LARGE = Kind("too-large", 413, "The body is too large")
UNSUPPORTED_MEDIA_TYPE = Kind("unsupported-media-type", 415, "The body is not of a type that is read here")
KEY_REUSED = Kind("idempotency-key-reused", 422, "The key was used for another request")
TOO_MANY_REQUESTS = Kind("too-many-requests", 429, "Too many requests")
SERVER_ERROR = Kind("server-error", 500, "The request failed")
UNAVAILABLE = Kind("unavailable", 503, "Not available at the moment")

KINDS = (
    INVALID_REQUEST, MALFORMED, HTTPS_REQUIRED, KEY_REQUIRED, NOT_AUTHENTICATED, NOT_PERMITTED, NOT_FOUND,
    METHOD_NOT_ALLOWED, NOT_ACCEPTABLE, STATE_CONFLICT, SHORT_OF_STOCK, KEY_IN_USE, LENGTH_REQUIRED,
    TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, KEY_REUSED, TOO_MANY_REQUESTS, SERVER_ERROR, UNAVAILABLE,
)  # fmt: skip
# What an error is when nothing but its status is known; errors of one's own name their kind.
KIND_OF_STATUS: dict[int, Kind] = {
    400: MALFORMED,
    409: STATE_CONFLICT,
    **{kind.status: kind for kind in KINDS if kind.status not in (400, 409)},
}


class Problem(exceptions.APIException):
    """An error with a kind, and with what is wrong where: each of `errors` has a `detail`, and a `pointer`
    into the body, a `parameter` or a `header`."""

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status_code = kind.status
        self.text = detail
        self.errors = errors
        self.headers = dict(headers or {})


def answer_problem(error: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler: every error has an answer here, the unexpected ones, too."""
    request = context["request"]
    set_rollback()
    problem, headers = _describe(error, request)
    return Response(
        {**problem, "instance": request.path}, problem["status"], headers=headers, content_type=CONTENT_TYPE
    )


def _describe(error: Exception, request: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The problem and the headers that go with it."""
    match error:
        case Problem():
            return build_problem(error.kind, error.text, errors=error.errors), error.headers
        case InvalidOrder():
            return build_problem(INVALID_REQUEST, errors=list(_name_fields(error))), {}
        case exceptions.ValidationError():
            return build_problem(INVALID_REQUEST, errors=list(_point_at(error.detail))), {}
        case StateConflict():
            return build_problem(STATE_CONFLICT, str(error)), {}
        case KeyInUse():
            return build_problem(KEY_IN_USE, str(error)), {"Retry-After": "1"}
        case KeyReused():
            errors = [{"header": "Idempotency-Key", "detail": str(error)}]
            return build_problem(KEY_REUSED, errors=errors), {}
        case Http404():
            return build_problem(NOT_FOUND, "There is nothing at this address."), {}
        case PermissionDenied():
            return build_problem(NOT_PERMITTED, str(error) or "You may not do this."), {}
        case SuspiciousOperation() | UnreadablePostError():
            return build_problem(MALFORMED, "The request cannot be understood."), {}
        case exceptions.APIException():
            kind = KIND_OF_STATUS.get(error.status_code, SERVER_ERROR)
            return build_problem(kind, str(error.detail)), _read_headers(error)
        case OperationalError() | InterfaceError():
            logger.error("the database does not answer: %s", request.path, exc_info=error)
            return build_problem(UNAVAILABLE, "Try again in a moment."), {"Retry-After": str(RETRY_AFTER)}
    got_request_exception.send(sender=answer_problem, request=request._request)
    logger.error("the API failed: %s", request.path, exc_info=error)
    return build_problem(SERVER_ERROR), {}


def build_problem(
    kind: Kind, detail: str = "", *, errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A problem document without its instance. One that is our fault names the request, to be told to us."""
    if kind.status == 500:
        detail = f"This is our fault; it has been logged as request {read_request_id()}."
    problem: dict[str, Any] = {
        "type": kind.urn,
        "title": kind.title,
        "status": kind.status,
        "detail": detail or "; ".join(f"{_name_place(error)}: {error['detail']}" for error in errors or []),
    }
    if errors is not None:
        problem["errors"] = errors
    if kind.status == 500:
        problem["request_id"] = read_request_id()
    cleaned: dict[str, Any] = _make_encodable(problem)
    return cleaned


def _name_place(error: Mapping[str, Any]) -> str:
    return str(error.get("pointer") or error.get("parameter") or error.get("header"))


def _make_encodable(value: Any) -> Any:
    """The value with half characters (lone surrogates in a client's JSON) spelt out: UTF-8 has none."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: _make_encodable(inner) for key, inner in value.items()}
        case list():
            return [_make_encodable(inner) for inner in value]
    return value


def _read_headers(error: exceptions.APIException) -> dict[str, str]:
    """What DRF has put on the error: how to log in, and when to come back."""
    headers: dict[str, str] = {}
    if auth_header := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = f"{wait:.0f}"
    return headers


def _name_fields(error: InvalidOrder) -> Iterator[dict[str, str]]:
    """InvalidOrder's fields (`items.0.sku`) as JSON pointers (`#/items/0/sku`)."""
    for field, message in error.errors.items():
        yield {"pointer": "#/" + field.replace(".", "/"), "detail": message}


def _point_at(detail: Any, pointer: str = "#") -> Iterator[dict[str, str]]:
    """DRF's nested error details as one flat list. Lists of errors come as lists or as dicts by index."""
    if isinstance(detail, dict):
        for key, value in detail.items():
            inner = pointer
            if key != api_settings.NON_FIELD_ERRORS_KEY:
                inner += "/" + str(key).replace("~", "~0").replace("/", "~1")
            yield from _point_at(value, inner)
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            yield from _point_at(value, f"{pointer}/{index}" if isinstance(value, dict | list) else pointer)
    else:
        yield {"pointer": pointer, "detail": str(detail)}
