"""Machine clients and their keys: made, listed, found by a key somebody shows, revoked."""

import hashlib
import logging
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, F, Max, Q, QuerySet
from django.utils import timezone

from orders.models import ApiClient, ApiKey, Scope

logger = logging.getLogger("orders.clients")

# Keys begin with this, so that scanners for leaked secrets can tell them.
MARK = "odk_"
PREFIX_LENGTH = len(MARK) + 8
SECRET_BYTES = 32
# What a key looks like: anything else is refused without asking the database.
A_KEY = re.compile(rf"{MARK}[A-Za-z0-9_-]{{43}}", re.ASCII)
# How exact `last_used_at` is: a request more often than that writes nothing.
USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `secret` is the key itself: it is not kept, and cannot be shown again."""

    key: ApiKey
    # Not in its repr, which may end up in a log.
    secret: str = field(repr=False)


def list_clients() -> QuerySet[ApiClient]:
    """All clients with `valid_keys`, how many of their keys are not revoked, and `last_used_at`."""
    return ApiClient.objects.annotate(
        valid_keys=Count("keys", filter=Q(keys__revoked_at=None)), last_used_at=Max("keys__last_used_at")
    )


def list_keys(client: ApiClient) -> QuerySet[ApiKey]:
    """The client's keys with who made and who revoked them: first those that are valid, then the newest."""
    keys = client.keys.select_related("created_by", "revoked_by")
    return keys.order_by(F("revoked_at").desc(nulls_first=True), "-pk")


def clean_name(text: str) -> str:
    """A name as it is kept: on one line. Raises ValueError for what cannot be shown in one."""
    name = " ".join(text.split())
    if not name.isprintable():
        raise ValueError("A name has no control characters.")
    return name


def open_client(*, name: str) -> ApiClient:
    """The client of that name, made if it is missing."""
    client, is_new = ApiClient.objects.get_or_create(name=name)
    if is_new:
        logger.info("made API client %r", name)
    return client


@transaction.atomic
def create_key(
    *, client: ApiClient, name: str, scopes: Collection[Scope | str], created_by: User | None = None
) -> NewKey:
    """Make a key for the client. Raises ValueError for no scope or an unknown one."""
    wanted = [scope for scope in Scope.values if scope in set(scopes)]
    if not wanted or len(wanted) != len(set(scopes)):
        raise ValueError(f"A key has at least one scope of {', '.join(Scope.values)}.")
    secret = MARK + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey.objects.create(
        client=client,
        name=name,
        prefix=secret[:PREFIX_LENGTH],
        digest=_digest(secret),
        scopes=wanted,
        created_by=created_by,
    )
    logger.info("made API key %s of client %r: %s", key, client.name, ", ".join(wanted))
    return NewKey(key, secret)


def find_key(secret: str) -> ApiKey | None:
    """The key somebody shows, with its client; None for one that is unknown, revoked, or whose client is
    switched off. Notes that it was used."""
    if not A_KEY.fullmatch(secret):
        return None
    key = (
        ApiKey.objects.select_related("client")
        .filter(digest=_digest(secret), revoked_at=None, client__is_active=True)
        .first()
    )
    if key is not None:
        _note_use(key)
    return key


def _note_use(key: ApiKey) -> None:
    now = timezone.now()
    unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
    if key.last_used_at is None or key.last_used_at < now - USE_NOTED_EVERY:
        ApiKey.objects.filter(unnoted, pk=key.pk).update(last_used_at=now)


@transaction.atomic
def revoke_key(*, key_id: int, revoked_by: User) -> bool:
    """Revoke the key for good, from the next request on. Returns whether this call did it."""
    open_key = ApiKey.objects.filter(pk=key_id, revoked_at=None)
    is_revoked = bool(open_key.update(revoked_at=timezone.now(), revoked_by=revoked_by))
    if is_revoked:
        logger.info("revoked API key number %d", key_id)
    return is_revoked


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
