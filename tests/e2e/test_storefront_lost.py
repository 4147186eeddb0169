"""The connection lost in the middle of a request says that the database is away, whatever it comes out as."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test import Client as Browser

from tests.e2e.storefront import cart_of, fill_cart
from tests.faults import connect

pytestmark = pytest.mark.usefixtures("shop")


@contextmanager
def losing_connection(statement: str, table: str) -> Iterator[list[str]]:
    """PostgreSQL ends the connection just before the first such statement. Gives what it was."""
    lost: list[str] = []

    def run(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if not lost and sql.startswith(statement) and table in sql:
            lost.append(sql)
            with connect() as other:
                pid = connection.connection.info.backend_pid
                assert other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(run):
        yield lost
    connection.close()


def check_says_so(answer: Any) -> None:
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert "We cannot reach our records just now" in answer.content.decode()


@pytest.mark.parametrize(
    ("statement", "table"),
    [("SELECT", "inventory_product"), ("SELECT", "django_session"), ("UPDATE", "django_session")],
)
def test_lost_while_the_cart_is_changed(client: Browser, statement: str, table: str) -> None:
    fill_cart(client)
    client.raise_request_exception = False
    with losing_connection(statement, table) as lost:
        answer = client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"})
    assert len(lost) == 1
    check_says_so(answer)
    assert cart_of(client) == {"MUG-STONE": 2}


def test_lost_while_the_session_is_saved_after_the_page_was_made(client: Browser, settings: Any) -> None:
    settings.MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
    client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"})
    client.raise_request_exception = False
    with losing_connection("UPDATE", "django_session") as lost:
        answer = client.get("/cart/")  # it shows the notice, which leaves the session
    assert len(lost) == 1
    check_says_so(answer)
