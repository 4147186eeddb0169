"""The session that holds the cart: cookies nobody of us made, its end, and its renewal."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orders.storefront import session
from tests.e2e.doors import PASSWORD, make_user
from tests.e2e.storefront import cart_of, fill_cart, order, read

pytestmark = pytest.mark.usefixtures("counter")


@pytest.mark.parametrize("path", ["/", "/cart/", "/admin/"])
@pytest.mark.parametrize("key", ["\x00abcdefghij", "a" * 31, "A" * 32, f"{'a' * 32}\n", "ä" * 32, "a" * 400])
def test_a_session_key_that_is_none_of_ours_is_as_good_as_none(client: Browser, path: str, key: str) -> None:
    client.cookies["sessionid"] = key
    answer = client.get(path, follow=True)
    assert answer.status_code == 200
    assert client.cookies["sessionid"].value == ""  # taken away


def end_session(browser: Browser) -> str:
    """Let the session's time run out, its row still there. Gives its key."""
    key = browser.session.session_key
    assert key is not None
    assert Session.objects.filter(pk=key).update(expire_date=timezone.now() - timedelta(hours=1))
    return key


def test_a_session_that_has_ended_is_followed_by_one_that_is_kept(client: Browser) -> None:
    fill_cart(client)
    ended = end_session(client)
    fill_cart(client, ("PEN-BRASS", 1))
    assert cart_of(client) == {"PEN-BRASS": 1}
    assert client.session.session_key != ended
    fill_cart(client, ("LAMP-DESK", 1))
    assert cart_of(client) == {"PEN-BRASS": 1, "LAMP-DESK": 1}


def test_a_cart_outlasts_a_change_of_the_key(client: Browser, settings: Any) -> None:
    fill_cart(client)
    old = settings.SECRET_KEY
    settings.SECRET_KEY = "new" * 20
    assert cart_of(client) == {}
    settings.SECRET_KEY_FALLBACKS = [old]
    assert cart_of(client) == {"MUG-STONE": 2}


def test_logging_in_keeps_the_cart_and_logging_out_ends_it(client: Browser) -> None:
    fill_cart(client)
    make_user("ada", staff=True)
    assert client.post("/admin/login/", {"username": "ada", "password": PASSWORD}).status_code == 302
    assert cart_of(client) == {"MUG-STONE": 2}
    assert client.post("/admin/logout/").status_code == 200
    assert cart_of(client) == {}


def test_a_session_knows_its_latest_orders_and_no_more(
    client: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.MAX_PLACED == 20
    monkeypatch.setattr(session, "MAX_PLACED", 2)
    placed = [order(client) for _ in range(3)]
    assert client.session["shop"]["placed"] == [str(each.pk) for each in placed[1:]]
    answers = [client.post("/checkout/", {"order_id": str(each.pk)}) for each in placed]
    assert "This page was out of date" in read(answers[0])
    for answer in answers[1:]:
        assert "This order was already placed" in read(answer)


def test_a_change_renews_the_session_and_its_cookie(client: Browser) -> None:
    fill_cart(client)
    Session.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    del client.cookies["sessionid"]["max-age"]
    key = client.session.session_key
    answer = client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"})
    assert answer.cookies["sessionid"].value == key
    assert answer.cookies["sessionid"]["max-age"] == 14 * 24 * 3600
    (row,) = Session.objects.all()
    assert row.expire_date > timezone.now() + timedelta(days=13)
    assert cart_of(client) == {"MUG-STONE": 3}


def test_the_session_is_written_once_and_under_the_lock(client: Browser) -> None:
    """Written again after it, the session would overwrite what another tab has changed meanwhile."""
    fill_cart(client)
    with CaptureQueriesContext(connection) as queries:
        client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"})
    told = [query["sql"].split()[0] for query in queries if "django_session" in query["sql"]]
    assert told.count("UPDATE") == 1


def test_what_is_put_into_the_session_after_the_cart_is_written_too(client: Browser, settings: Any) -> None:
    """As notices that are too long for a cookie are."""
    fill_cart(client)
    settings.MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
    answer = client.post("/cart/add/", {"sku": "MUG-STONE", "quantity": "1"}, follow=True)
    assert "1 × Stoneware mug put in your cart." in read(answer)  # noqa: RUF001
    assert cart_of(client) == {"MUG-STONE": 3}
