"""API keys: shown the right way, refused every other way, and never found where they do not belong."""

import json
import logging
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient
from temporalio.client import Client

from config.requests import HEADER
from config.temporal import run_on_database_thread
from orders import clients
from orders.admin.keys import name_scopes
from orders.clients import create_key, find_key, list_keys, revoke_key
from orders.dispatch import sweep
from orders.models import ApiClient, ApiKey, Scope
from tests.conftest import until
from tests.e2e.api import MISSING, ORDERS, PRODUCTS, client_of, make_client, order_body, read_problem
from tests.e2e.doors import make_user

REALM = 'Bearer realm="Order Desk API"'
INVALID = f'{REALM}, error="invalid_token"'


# --- how a key is shown -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_key_is_shown_as_a_bearer_token(counter: None, scheme: str) -> None:
    secret = create_key(client=make_client(), name="x", scopes=[Scope.READ]).secret
    answer = APIClient().get(MISSING, HTTP_AUTHORIZATION=f"{scheme} {secret}")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("shown", "challenge"),
    [
        (None, REALM),
        ("", REALM),
        ("Basic YWRhOmFkYQ==", REALM),
        ("Token {secret}", REALM),
        ("{secret}", REALM),
        ("Bearer={secret}", REALM),
        ("Bearer\u00a0{secret}", REALM),
        ("\x00\xff\xfe", REALM),
        ("x" * 60_000, REALM),
        ("Bearer", INVALID),
        ("Bearer ", INVALID),
        ("Bearer null", INVALID),
        ("Bearer {secret}x", INVALID),
        ("Bearer {secret} {secret}", INVALID),
        ("Bearer {secret}, Bearer {secret}", INVALID),
        ("Bearer {prefix}", INVALID),
        ("Bearer {digest}", INVALID),
        ("Bearer odk_\x00", INVALID),
        ("Bearer odk_" + "\xff" * 43, INVALID),
        ("Bearer odk_" + "\ud800" * 43, INVALID),
        ("Bearer odk_" + "٣" * 43, INVALID),
        ("Bearer odk_" + "x" * 43, INVALID),
        ("Bearer odk_" + "x" * 60_000, INVALID),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_anything_else_is_told_how_a_key_is_shown(counter: None, shown: str | None, challenge: str) -> None:
    new = create_key(client=make_client(), name="x", scopes=Scope.values)
    http = APIClient()
    if shown is not None:
        given = shown.format(secret=new.secret, prefix=new.key.prefix, digest=new.key.digest)
        http.credentials(HTTP_AUTHORIZATION=given)
    for answer in (http.get(MISSING), http.post(ORDERS, order_body(), format="json")):
        problem = read_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == challenge
        assert "key" in problem["detail"]
        assert new.secret not in answer.content.decode()
    # What is sold needs no key; a wrong one is a mistake there, too.
    assert http.get(PRODUCTS).status_code == (401 if challenge == INVALID else 200)


def test_a_key_without_the_scope_is_told_which_it_takes(counter: None) -> None:
    answer = client_of(make_client(), Scope.READ).post(ORDERS, order_body(), format="json")
    problem = read_problem(answer, 403)
    assert problem["detail"] == "This API key has not the scope place."
    assert answer.headers["WWW-Authenticate"] == f'{REALM}, error="insufficient_scope", scope="place"'


# --- what becomes of a key --------------------------------------------------------------------------------


def test_a_key_is_kept_as_its_hash_alone(db: None) -> None:
    new = create_key(client=make_client(), name="x", scopes=[Scope.READ])
    row = ApiKey.objects.values().get()
    assert new.secret not in str(row)
    assert new.secret.startswith(row["prefix"])
    assert len(new.secret) - len(row["prefix"]) > 30
    assert new.secret not in repr(new)


def test_a_key_has_at_least_one_scope_and_no_unknown_one(db: None) -> None:
    for scopes in ([], ["all"], ["read", "all"]):
        with pytest.raises(ValueError, match="at least one scope of read, place, cancel, webhooks"):
            create_key(client=make_client(), name="x", scopes=scopes)
    assert not ApiKey.objects.exists()


def test_a_revoked_key_is_refused_from_the_next_request_on_and_stays_so(counter: None) -> None:
    till = make_client()
    new = create_key(client=till, name="x", scopes=[Scope.READ])
    http = APIClient()
    http.credentials(HTTP_AUTHORIZATION=f"Bearer {new.secret}")
    assert http.get(PRODUCTS).status_code == 200
    ada = make_user("ada")
    assert revoke_key(key_id=new.key.pk, revoked_by=ada)
    read_problem(http.get(PRODUCTS), 401)
    assert not revoke_key(key_id=new.key.pk, revoked_by=make_user("bob"))
    assert ApiKey.objects.get().revoked_by == ada
    assert client_of(till).get(PRODUCTS).status_code == 200


def test_a_client_that_is_switched_off_and_on_again_goes_on_with_its_keys(counter: None) -> None:
    till = make_client()
    http = client_of(till)
    for is_active, status in ((False, 401), (True, 200)):
        ApiClient.objects.filter(pk=till.pk).update(is_active=is_active)
        assert http.get(PRODUCTS).status_code == status


def test_the_use_of_a_key_is_noted_about_once_a_minute(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    new = create_key(client=make_client(), name="x", scopes=[Scope.READ])
    assert ApiKey.objects.get().last_used_at is None
    assert find_key(new.secret)
    first = ApiKey.objects.get().last_used_at
    assert find_key(new.secret)
    assert ApiKey.objects.get().last_used_at == first
    assert first is not None
    ApiKey.objects.update(last_used_at=first - clients.USE_NOTED_EVERY)
    assert find_key(new.secret)
    used = ApiKey.objects.get().last_used_at
    assert used is not None
    assert used >= first


def test_keys_are_listed_valid_ones_first(db: None) -> None:
    till, ada = make_client(), make_user("ada")
    made = [create_key(client=till, name=str(number), scopes=[Scope.READ]).key for number in range(4)]
    create_key(client=make_client("other"), name="theirs", scopes=[Scope.READ])
    for number in (3, 0):
        revoke_key(key_id=made[number].pk, revoked_by=ada)
    assert [key.name for key in list_keys(till)] == ["2", "1", "0", "3"]
    assert name_scopes(made[0]) == "read its orders"


# --- where a key must not be ------------------------------------------------------------------------------


def dump_texts() -> str:
    """Every column of every table as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [table for (table,) in cursor.fetchall()]
        rows: list[str] = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            rows += [row for (row,) in cursor.fetchall()]
    return "\n".join(rows)


async def test_a_key_is_found_in_no_log_table_or_workflow(
    worker: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def place() -> tuple[str, str, list[str]]:
        new = create_key(client=make_client(), name="x", scopes=[Scope.PLACE, Scope.READ])
        http = APIClient()
        http.credentials(HTTP_AUTHORIZATION=f"Bearer {new.secret}")
        sent: dict[str, Any] = {"format": "json", "HTTP_X_REQUEST_ID": "trace-me"}
        answers = [
            http.post(ORDERS, {}, **sent),
            http.post(ORDERS, order_body(items=[{"sku": "NO-SUCH", "quantity": 1}]), **sent),
            http.post(ORDERS, b"{", content_type="application/json"),
            http.delete(ORDERS),
            http.get(MISSING),
            http.post(f"{MISSING}cancel/", {"reason": "x"}, format="json"),
            http.post(ORDERS, order_body(), **sent, HTTP_IDEMPOTENCY_KEY="1"),
        ]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 405, 404, 403, 202]
        told = [f"{answer.headers} {answer.content.decode()}" for answer in answers]
        return new.secret, answers[-1].json()["id"], told

    secret, order_id, told = await run_on_database_thread(place)
    await sweep(worker)
    handle = worker.get_workflow_handle(f"order-{order_id}")
    await until(lambda: _is_closed(handle), what="the saga ends")
    history = json.dumps((await handle.fetch_history()).to_json_dict())
    memo = str(await (await handle.describe()).memo())
    texts = await run_on_database_thread(dump_texts)

    # The places that are searched are the right ones: what should be there is found.
    assert "trace-me" in memo
    assert f"{order_id}" in history
    assert secret[: clients.PREFIX_LENGTH] in texts
    assert secret[: clients.PREFIX_LENGTH] in caplog.text
    assert HEADER in told[0]
    for place_searched in (*told, caplog.text, texts, history, memo):
        assert secret not in place_searched
        assert secret[clients.PREFIX_LENGTH :] not in place_searched


async def _is_closed(handle: Any) -> bool:
    return (await handle.describe()).close_time is not None
