"""Every error of the API as RFC 9457 `application/problem+json`."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from orders.refusals import StateConflict
from orders.services import InvalidOrder

logger = logging.getLogger("orders.api")

CONTENT_TYPE = "application/problem+json"
INVALID_REQUEST = "urn:problem-type:order-desk:invalid-request"
STATE_CONFLICT = "urn:problem-type:order-desk:state-conflict"
RETRY_AFTER = 5  # seconds, while the database is away


def answer_problem(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler. None leaves an unexpected error to Django's debug page."""
    request = context["request"]
    match error:
        case InvalidOrder():
            return _build(request, 400, INVALID_REQUEST, errors=list(_name_fields(error)))
        case exceptions.ValidationError():
            return _build(request, 400, INVALID_REQUEST, errors=list(_point_at(error.detail)))
        case StateConflict():
            return _build(request, 409, STATE_CONFLICT, detail=str(error))
        case Http404():
            return _build(request, 404, detail="There is nothing at this address.")
        case PermissionDenied():
            return _build(request, 403, detail=str(error) or "You may not do this.")
        case SuspiciousOperation():
            return _build(request, 400, detail="The request cannot be understood.")
        case exceptions.APIException():
            return _build(request, error.status_code, detail=str(error.detail), headers=_read_headers(error))
        case OperationalError():
            logger.error("the database does not answer: %s", request.path, exc_info=error)
            headers = {"Retry-After": str(RETRY_AFTER)}
            return _build(request, 503, detail="Try again in a moment.", headers=headers)
    if settings.DEBUG:
        return None
    got_request_exception.send(sender=answer_problem, request=request._request)
    logger.error("the API failed: %s", request.path, exc_info=error)
    return _build(request, 500, detail="This is our fault; it has been logged.")


def _build(
    request: Any,
    status: int,
    problem_type: str = "about:blank",
    *,
    detail: str = "",
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    set_rollback()
    problem: dict[str, Any] = {
        "type": problem_type,
        "title": {
            INVALID_REQUEST: "The request is not valid",
            STATE_CONFLICT: "The order's state does not allow this",
        }.get(problem_type, HTTPStatus(status).phrase),
        "status": status,
        "detail": detail or "; ".join(f"{error['pointer']}: {error['detail']}" for error in errors or []),
        "instance": request.path,
    }
    if errors is not None:
        problem["errors"] = errors
    return Response(problem, status=status, headers=headers, content_type=CONTENT_TYPE)


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
