"""The admin's pages of API clients and their keys: what they show, what they make, and what they keep."""

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rest_framework.test import APIClient

from orders.clients import create_key, revoke_key
from orders.models import ApiClient, ApiKey, Order, OrderAction, Scope
from tests.e2e.api import ORDERS, PRODUCTS, make_client, make_order
from tests.e2e.doors import LIST, ROLLED_BACK, log_in, page_of, read_messages, set_status

CLIENTS = reverse("admin:orders_apiclient_changelist")
ADD = reverse("admin:orders_apiclient_add")
A_SECRET = re.compile(r"odk_[A-Za-z0-9_-]{43}")
GOOD: dict[str, Any] = {"name": "web shop, production", "scopes": ["read", "place"]}


def page_of_client(client: ApiClient) -> str:
    return reverse("admin:orders_apiclient_change", args=[client.pk])


def adding_to(client: ApiClient) -> str:
    return reverse("admin:orders_apiclient_add_key", args=[client.pk])


def revoking(key: ApiKey) -> str:
    return reverse("admin:orders_apiclient_revoke_key", args=[key.client_id, key.pk])


def make_key(client: ApiClient, name: str = "till") -> ApiKey:
    return create_key(client=client, name=name, scopes=[Scope.READ]).key


def read_log(client: ApiClient) -> list[str]:
    entries = LogEntry.objects.filter(object_id=str(client.pk), content_type__model="apiclient")
    return [entry.get_change_message() for entry in entries.order_by("pk")]


def read_errors(answer: Any) -> str:
    return " ".join(re.findall(r'<ul class="errorlist"[^>]*>(.*?)</ul>', answer.content.decode(), re.DOTALL))


# --- clients ----------------------------------------------------------------------------------------------


def test_a_client_is_added_and_led_to_its_first_key(boss: Browser) -> None:
    answer = boss.post(ADD, {"name": "  web \t shop ", "is_active": "on"}, follow=True)
    client = ApiClient.objects.get()
    assert (client.name, client.is_active, client.requests_per_minute) == ("web shop", True, None)
    assert answer.redirect_chain == [(page_of_client(client), 302)]
    assert read_messages(answer) == ["web shop is added. It needs a key before it can ask for anything."]
    assert f'href="{adding_to(client)}"' in answer.content.decode()
    assert "No keys yet" in answer.content.decode()


def test_a_client_is_changed_and_keeps_its_orders_and_keys(boss: Browser) -> None:
    client = make_client()
    order, key = make_order(client), make_key(client)
    boss.post(page_of_client(client), {"name": "till", "requests_per_minute": "30"})
    client.refresh_from_db()
    assert (client.name, client.is_active, client.requests_per_minute) == ("till", False, 30)
    order.refresh_from_db()
    key.refresh_from_db()
    assert (order.client, key.client, key.revoked_at) == (client, client, None)
    assert read_log(client) == ["Changed Name, Active and Requests a minute."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "This field is required"),
        ({"name": "x" * 101}, "at most 100 characters"),
        ({"name": "a\x07b"}, "no control characters"),
        ({"name": "a\x00b"}, "Null characters are not allowed"),
        ({"name": "shop"}, "already exists"),
        ({"name": " shop "}, "already exists"),
        ({"requests_per_minute": "0"}, "greater than or equal to 1"),
        ({"requests_per_minute": "-1"}, "greater than or equal to 1"),
        ({"requests_per_minute": "1.5"}, "Enter a whole number"),
        ({"requests_per_minute": "9" * 30}, "less than or equal to"),
    ],
)
def test_a_bad_client_is_refused_beside_the_field(
    boss: Browser, changes: dict[str, str], message: str
) -> None:
    make_client()
    answer = boss.post(ADD, {"name": "till", "is_active": "on", **changes})
    assert message in read_errors(answer)
    assert ApiClient.objects.count() == 1


def test_a_client_is_not_deleted(boss: Browser) -> None:
    client = make_client()
    address = reverse("admin:orders_apiclient_delete", args=[client.pk])
    assert boss.post(address, {"post": "yes"}).status_code == 403
    assert "deletelink" not in boss.get(page_of_client(client)).content.decode()


def test_the_list_says_what_each_client_has_and_takes_as_many_queries_for_many(boss: Browser) -> None:
    def read() -> tuple[int, str]:
        with CaptureQueriesContext(connection) as queries:
            page = boss.get(CLIENTS).content.decode()
        return len(queries), page

    client = ApiClient.objects.create(name="till", requests_per_minute=30, is_active=False)
    keys = [make_key(client), make_key(client), make_key(client)]
    revoke_key(key_id=keys[0].pk, revoked_by=User.objects.get())
    read()  # what this process looks up once is not of the list
    few, page = read()
    assert re.search(r'field-valid_keys">2<', page)
    assert "30 a minute" in page
    assert "never" in page
    for number in range(30):
        make_key(make_client(f"client {number}"))
    many, page = read()
    assert many == few
    assert "600 a minute (as all)" in page


