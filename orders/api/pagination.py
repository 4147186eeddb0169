"""Lists by page: a page's cursor is a place in the list, so that new rows neither repeat nor hide any."""

from abc import ABC, abstractmethod
from typing import Any

from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView

from orders.api.errors import INVALID_REQUEST, Problem

MAX_BIGINT = 2**63 - 1


def refuse_parameter(name: str, detail: str) -> Problem:
    """The problem of a bad query parameter."""
    return Problem(INVALID_REQUEST, errors=[{"parameter": name, "detail": detail}])


class StrictCursorPagination(CursorPagination, ABC):
    """DRF's, but a bad page size or cursor is refused, not ignored. The ordering is by one unique field."""

    page_size = 50
    max_page_size = 100
    page_size_query_param = "page_size"
    cursor_query_description = "Where the page begins: as in the `next` or `previous` of another page."
    page_size_query_description = "Rows of a page."

    @abstractmethod
    def is_place(self, position: str) -> bool:
        """Whether the ordering's field can have this value."""

    def get_page_size(self, request: Request) -> int:
        wanted = request.query_params.get(self.page_size_query_param)
        if wanted is None:
            return self.page_size
        if not (wanted.isascii() and wanted.isdecimal() and 1 <= len(wanted) <= 3) or not (
            1 <= int(wanted) <= self.max_page_size
        ):
            raise refuse_parameter(
                self.page_size_query_param, f"Ask for a whole number from 1 to {self.max_page_size}."
            )
        return int(wanted)

    def decode_cursor(self, request: Request) -> Cursor | None:
        try:
            cursor: Cursor | None = super().decode_cursor(request)
        except NotFound as error:
            raise self._refuse() from error
        # An offset is for rows of equal position, of which there are none.
        if cursor is not None and (
            cursor.offset or cursor.position is None or not self.is_place(str(cursor.position))
        ):
            raise self._refuse()
        return cursor

    def _refuse(self) -> Problem:
        return refuse_parameter(
            self.cursor_query_param, "This is no cursor of this list. Take one from `next` or `previous`."
        )

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        cursor, size = super().get_schema_operation_parameters(view)
        limits = {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        text = {"type": "string", "minLength": 1}
        return [{**cursor, "schema": text}, {**size, "schema": {"type": "integer", **limits}}]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": {**link, "description": "The next page; null on the last one."},
                "previous": {**link, "description": "The page before; null on the first one."},
                "results": schema,
            },
        }


class OrderPagination(StrictCursorPagination):
    """The newest order first."""

    ordering = "-number"

    def is_place(self, position: str) -> bool:
        return (
            position.isascii()
            and position.isdecimal()
            and len(position) <= 19
            and int(position) <= MAX_BIGINT
        )


class ProductPagination(StrictCursorPagination):
    """By SKU."""

    ordering = "sku"

    def is_place(self, position: str) -> bool:
        return 0 < len(position) <= 40 and position.isprintable()
