"""What holds for every address under /api/: the last slash is optional, and every error is a problem."""

import json
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from orders.api.errors import (
    CONTENT_TYPE,
    HTTPS_REQUIRED,
    KIND_OF_STATUS,
    LENGTH_REQUIRED,
    SERVER_ERROR,
    Kind,
    build_problem,
)

PREFIX = "/api/"
USE_HTTPS = (
    "Use https://. A key that was sent with this request has crossed the network unencrypted: have it "
    "revoked, and use another."
)


def answer_api_problems(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware. An error that no view of the API has answered (a host we do not serve, an address without a
    view, a failure while an answer is written, DEBUG's page) becomes a problem with the same status."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        if not f"{request.path_info}/".startswith(PREFIX):
            return get_response(request)
        if not request.path_info.endswith("/"):
            # No redirect: it would make a GET of a POST.
            request.path_info += "/"
            request.path += "/"
        if settings.SECURE_SSL_REDIRECT and not request.is_secure():
            # No redirect: a program would follow it, and send its key in clear again each time.
            return _refuse(request, HTTPS_REQUIRED, USE_HTTPS)
        if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
            # Django reads no body whose length it is not told: it would look like an empty one.
            return _refuse(request, LENGTH_REQUIRED, "Send the body with a Content-Length.")
        response = get_response(request)
        if response.status_code < 400 or response.headers.get("Content-Type") == CONTENT_TYPE:
            return response
        kind = KIND_OF_STATUS.get(response.status_code, SERVER_ERROR)
        problem = build_problem(kind, f"{kind.title}.") | {"status": response.status_code}
        # In place, so that the headers that are right for every answer stay, and those like Allow.
        response.headers["Content-Type"] = CONTENT_TYPE
        del response.headers["Content-Length"]
        if isinstance(response, HttpResponse):
            response.content = _write(request, problem)
        return response

    return answer


def _refuse(request: HttpRequest, kind: Kind, detail: str) -> HttpResponse:
    """The answer to what goes no further."""
    problem = build_problem(kind, detail)
    return HttpResponse(
        _write(request, problem),
        status=kind.status,
        content_type=CONTENT_TYPE,
        headers={"X-Content-Type-Options": "nosniff"},
    )


def _write(request: HttpRequest, problem: dict[str, object]) -> str:
    return json.dumps({**problem, "instance": request.path})