def test_a_clients_page_lists_its_keys_with_as_many_queries_for_many(boss: Browser) -> None:
    def read() -> tuple[int, str]:
        with CaptureQueriesContext(connection) as queries:
            page = boss.get(page_of_client(client)).content.decode()
        return len(queries), page

    client, user = make_client(), User.objects.get()
    key = create_key(client=client, name="first", scopes=["read", "cancel"], created_by=user).key
    make_key(make_client("other"), "of another client")
    read()  # what this process looks up once is not of the page
    few, page = read()
    for text in (str(key), "first", "read its orders, cancel its orders", "by boss", "never"):
        assert text in page
    assert "of another client" not in page
    for number in range(20):
        create_key(client=client, name=f"number {number}", scopes=["read"], created_by=user)
    revoke_key(key_id=key.pk, revoked_by=user)
    many, page = read()
    assert many == few
    assert f'href="{revoking(key)}"' not in page
    assert re.search(r"revoked [^<]* by boss", page)


# --- making a key -----------------------------------------------------------------------------------------


def test_a_key_is_shown_once_on_the_answer_that_made_it(
    boss: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()
    form = boss.get(adding_to(client)).content.decode()
    for scope in Scope:
        assert scope.label in form

    answer = boss.post(adding_to(client), GOOD)

    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    found = set(A_SECRET.findall(answer.content.decode()))
    assert len(found) == 1
    [secret] = found
    line = f"curl -i http://testserver{ORDERS} -H 'Authorization: Bearer {secret}'"
    assert line in unescape(answer.content.decode())
    key = ApiKey.objects.get()
    assert (key.client, key.name, key.scopes) == (client, GOOD["name"], ["read", "place"])
    assert key.created_by == User.objects.get()
    assert APIClient().get(PRODUCTS, HTTP_AUTHORIZATION=f"Bearer {secret}").status_code == 200
    # Nowhere else, and nothing to come back to.
    assert "Location" not in answer.headers
    assert not read_messages(boss.get(page_of_client(client)))
    for page in (page_of_client(client), adding_to(client), CLIENTS, revoking(key), "/admin/"):
        assert secret not in boss.get(page).content.decode()
    history = reverse("admin:orders_apiclient_history", args=[client.pk])
    assert str(key) in boss.get(history).content.decode()
    assert read_log(client) == [f"Made the API key {key} ({key.name}): read its orders, place orders."]
    kept = [str(session.get_decoded()) for session in Session.objects.all()]
    kept += [str(list(LogEntry.objects.values())), str(answer.headers), str(boss.cookies), caplog.text]
    assert all(secret not in each for each in kept)
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "This field is required"),
        ({"name": "x" * 101}, "at most 100 characters"),
        ({"name": "a\x07b"}, "no control characters"),
        ({"scopes": []}, "Choose at least one"),
        ({"scopes": ["all"]}, "not one of the available choices"),
        ({"scopes": ["read", "\x00"]}, "not one of the available choices"),
    ],
)
def test_a_bad_key_is_refused_beside_the_field_and_loses_nothing(
    boss: Browser, changes: dict[str, Any], message: str
) -> None:
    answer = boss.post(adding_to(make_client()), {**GOOD, **changes})
    assert message in read_errors(answer)
    page = answer.content.decode()
    assert "No key has been made yet." in page
    if "name" not in changes:
        assert GOOD["name"] in page
    if "scopes" not in changes:
        assert len(re.findall("<input[^>]*checked", page)) == 2
    assert not ApiKey.objects.exists()


def test_a_key_of_a_client_that_is_switched_off_says_so(boss: Browser) -> None:
    client = ApiClient.objects.create(name="till", is_active=False)
    assert "switched off" in boss.get(adding_to(client)).content.decode()
    assert "refused until till is switched on" in boss.post(adding_to(client), GOOD).content.decode()


def test_the_line_to_try_a_key_asks_for_what_it_may_see(boss: Browser) -> None:
    page = boss.post(adding_to(make_client()), {"name": "x", "scopes": ["place"]}).content.decode()
    assert f"curl -i http://testserver{PRODUCTS} -H" in page


# --- revoking a key ---------------------------------------------------------------------------------------


def test_a_key_is_revoked_after_it_was_named_and_refused_from_then_on(boss: Browser) -> None:
    client = make_client("web shop")
    new = create_key(client=client, name="production", scopes=["read"])

    def use() -> int:
        return int(APIClient().get(PRODUCTS, HTTP_AUTHORIZATION=f"Bearer {new.secret}").status_code)

    page = boss.get(revoking(new.key)).content.decode()
    for text in ("web shop", str(new.key), "production", "read its orders", "create_api_key", "never"):
        assert text in page
    assert use() == 200
    assert "ago)" in boss.get(revoking(new.key)).content.decode()
    answer = boss.post(revoking(new.key), follow=True)
    assert read_messages(answer) == [f"The key {new.key} is revoked: it is refused from now on."]
    assert answer.redirect_chain == [(page_of_client(client), 302)]
    assert use() == 401
    assert read_log(client) == [f"Revoked the API key {new.key} (production)."]

    assert "It was revoked on" in boss.get(revoking(new.key)).content.decode()
    answer = boss.post(revoking(new.key), follow=True)
    assert read_messages(answer) == [f"The key {new.key} was revoked before."]
    assert len(read_log(client)) == 1


