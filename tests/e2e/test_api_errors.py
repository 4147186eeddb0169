"""Every error under /api/ is a problem document, whoever finds it: parser, view, router or middleware."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client as Browser
from django.test import RequestFactory
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.test import APIClient, APIRequestFactory

from config.wsgi import application
from orders import reports
from orders.api import errors, serializers
from orders.api.errors import answer_problem
from orders.api.parsers import MAX_BODY
from orders.models import Order
from tests.e2e.api import (
    MISSING,
    ORDERS,
    PRODUCTS,
    client_of,
    make_client,
    make_order,
    order_body,
    read_problem,
)
from tests.e2e.ordering import post_order, post_raw

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def api(counter: None) -> APIClient:
    return client_of(make_client())


@pytest.fixture
def unraised(api: APIClient) -> APIClient:
    """A client that sees a failure as everybody does: as its answer."""
    api.raise_request_exception = False
    return api


def type_of(response: Any, status: int) -> str:
    problem_type: str = read_problem(response, status)["type"]
    return problem_type.removeprefix("urn:problem-type:order-desk:")


# --- bodies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON (line 1, column 2"),
        (b"\xff", "not UTF-8 (byte 0)"),
        (b'{"customer_email": NaN}', "a number that JSON has not"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, ""),
        (b'{"items": [{"quantity": ' + b"9" * 5000 + b"}]}", "far too long"),
        (b'{"items": [], "items": [{"sku": "TEE-M", "quantity": 1}]}', "the name 'items' more than once"),
        (b'{"items": [{"sku": "A", "sku": "B"}]}', "the name 'sku' more than once"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"null null", "not JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_one_json_value_is_refused(api: APIClient, body: bytes, said: str) -> None:
    problem = read_problem(post_raw(api, body, content_type="application/json; charset=rot13"), 400)
    assert said in problem["detail"]
    if said:
        assert problem["type"] == "urn:problem-type:order-desk:malformed"
    assert "sys.set" not in problem["detail"]  # Python's own advice to its programmer


def test_a_body_that_is_too_large_is_refused(api: APIClient) -> None:
    assert type_of(post_raw(api, b" " * (MAX_BODY + 1)), 413) == "too-large"


def test_no_body_at_all_names_what_is_missing(api: APIClient) -> None:
    problem = read_problem(post_raw(api, b""), 400)
    assert {error["pointer"] for error in problem["errors"]} == {"#/customer_email", "#/items"}


def test_a_body_without_a_length_is_not_taken_for_an_empty_one(api: APIClient) -> None:
    request = RequestFactory().post(ORDERS, b"", content_type="application/json").environ
    request["HTTP_TRANSFER_ENCODING"] = "chunked"
    request.pop("CONTENT_LENGTH", None)
    statuses: list[str] = []
    content = b"".join(application(request, lambda status, headers: statuses.append(status)))  # type: ignore[arg-type]
    assert statuses == ["411 Length Required"]
    assert json.loads(content)["type"].endswith(":length-required")


@pytest.mark.parametrize(
    "content_type", ["application/xml", "text/plain", "", "application/json, text/html", "/"]
)
def test_other_content_types_are_refused(api: APIClient, content_type: str) -> None:
    response = post_raw(api, json.dumps(order_body()), content_type=content_type)
    assert type_of(response, 415) == "unsupported-media-type"


# --- addresses, methods, forms ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/", "/api/v1", "/api/v1/nothing", "/api/v1/nothing/", ORDERS + "not-a-uuid/", ORDERS + "%00/",
        "/api/v1/%00", "/api/v1/%FF%FE", "/api/v1/orders//", "/api/v1/../admin/", ORDERS + "x" * 5000,
        "/api/v1/\N{SNOWMAN}/",
    ],
)  # fmt: skip
def test_an_unknown_address_is_a_404_for_everybody(counter: None, address: str) -> None:
    assert type_of(APIClient().get(address), 404) == "not-found"


@pytest.mark.parametrize("address", ["/api", "/api/", "/api/v2/orders/", "/api/v1.0/", "/api/%00"])
@pytest.mark.parametrize("debug", [False, True])
def test_so_is_one_that_no_version_has(counter: None, settings: Any, address: str, debug: bool) -> None:
    settings.DEBUG = debug
    response = Browser(headers={"accept": "text/html"}).get(address)
    assert (response.status_code, response.headers["Content-Type"]) == (404, errors.CONTENT_TYPE)
    assert json.loads(response.content)["type"].endswith(":not-found")
    assert response.headers["X-Request-ID"]


def test_addresses_outside_of_the_api_are_left_as_they_are(counter: None) -> None:
    for address in ("/apiary", "/apiary/", "/healthz/"):
        response = Browser().get(address)
        assert response.status_code == 404
        assert response.headers["Content-Type"].startswith("text/html")
    assert Browser().get("/admin").status_code == 301


def test_methods_an_address_has_not_are_a_405_that_lists_those_it_has(api: APIClient) -> None:
    order = make_order(make_client())
    for address, allowed in (
        (PRODUCTS, "GET, HEAD, OPTIONS"),
        (ORDERS, "GET, POST, HEAD, OPTIONS"),
        (f"{ORDERS}{order.pk}/", "GET, HEAD, OPTIONS"),
        (f"{ORDERS}{order.pk}/trail/", "GET, HEAD, OPTIONS"),
        (f"{ORDERS}{order.pk}/cancel/", "POST, OPTIONS"),
        ("/api/v1/schema/", "GET, HEAD, OPTIONS"),
        ("/api/v1/docs/", "GET, HEAD"),
    ):
        for method in ("put", "patch", "delete", "trace", "BREW"):
            response = api.generic(method.upper(), address)
            assert type_of(response, 405) == "method-not-allowed"
            assert response.headers["Allow"] == allowed


def test_options_answers_with_the_methods_and_nothing_else(api: APIClient) -> None:
    for address, allowed in ((PRODUCTS, "GET, HEAD, OPTIONS"), (ORDERS, "GET, POST, HEAD, OPTIONS")):
        response = api.options(address)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["Allow"] == allowed
        assert response.headers["Content-Length"] == "0"


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;version=9, image/*"])
def test_forms_an_answer_cannot_have_are_a_406(api: APIClient, accept: str) -> None:
    for address in (PRODUCTS, ORDERS):
        response = api.get(address, HTTP_ACCEPT=accept)
        if "json" in accept:
            assert response.status_code == 200
        else:
            assert type_of(response, 406) == "not-acceptable"
    assert (
        api.get(PRODUCTS, HTTP_ACCEPT="application/problem+json, application/json;q=0.5").status_code == 200
    )


def test_the_format_is_no_parameter(api: APIClient) -> None:
    problem = read_problem(api.get(PRODUCTS + "?format=xml"), 400)
    assert problem["errors"][0]["parameter"] == "format"


def test_every_address_works_without_its_last_slash(api: APIClient) -> None:
    assert api.get(PRODUCTS[:-1]).json() == api.get(PRODUCTS).json()
    response = post_order(api, address=ORDERS[:-1])
    assert response.status_code == 202
    address = response.headers["Location"][:-1]
    assert api.get(address).json() == response.json()
    assert api.get(address + "/trail").status_code == 200
    cancelled = api.post(address + "/cancel", {"reason": "no slash"}, format="json")
    assert (cancelled.status_code, cancelled.json()["cancel_requested"]) == (202, True)
    assert api.get(ORDERS[:-1] + "?page_size=1").json()["results"][0]["id"] == response.json()["id"]


# --- who asks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", [None, "", "Basic YTpi", "Token abc", "Bearer", "Bearer wrong", "Bearer \xe9"]
)
def test_without_a_valid_key_one_is_told_how_to_show_one(counter: None, authorization: str | None) -> None:
    address = f"{ORDERS}{make_order(make_client()).pk}/"
    http = APIClient()
    if authorization is not None:
        http.credentials(HTTP_AUTHORIZATION=authorization)
    for response in (
        http.get(ORDERS),
        post_order(http),
        http.get(address),
        http.get(address + "trail/"),
        http.post(address + "cancel/", {"reason": "x"}, format="json"),
    ):
        assert type_of(response, 401) == "not-authenticated"
        shown = (authorization or "").startswith("Bearer")
        error = (
            ', error="invalid_token"' if shown else ""
        )  # only where a key was shown: RFC 6750, section 3.1
        assert response.headers["WWW-Authenticate"] == f'Bearer realm="Order Desk API"{error}'


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("address", [ORDERS, ORDERS[:-1], PRODUCTS, "/api/v1/docs/", "/api/v1/nowhere"])
def test_plain_http_is_refused_and_not_redirected(
    api: APIClient, settings: Any, method: str, address: str
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    response = api.generic(method, address, json.dumps(order_body()), content_type="application/json")
    problem = read_problem(response, 400)
    assert problem["type"].endswith(":https-required")
    assert "https://" in problem["detail"]
    assert "revoked" in problem["detail"]
    assert not Order.objects.exists()


def test_what_came_by_https_is_answered_and_pages_are_still_redirected(api: APIClient, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert api.get(ORDERS, secure=True).status_code == 200
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert api.get(ORDERS, HTTP_X_FORWARDED_PROTO="https").status_code == 200
    assert api.get(ORDERS, HTTP_X_FORWARDED_PROTO="http").status_code == 400
    assert Browser().get("/admin/").status_code == 301


# --- failures --------------------------------------------------------------------------------------------


def fail(*args: object, **options: object) -> Any:
    raise ZeroDivisionError("the secret of the failure")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_a_failing_view_is_a_problem_with_the_requests_id_and_is_logged(
    unraised: APIClient,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    debug: bool,
    accept: str,
) -> None:
    settings.DEBUG = debug
    monkeypatch.setattr(reports, "get_report", fail)
    response = unraised.get(MISSING, HTTP_ACCEPT=accept, HTTP_X_REQUEST_ID="find-me")
    problem = read_problem(response, 500)
    assert problem["type"] == "urn:problem-type:order-desk:server-error"
    assert problem["request_id"] == response.headers["X-Request-ID"] == "find-me"
    assert "find-me" in problem["detail"]
    assert b"secret" not in response.content
    [record] = [record for record in caplog.records if record.name == "orders.api"]
    assert record.exc_info
    assert "the secret of the failure" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
def test_so_is_a_failure_while_the_answer_is_written(
    unraised: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    """After the view: where Django's own handler answers, with its own page."""
    settings.DEBUG = debug
    monkeypatch.setattr("rest_framework.renderers.JSONRenderer.render", fail)
    response = unraised.get(PRODUCTS)
    assert response.status_code == 500
    problem = json.loads(response.content)
    assert problem["type"] == "urn:problem-type:order-desk:server-error"
    assert response.headers["Content-Type"] == errors.CONTENT_TYPE
    assert b"secret" not in response.content


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("host", ["evil.example", "under_score", "a b", "[::", "x" * 300 + ".example"])
def test_a_host_that_is_not_ours_is_a_problem(counter: None, settings: Any, host: str, debug: bool) -> None:
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = ["testserver"]
    response = APIClient().get(PRODUCTS, HTTP_HOST=host)
    assert type_of(response, 400) == "malformed"
    assert b"ALLOWED_HOSTS" not in response.content
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_database_that_does_not_answer_is_a_503_that_says_when_to_come_back(
    unraised: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_connection(**options: object) -> Any:
        raise OperationalError("server closed the connection to db-1.internal")

    monkeypatch.setattr(reports, "get_report", lose_connection)
    response = unraised.get(MISSING)
    assert type_of(response, 503) == "unavailable"
    assert response.headers["Retry-After"] == "5"
    assert b"db-1" not in response.content


def test_too_many_requests_say_when_to_come_back() -> None:
    request = Request(APIRequestFactory().get(PRODUCTS))
    response = answer_problem(Throttled(wait=2.4), {"request": request})
    assert (response.status_code, response.data["status"]) == (429, 429)
    assert response.headers["Retry-After"] == "3"


def test_a_failure_after_the_order_was_written_leaves_nothing(
    unraised: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serializers, "reverse", fail)
    assert type_of(post_order(unraised), 500) == "server-error"
    assert not Order.objects.exists()


# --- the list of problems --------------------------------------------------------------------------------


def test_every_kind_of_problem_is_documented_and_every_documented_kind_exists() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for kind in errors.KINDS:
        assert f"| `{kind.slug}` | {kind.status} |" in text
    assert text.count("\n| `") >= len(errors.KINDS)
    listed = {
        line.split("`")[1] for line in text.split("## Errors")[1].splitlines() if line.startswith("| `")
    }
    assert listed == {kind.slug for kind in errors.KINDS}
