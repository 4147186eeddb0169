"""OPTIONS: the answer's `Allow` says which methods there are; the rest is in the OpenAPI description."""

from typing import Any

from rest_framework.metadata import BaseMetadata
from rest_framework.request import Request


class NoMetadata(BaseMetadata):
    """Nothing. DRF's own names views and parsers, and none of the fields."""

    def determine_metadata(self, request: Request, view: Any) -> None:
        return None
