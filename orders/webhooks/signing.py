"""How webhooks are signed: https://www.standardwebhooks.com, symmetric."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime

MARK = "whsec_"
SECRET_BYTES = 32


def make_secret() -> str:
    """A new secret."""
    return MARK + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def build_headers(*, event_id: str, at: datetime, body: bytes, secrets: Iterable[str]) -> dict[str, str]:
    """The headers by which a receiver knows who sent the body, when, and whether it came before.

    One signature for each secret: after a rotation the old one signs, too, for a while.
    """
    timestamp = str(int(at.timestamp()))
    signed = b".".join([event_id.encode(), timestamp.encode(), body])
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_sign(secret, signed)}" for secret in secrets),
    }


def _sign(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(MARK))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