def test_what_is_not_there_is_not_found(boss: Browser) -> None:
    client, key = make_client(), make_key(make_client("other"))
    huge = 10**30
    for address in (
        f"{CLIENTS}{client.pk}/keys/{key.pk}/revoke/",
        f"{CLIENTS}{client.pk}/keys/{huge}/revoke/",
        f"{CLIENTS}{huge}/keys/{key.pk}/revoke/",
        f"{CLIENTS}{huge}/keys/add/",
    ):
        assert boss.get(address).status_code == 404, address
        assert boss.post(address, GOOD).status_code == 404, address
    key.refresh_from_db()
    assert key.revoked_at is None


# --- who may ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permissions", "opens"),
    [
        (["view_apiclient"], {"client"}),
        (["view_apiclient", "view_apikey"], {"client", "keys"}),
        (["view_apiclient", "add_apikey"], {"client", "add"}),
        (["view_apiclient", "view_apikey", "change_apikey"], {"client", "keys", "revoke"}),
        (["add_apikey", "change_apikey", "view_apikey"], set()),
        (["change_apiclient"], {"client", "save"}),
    ],
)
def test_each_permission_opens_its_own_pages(counter: None, permissions: list[str], opens: set[str]) -> None:
    client = make_client()
    key = make_key(client)
    clerk = log_in("clerk", *permissions)
    page = clerk.get(page_of_client(client))
    found = {"client"} if page.status_code == 200 else set()
    if str(key) in page.content.decode():
        found.add("keys")
    if clerk.post(page_of_client(client), {"name": "renamed"}).status_code == 302:
        found.add("save")
    pages = {"add": (adding_to(client), GOOD), "revoke": (revoking(key), {})}
    for name, (address, form) in pages.items():
        asked, posted = clerk.get(address).status_code, clerk.post(address, form).status_code
        assert (asked == 200) == (posted in (200, 302))
        if asked == 200:
            found.add(name)
        else:
            assert (asked, posted) == (403, 403)
        assert (f'href="{address}"' in page.content.decode()) == (name in opens)
    assert found == opens
    assert ApiKey.objects.count() == 1 + ("add" in opens)
    assert ApiKey.objects.filter(revoked_at=None).count() == 1 + ("add" in opens) - ("revoke" in opens)


# --- a client's orders ------------------------------------------------------------------------------------


def test_an_order_says_which_client_placed_it_and_the_list_finds_it(boss: Browser) -> None:
    assert "By client" not in boss.get(LIST).content.decode()
    shop, till = make_client("web shop"), make_client("till")
    of_shop, of_staff = make_order(shop), make_order(None)
    assert "by web shop (API)" in boss.get(page_of(of_shop)).content.decode()
    for chosen, found in ((shop.pk, [of_shop.pk]), (till.pk, []), ("none", [of_staff.pk])):
        answer = boss.get(LIST, {"client": chosen})
        assert [order.pk for order in answer.context["cl"].result_list] == found
    assert f'href="{LIST}?client={shop.pk}"' in boss.get(page_of_client(shop)).content.decode()
    for senseless in (shop.pk + 10**6, "x", "\x00", ""):
        assert boss.get(LIST, {"client": senseless}).status_code in (200, 302)
    assert boss.get(LIST, {"client": "x"}).status_code == 302


def test_a_rollback_that_a_client_asked_for_names_it_to_those_who_may_see_names(boss: Browser) -> None:
    shop = make_client("web shop")
    cancelled, by_staff = make_order(shop), make_order(shop)
    for order, actor in ((cancelled, shop.actor), (by_staff, "ada")):
        set_status(order, "cancelled")
        OrderAction.objects.create(order=order, kind="cancel_order", actor=actor, reason="changed my mind")
    Order.objects.update(failure_type="CancelRequested")
    shop.name = "renamed since"
    shop.save()
    for who, found in (("customer", [cancelled.pk]), ("person", [by_staff.pk])):
        answer = boss.get(ROLLED_BACK, {"by": who})
        assert [order.pk for order in answer.context["cl"].result_list] == found
    assert "web shop (API)" in boss.get(ROLLED_BACK).content.decode()
    packer = log_in("packer", "view_order", "view_rollback").get(ROLLED_BACK).content.decode()
    assert "web shop" not in packer
    assert re.findall("the customer|a member of staff", packer).count("the customer") == 1
