"""The OpenAPI description and its interactive page, both from our own origin and open to everybody."""

import functools
from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from orders.api.waiting import answer_if_new, make_etag


@functools.cache
def describe_api() -> tuple[dict[str, Any], str]:
    """The OpenAPI document and its ETag: the same for everybody, so made once in each process."""
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return document, make_etag(document)


class SchemaView(APIView):
    """The OpenAPI document, as JSON or as YAML: `Accept` says which."""

    permission_classes = [AllowAny]
    renderer_classes = [OpenApiJsonRenderer, OpenApiYamlRenderer]
    schema = None

    def get(self, request: Request) -> Response:
        document, etag = describe_api()
        return answer_if_new(request, document, etag)


@require_safe
# The vendored page sets styles on its elements and draws its icons from data addresses.
@csp_update({"style-src": [SELF, UNSAFE_INLINE], "img-src": [SELF, "data:"]})
def show_docs(request: HttpRequest) -> HttpResponse:
    """The interactive page: its script reads the description, and calls this origin alone."""
    return render(request, "api/docs.html")
