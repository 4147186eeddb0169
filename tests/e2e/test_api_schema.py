"""The OpenAPI description: committed, served, complete, and without a warning."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from rest_framework.test import APIClient

from orders.api.docs import describe_api

ROOT = Path(__file__).resolve().parents[2]
WRITE = "manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml"
SCHEMA = "/api/v1/schema/"


def list_operations() -> list[tuple[str, str, dict[str, Any]]]:
    document, _ = describe_api()
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_committed_description_is_the_one_of_the_code() -> None:
    """Generated without a warning, as the command does it, so that a change of the API shows in its diff."""
    generated = StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=generated)
    committed = (ROOT / "docs" / "openapi.yaml").read_text()
    assert generated.getvalue().strip() == committed.strip(), f"docs/openapi.yaml is out of date: {WRITE}"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("accept", "read", "content_type"),
    [
        ("*/*", json.loads, "application/vnd.oai.openapi+json"),
        ("application/vnd.oai.openapi+json", json.loads, "application/vnd.oai.openapi+json"),
        ("application/vnd.oai.openapi", yaml.safe_load, "application/vnd.oai.openapi"),
    ],
)
def test_it_is_served_to_everybody_in_both_forms(accept: str, read: Any, content_type: str) -> None:
    response = APIClient().get(SCHEMA, HTTP_ACCEPT=accept)
    assert response.headers["Content-Type"].split(";")[0] == content_type
    assert read(response.content) == yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    again = APIClient().get(SCHEMA, HTTP_ACCEPT=accept, HTTP_IF_NONE_MATCH=response.headers["ETag"])
    assert again.status_code == 304


def test_every_operation_documents_its_problems_its_caller_and_its_request_id() -> None:
    document, _ = describe_api()
    operations = list_operations()
    assert len(operations) >= 6
    for path, method, operation in operations:
        about = f"{method} {path}"
        assert operation["summary"], about
        needed = {"400", "406", "429", "500", "503"}
        if path != "/api/v1/products/":
            assert operation["security"] == [{"key": []}], about
            needed |= {"401", "403"}
        if "{" in path:
            needed |= {"404"}
        if method == "post":
            needed |= {"411", "413", "415"}
        assert needed <= set(operation["responses"]), about
        for status, answer in operation["responses"].items():
            if "$ref" in answer:
                answer = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
                assert list(answer["content"]) == ["application/problem+json"], about
            else:
                assert status < "400", about
            assert "X-Request-ID" in answer["headers"], about


def test_placing_documents_its_key_and_all_its_answers() -> None:
    document, _ = describe_api()
    place = document["paths"]["/api/v1/orders/"]["post"]
    [key] = [parameter for parameter in place["parameters"] if parameter["in"] == "header"]
    assert (key["name"], key["required"]) == ("Idempotency-Key", True)
    assert {"202", "400", "409", "422"} <= set(place["responses"])
    assert {"Location", "Idempotent-Replayed"} <= set(place["responses"]["202"]["headers"])
    conflict = document["components"]["responses"][place["responses"]["409"]["$ref"].rsplit("/", 1)[1]]
    assert set(conflict["content"]["application/problem+json"]["examples"]) == {
        "short-of-stock",
        "idempotency-key-in-use",
    }
    assert "Retry-After" in conflict["headers"]


def test_the_trail_documents_how_to_wait() -> None:
    document, _ = describe_api()
    follow = document["paths"]["/api/v1/orders/{order_id}/trail/"]["get"]
    headers = {parameter["name"] for parameter in follow["parameters"] if parameter["in"] == "header"}
    assert headers == {"If-None-Match", "Prefer"}
    assert {"ETag", "Preference-Applied"} <= set(follow["responses"]["200"]["headers"])
    assert "content" not in follow["responses"]["304"]
