"""Who asks: a machine client that shows one of its keys, what that key may do, and how often it may ask."""

from typing import Any, cast

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import (
    AuthenticationFailed,
    NotAuthenticated,
    PermissionDenied,
    Throttled,
)
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from config.login import find_client_address
from orders import limits
from orders.clients import find_key
from orders.models import ApiClient, ApiKey

SCHEME = "Bearer"
CHALLENGE = f'{SCHEME} realm="Order Desk API"'


class TooManyRequests(Throttled):
    """429; `wait` becomes Retry-After."""

    def __init__(self, per_minute: int, wait: int) -> None:
        super().__init__(detail=f"At most {per_minute} requests a minute: try again in {wait} s.")
        self.wait = wait


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer odk_...` (RFC 6750). `request.user` is the client, `request.auth` the key.

    Counts the request first of all, before DRF asks for permissions: what is refused afterwards counts, too.
    """

    def authenticate(self, request: Request) -> tuple[ApiClient, ApiKey] | None:
        """None when no key is shown. Raises AuthenticationFailed for one that is not valid, and Throttled
        for a client, or an address without a valid key, that has asked too often."""
        secret = _read_secret(request)
        key = find_key(secret) if secret is not None else None
        if key is not None:
            per_minute = key.client.requests_per_minute or settings.API_REQUESTS_PER_MINUTE
            _count_request(f"client {key.client_id}", per_minute)
            return key.client, key
        network = limits.name_network(find_client_address(request._request))
        _count_request(f"address {network}", settings.API_ANONYMOUS_REQUESTS_PER_MINUTE)
        if secret is None:
            return None
        raise AuthenticationFailed(
            "This API key is not valid: it is unknown, has been revoked, or its client is switched off."
        )

    def authenticate_header(self, request: Request) -> str:
        """What a 401 asks for; RFC 6750 names an error only where a key was shown."""
        shown = _read_secret(request) is not None
        return f'{CHALLENGE}, error="invalid_token"' if shown else CHALLENGE


def _read_secret(request: Request) -> str | None:
    """What stands where the key should be, None where no key is shown at all."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == SCHEME.lower() else None


def _count_request(subject: str, per_minute: int) -> None:
    """Raise Throttled when the subject has spent its allowance."""
    if per_minute and (wait := limits.spend(subject=subject, per_minute=per_minute)):
        raise TooManyRequests(per_minute, wait)


def get_client(request: Request) -> ApiClient:
    """The client: to be asked in views that need a key."""
    return cast("ApiClient", request.user)


def name_actor(client: ApiClient) -> str:
    """The client as the history of an order names it."""
    return client.actor


class ScopeMissing(PermissionDenied):
    """The key is good, and not for this: 403, with the scope it would take (RFC 6750, section 3.1)."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key has not the scope {scope}.")
        self.auth_header = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


class HasScope(BasePermission):
    """A key with the scope that the view names for the method (`scopes = {"POST": Scope.PLACE}`)."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Raises NotAuthenticated without a key, and ScopeMissing."""
        key: Any = request.auth
        if not isinstance(key, ApiKey):
            raise NotAuthenticated(f"This takes an API key: send it as `Authorization: {SCHEME} odk_...`.")
        # Django answers HEAD with what GET would.
        method = "GET" if request.method == "HEAD" else str(request.method)
        scope = getattr(view, "scopes", {}).get(method)
        if scope is None:
            # Methods that the view does not have are refused as such (405). One that it has and names no
            # scope for is for nobody: forgotten, it would be for everybody.
            return method == "OPTIONS" or not hasattr(view, method.lower())
        if scope not in key.scopes:
            raise ScopeMissing(scope)
        return True
