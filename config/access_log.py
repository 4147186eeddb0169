"""What the logs may tell of an address: no query, which names customers, and no link that opens an order."""

import logging
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

# Whoever has the rest of such an address sees the order, and may cancel it (orders/links.py).
ORDER_LINKS = "/order/"


def cut_link(path: str) -> str:
    """The path as it may be logged."""
    return f"{ORDER_LINKS}…" if path.startswith(ORDER_LINKS) else path


class AccessLog(Logger):  # type: ignore[misc]
    """gunicorn's, whose request line has the whole address."""

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> dict[str, Any]:
        atoms: dict[str, Any] = super().atoms(resp, req, environ, request_time)
        # As it was sent: in the decoded path there may be line ends.
        path = environ["RAW_URI"].partition("?")[0]
        if cut_link(environ["PATH_INFO"]) != environ["PATH_INFO"]:
            path = cut_link(environ["PATH_INFO"])
        atoms["r"] = f"{environ['REQUEST_METHOD']} {path} {environ['SERVER_PROTOCOL']}"
        return atoms


class LinkFilter(logging.Filter):
    """Logging filter: Django names the path of a request that it refuses or that fails."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(cut_link(each) if isinstance(each, str) else each for each in record.args)
        return True
