"""Answers that are asked for again and again: 304 while nothing is new, and waiting for news (RFC 7240)."""

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.conf import settings
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.http import parse_etags, quote_etag
from rest_framework import status
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

Found = TypeVar("Found")

MAX_WAIT = 20  # seconds
POLL_INTERVAL = 0.1  # seconds
WAIT = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.IGNORECASE)

_lock = threading.Lock()
# By client.
_waiting: Counter[int] = Counter()


def read_wait(request: Request) -> int:
    """The seconds the client is ready to wait (`Prefer: wait=N`), MAX_WAIT at most; 0 when it is not.

    What cannot be understood is no preference: the RFC wants it ignored.
    """
    for preference in request.headers.get("Prefer", "").split(","):
        if match := WAIT.fullmatch(preference):
            return min(int(match[1]), MAX_WAIT)
    return 0


@contextmanager
def take_place(seconds: int, *, client_id: int) -> Iterator[int]:
    """A place among those of this process that may wait. Gives how long this one may: 0 if all are taken, or
    the client has half of them. A connection that was dropped keeps its place until its time is up."""
    places = settings.API_LONG_POLLS
    with _lock:
        is_taken = seconds > 0 and _waiting.total() < places and _waiting[client_id] < max(1, places // 2)
        if is_taken:
            _waiting[client_id] += 1
    try:
        yield seconds if is_taken else 0
    finally:
        if is_taken:
            with _lock:
                _waiting[client_id] -= 1
                if not _waiting[client_id]:
                    del _waiting[client_id]


def poll(read: Callable[[], Found], is_news: Callable[[Found], bool], *, seconds: float) -> Found:
    """Read until it is news, or the time is up; what was read last. Holds no transaction in between."""
    deadline = time.monotonic() + seconds
    while True:
        found = read()
        left = deadline - time.monotonic()
        if left <= 0 or is_news(found):
            return found
        time.sleep(min(POLL_INTERVAL, left))


def make_etag(data: object) -> str:
    """The ETag of an answer: the same as long as the answer is."""
    return quote_etag(hashlib.sha256(JSONRenderer().render(data)).hexdigest()[:32])


def knows(request: Request, etag: str) -> bool:
    """Whether the client has this answer already (If-None-Match)."""
    known = parse_etags(request.headers.get("If-None-Match", ""))
    return "*" in known or etag in (tag.removeprefix("W/") for tag in known)


def answer_if_new(request: Request, data: object, etag: str) -> Response:
    """The answer with its ETag; 304 and no body when the client has it."""
    is_known = knows(request, etag)
    response = (
        Response(None, status=status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
        if is_known
        else Response(data, headers={"ETag": etag})
    )
    # To be asked for again each time: an order changes at any moment, and is the client's alone.
    patch_cache_control(response, private=True, no_cache=True)
    patch_vary_headers(response, ["Authorization"])
    return response
