"""Reads request bodies: JSON as RFC 8259 has it, and of a size and depth that cannot hurt."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

MAX_BODY = 256 * 1024  # bytes; an order of 100 lines has about 10 KiB


class BodyTooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = f"Send at most {MAX_BODY // 1024} KiB."
    default_code = "too_large"


class DuplicateName(ValueError):
    """An object has a name twice: whoever wrote it and whoever reads it may mean different ones."""


class StrictJSONParser(BaseParser):
    """DRF's own parser reads a body of any size, decodes it as the client says, and fails on deep nesting."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The body as Python values. Raises ParseError or BodyTooLarge."""
        body: bytes = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise BodyTooLarge
        try:
            return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_build_object)
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8 (byte {error.start}).") from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ParseError(f"The body is not JSON ({where}: {error.msg}).") from error
        except DuplicateName as error:
            raise ParseError(str(error)) from error
        except ValueError as error:
            # A number of thousands of digits, or one of JavaScript's that JSON has not.
            raise ParseError("The body has a number that JSON has not, or that is far too long.") from error
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DuplicateName(f"An object of the body has the name {twice!a} more than once.")
    return found
