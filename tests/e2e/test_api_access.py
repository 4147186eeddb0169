"""Who may do what by API: every endpoint and method, asked by everybody, about an order of one client."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.urls import get_resolver, reverse
from rest_framework.test import APIClient

from orders.api.docs import show_docs
from orders.api.views import NowhereView
from orders.clients import create_key, revoke_key
from orders.models import ApiClient, Order, Scope
from tests.e2e.api import client_of, make_client, make_order, order_body, read_problem
from tests.e2e.doors import make_user
from tests.e2e.hooks import add_endpoint

# --- the table --------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One method of an endpoint: the scope it takes (None: no key), what the owner of the order is answered,
    and what another client is, who may do the same with orders of its own."""

    scope: Scope | None
    own: int
    other: int
    body: dict[str, Any] | None = None


# An address that may be registered: public, and looked up without asking anybody.
TARGET = "https://93.184.216.34/orders"
# By the URL's name. An endpoint or a method that is missing here fails the first test.
ENDPOINTS: dict[str, dict[str, Row]] = {
    "api-products": {"GET": Row(None, own=200, other=200)},
    "api-orders": {
        "GET": Row(Scope.READ, own=200, other=200),
        "POST": Row(Scope.PLACE, own=202, other=202, body=order_body()),
    },
    "api-order": {"GET": Row(Scope.READ, own=200, other=404)},
    "api-order-trail": {"GET": Row(Scope.READ, own=200, other=404)},
    "api-order-cancel": {"POST": Row(Scope.CANCEL, own=202, other=404, body={"reason": "broken"})},
    "api-webhooks": {
        "GET": Row(Scope.WEBHOOKS, own=200, other=200),
        "POST": Row(Scope.WEBHOOKS, own=201, other=201, body={"url": TARGET, "events": ["order.completed"]}),
    },
    "api-webhook": {
        "GET": Row(Scope.WEBHOOKS, own=200, other=404),
        "DELETE": Row(Scope.WEBHOOKS, own=204, other=404),
    },
    "api-webhook-secret": {"POST": Row(Scope.WEBHOOKS, own=200, other=404)},
    "api-schema": {"GET": Row(None, own=200, other=200)},
}
# What stands for each parameter of an address: something of the owner's.
PARAMETERS: dict[str, Callable[[ApiClient, Order], object]] = {
    "order_id": lambda owner, order: order.pk,
    "webhook_id": lambda owner, order: add_endpoint(owner.name).pk,
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
CASES = [(name, method) for name in ENDPOINTS for method in METHODS]
A_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


class Endpoint(NamedTuple):
    route: str
    name: str | None
    view: Any


def list_endpoints(patterns: Any = None, prefix: str = "") -> Iterator[Endpoint]:
    """Every pattern of the API, those without a name included."""
    pattern: Any
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = f"{prefix}{pattern.pattern}"
        if hasattr(pattern, "url_patterns"):
            yield from list_endpoints(pattern.url_patterns, route)
        elif route.startswith("api/"):
            yield Endpoint(route, pattern.name, getattr(pattern.callback, "cls", pattern.callback))


def find_address(name: str, owner: ApiClient, order: Order) -> str:
    """The endpoint's address, about what the owner has."""
    route = next(endpoint.route for endpoint in list_endpoints() if endpoint.name == name)
    wanted = {each: PARAMETERS[each](owner, order) for each in A_PARAMETER.findall(route)}
    return reverse(name, kwargs=wanted)


def test_every_endpoint_and_method_is_in_the_table() -> None:
    found: dict[str, set[str]] = {}
    for route, name, view in list_endpoints():
        if view in (NowhereView, show_docs):  # no endpoints: every other address, and a page for people
            continue
        assert name, f"{route} has no name, and so no row"
        found.setdefault(name, set()).update(
            method.upper() for method in view.http_method_names if hasattr(view, method)
        )
    # Django and DRF give every view these two.
    table = {name: {*rows, "OPTIONS"} for name, rows in ENDPOINTS.items()}
    assert {name: methods - {"HEAD"} for name, methods in found.items()} == table


# --- everybody who asks -----------------------------------------------------------------------------------


def show(secret: str) -> APIClient:
    http = APIClient()
    http.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return http


def ask_with_a_revoked_key(owner: ApiClient) -> APIClient:
    new = create_key(client=owner, name="old", scopes=Scope.values)
    assert revoke_key(key_id=new.key.pk, revoked_by=make_user("ada"))
    return show(new.secret)


def ask_for_an_inactive_client(owner: ApiClient) -> APIClient:
    http = client_of(owner)
    ApiClient.objects.filter(pk=owner.pk).update(is_active=False)
    return http


def limit_to(scope: Scope) -> Callable[[ApiClient], APIClient]:
    return lambda owner: client_of(owner, scope)


CALLERS: dict[str, Callable[[ApiClient], APIClient]] = {
    "nobody": lambda owner: APIClient(),
    "an unknown key": lambda owner: show("odk_" + "x" * 43),
    "a revoked key": ask_with_a_revoked_key,
    "an inactive client": ask_for_an_inactive_client,
    "the owner": client_of,
    "another client": lambda owner: client_of(make_client("other")),
    **{f"the owner, only to {scope}": limit_to(scope) for scope in Scope},
}
SHOWS_NO_VALID_KEY = {"an unknown key", "a revoked key", "an inactive client"}


def expect(caller: str, name: str, method: str) -> int:
    """The status that the table means for this caller."""
    rows = ENDPOINTS[name]
    row = rows.get("GET" if method == "HEAD" else method)
    is_public = all(each.scope is None for each in rows.values())
    if caller in SHOWS_NO_VALID_KEY or (caller == "nobody" and not is_public):
        return 401
    if method == "OPTIONS":
        return 200
    if row is None:
        return 405
    if row.scope is not None and caller.startswith("the owner, only to ") and not caller.endswith(row.scope):
        return 403
    return row.other if caller == "another client" else row.own


@pytest.mark.parametrize(("name", "method"), CASES)
def test_each_caller_gets_exactly_what_the_table_says(counter: None, name: str, method: str) -> None:
    row = ENDPOINTS[name].get(method)
    wrong = []
    for number, (caller, prepare) in enumerate(CALLERS.items()):
        owner = make_client(f"shop {number}")
        order = make_order(owner)
        http = prepare(owner)
        answer = http.generic(
            method,
            find_address(name, owner, order),
            json.dumps(row.body) if row and row.body else "",
            content_type="application/json",
            HTTP_IDEMPOTENCY_KEY=str(uuid4()),
        )
        wanted = expect(caller, name, method)
        if answer.status_code != wanted:
            wrong.append(f"{caller}: {method} {name} is {answer.status_code}, not {wanted}")
        elif wanted >= 400 and method != "HEAD":
            read_problem(answer, wanted)
        if caller == "another client":
            assert f'"id":"{order.pk}"' not in answer.content.decode(), f"{method} {name} shows the order"
        order.refresh_from_db()
        is_cancelled = name == "api-order-cancel" and answer.status_code == 202
        assert (order.cancel_requested_at is not None) == is_cancelled, f"{caller}: {method} {name}"
    assert wrong == []


def test_what_is_nowhere_is_so_for_everybody(counter: None) -> None:
    nowhere = "/api/v1/nowhere/"
    read_problem(APIClient().get(nowhere), 404)
    read_problem(client_of(make_client(), Scope.CANCEL).get(nowhere), 404)
