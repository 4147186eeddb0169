"""Requests that are carried out once: their keys, and the answers that repeats of them get again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from orders.models import ApiClient, IdempotentRequest, Order

MAX_KEY = 255


class KeyInUse(Exception):
    """Another request with this key is being carried out at this moment."""


class KeyReused(Exception):
    """The key was used for another request than this one."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that says by its key that it may be one sent before. `body` is its JSON, as values."""

    client: ApiClient
    method: str
    path: str
    key: str
    body: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: `body` exactly as it is sent, `location` as a path of this site."""

    order: Order
    status: int
    location: str
    body: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it is on record, and whether this request is the repeat of one."""

    status: int
    location: str
    body: str
    is_replay: bool


@transaction.atomic
def answer_once(*, request: KeyedRequest, carry_out: Callable[[], Answer]) -> StoredAnswer:
    """Carry the request out, or answer as the first one with its key was.

    Takes the key's advisory lock until the transaction ends. What `carry_out` writes and the answer are
    stored together or not at all: whatever it raises leaves the key unused. Raises KeyInUse when another
    request holds the lock, KeyReused when the key belongs to another body.
    """
    if not lock_key(request):
        raise KeyInUse("A request with this Idempotency-Key is being carried out. Try again in a moment.")
    fingerprint = fingerprint_body(request.body)
    # In a statement after the lock's: it sees what the lock's last owner has committed.
    known = find_known(request)
    if known is not None:
        if known.fingerprint != fingerprint:
            raise KeyReused("This key was used for another order. A new order needs a new key.")
        return StoredAnswer(known.status, known.location, known.body, is_replay=True)
    answer = carry_out()
    IdempotentRequest.objects.create(
        client=request.client,
        method=request.method,
        path=request.path,
        key=request.key,
        fingerprint=fingerprint,
        order=answer.order,
        status=answer.status,
        location=answer.location,
        body=answer.body,
    )
    return StoredAnswer(answer.status, answer.location, answer.body, is_replay=False)


def lock_key(request: KeyedRequest) -> bool:
    """Take the key's lock until the transaction ends; False when another transaction has it. Never waits.

    The lock is a number made from the key: two keys of one number would only wait for each other.
    """
    name = json.dumps([request.client.pk, request.method, request.path, request.key])
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        row = cursor.fetchone()
    return bool(row and row[0])


def find_known(request: KeyedRequest) -> IdempotentRequest | None:
    """The request that has used the key."""
    return IdempotentRequest.objects.filter(
        client=request.client, method=request.method, path=request.path, key=request.key
    ).first()


def fingerprint_body(body: Any) -> str:
    """SHA-256 of the body's values, whatever their order, spacing and escapes.

    Of what was sent and not of what was understood: a release that adds a field with a default must not make
    other requests of those that are repeated across it.
    """
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
