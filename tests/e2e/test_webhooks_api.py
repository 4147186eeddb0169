"""Webhooks by API: registered, shown without their secret, deleted, and nobody else's business."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from orders.models import DeliveryState, DisabledBy, Scope, WebhookDelivery, WebhookEndpoint, WebhookEvent
from orders.webhooks import targets
from orders.webhooks.courier import record_outcome
from orders.webhooks.registry import MAX_LIVE, MAX_OLD_SECRETS, disable_endpoint, enable_endpoint
from orders.webhooks.sending import Outcome, Sender, list_secrets
from tests.e2e.api import client_of, make_client, read_pointers, read_problem
from tests.webhooks import place_for, publish, read_states, take

WEBHOOKS = "/api/v1/webhooks/"
URL = "https://hooks.example.com/orders"


pytestmark = pytest.mark.usefixtures("counter")


@pytest.fixture
def shop_api() -> APIClient:
    return client_of(make_client(), Scope.WEBHOOKS)


def register(api: APIClient, url: str = URL, **changes: Any) -> Any:
    return api.post(WEBHOOKS, {"url": url, "events": ["order.completed"], **changes}, format="json")


def test_registering_shows_the_secret_once(shop_api: APIClient) -> None:
    answer = register(shop_api, events=["order.cancelled", "order.completed"])
    assert answer.status_code == 201
    made = answer.json()
    assert made["secret"].startswith("whsec_")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Location"] == f"http://testserver{WEBHOOKS}{made['id']}/"
    shown = shop_api.get(answer.headers["Location"])
    assert shown.json() == {name: value for name, value in made.items() if name != "secret"}
    assert shown.json()["events"] == ["order.completed", "order.cancelled"]
    assert shop_api.get(WEBHOOKS).json() == {"results": [shown.json()]}


def test_deleted_webhook_is_gone_and_what_waits_is_withdrawn(shop_api: APIClient) -> None:
    address = register(shop_api).headers["Location"]
    publish(place_for(make_client()))
    assert read_states() == [DeliveryState.WAITING]
    assert shop_api.delete(address).status_code == 204
    assert read_states() == [DeliveryState.WITHDRAWN]
    read_problem(shop_api.get(address), 404)
    read_problem(shop_api.delete(address), 404)
    read_problem(shop_api.post(f"{address}rotate-secret/"), 404)
    assert shop_api.get(WEBHOOKS).json() == {"results": []}
    assert WebhookEndpoint.objects.get().disabled_by == DisabledBy.CLIENT
    assert register(shop_api).status_code == 201  # the address is free again


def test_rotating_gives_a_new_secret_and_keeps_the_old_one_for_a_while(shop_api: APIClient) -> None:
    made = register(shop_api).json()
    answer = shop_api.post(f"{WEBHOOKS}{made['id']}/rotate-secret/")
    assert answer.status_code == 200
    assert answer.json()["secret"] != made["secret"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert secrets_of(made) == [answer.json()["secret"], made["secret"]]


def secrets_of(made: dict[str, Any], *, after: timedelta = timedelta()) -> list[str]:
    """What signs for the webhook, now or later."""
    return list_secrets(WebhookEndpoint.objects.get(pk=made["id"]), timezone.now() + after)


def test_rotating_again_keeps_the_secret_that_the_receiver_has(shop_api: APIClient) -> None:
    """As after an answer that got lost. Each secret signs for its own 24 hours."""
    made = register(shop_api).json()
    address = f"{WEBHOOKS}{made['id']}/rotate-secret/"
    given = [made["secret"], *(shop_api.post(address).json()["secret"] for _ in range(MAX_OLD_SECRETS))]
    assert secrets_of(made) == given[::-1]
    assert len(set(given)) == MAX_OLD_SECRETS + 1
    problem = read_problem(shop_api.post(address), 409)
    assert "register it anew" in problem["detail"]
    assert secrets_of(made) == given[::-1]
    assert secrets_of(made, after=timedelta(hours=23, minutes=59)) == given[::-1]
    assert secrets_of(made, after=timedelta(hours=24)) == given[-1:]


def test_webhook_that_others_have_ended_says_why(shop_api: APIClient) -> None:
    made = register(shop_api).json()
    disable_endpoint(endpoint_id=made["id"], by=DisabledBy.RECEIVER, because="The receiver answered 410.")
    [shown] = shop_api.get(WEBHOOKS).json()["results"]
    assert shown["disabled_because"] == "The receiver answered 410."
    assert shown["disabled_at"]
    assert shop_api.delete(f"{WEBHOOKS}{made['id']}/").status_code == 204
    assert shop_api.get(WEBHOOKS).json() == {"results": []}


def test_address_that_staff_have_disabled_is_theirs_to_enable(shop_api: APIClient) -> None:
    """Neither anew nor by deleting it first; another client, and another address, are another matter."""
    made = register(shop_api).json()
    address = f"{WEBHOOKS}{made['id']}/"
    disable_endpoint(endpoint_id=made["id"], by=DisabledBy.STAFF, because="It floods us.")
    for _ in range(2):
        for same in (URL, URL.replace("hooks.", "HOOKS.").replace(".com", ".com:443")):
            assert "ask its staff" in read_problem(register(shop_api, same), 409)["detail"]
        assert "The shop has disabled" in read_problem(shop_api.delete(address), 409)["detail"]
    assert shop_api.get(address).json()["disabled_because"] == "It floods us."
    assert register(client_of(make_client("other"))).status_code == 201
    assert register(shop_api, f"{URL}/other").status_code == 201
    enable_endpoint(endpoint_id=made["id"])
    assert shop_api.get(address).json()["disabled_at"] is None
    assert "registered already" in read_problem(register(shop_api), 409)["detail"]
    assert shop_api.delete(address).status_code == 204
    assert register(shop_api).status_code == 201


def test_address_whose_receiver_failed_is_registered_again(shop_api: APIClient) -> None:
    made = register(shop_api).json()
    disable_endpoint(endpoint_id=made["id"], by=DisabledBy.RECEIVER, because="Every attempt has failed.")
    assert shop_api.get(f"{WEBHOOKS}{made['id']}/").json()["disabled_because"] == "Every attempt has failed."
    assert register(shop_api).json()["id"] != made["id"]
    assert [each["disabled_at"] is None for each in shop_api.get(WEBHOOKS).json()["results"]] == [True, False]


def test_another_clients_webhook_does_not_exist(shop_api: APIClient) -> None:
    address = register(client_of(make_client("other"))).headers["Location"]
    for answer in (
        shop_api.get(address),
        shop_api.delete(address),
        shop_api.post(f"{address}rotate-secret/"),
    ):
        read_problem(answer, 404)
    assert shop_api.get(WEBHOOKS).json() == {"results": []}
    assert WebhookEndpoint.objects.get().disabled_at is None
    assert register(shop_api).status_code == 201  # the same address is another client's affair


@pytest.mark.parametrize("scopes", [(Scope.READ, Scope.PLACE, Scope.CANCEL), (Scope.READ,)])
def test_without_the_scope_nothing_is_allowed(shop_api: APIClient, scopes: tuple[Scope, ...]) -> None:
    address = register(shop_api).headers["Location"]
    other = client_of(make_client(), *scopes)
    for answer in (
        other.get(WEBHOOKS),
        register(other),
        other.get(address),
        other.delete(address),
        other.post(f"{address}rotate-secret/"),
    ):
        read_problem(answer, 403)
    read_problem(APIClient().get(WEBHOOKS), 401)
    assert WebhookEndpoint.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"url": "http://hooks.example.com/"}, {"#/url"}),
        ({"url": "https://127.0.0.1/"}, {"#/url"}),
        ({"url": "https://[::ffff:127.0.0.1]/"}, {"#/url"}),
        ({"url": "https://2130706433/"}, {"#/url"}),
        ({"url": "https://a:b@hooks.example.com/"}, {"#/url"}),
        ({"url": "https://hooks.example.com/\x00"}, {"#/url"}),
        ({"url": "https://hooks.example.com/" + "a" * 500}, {"#/url"}),
        ({"url": ""}, {"#/url"}),
        ({"url": 7}, {"#/url"}),
        ({"url": None}, {"#/url"}),
        ({"events": []}, {"#/events"}),
        ({"events": ["order.lost"]}, {"#/events/0"}),
        ({"events": ["order.completed", 5]}, {"#/events/1"}),
        ({"events": ["order.completed"] * 4}, {"#/events"}),
        ({"events": "order.completed"}, {"#/events"}),
        ({"events": {"0": "order.completed"}}, {"#/events"}),
        ({"evnts": []}, {"#/evnts"}),
        ({"secret": "mine"}, {"#/secret"}),
    ],
)
def test_what_is_wrong_is_pointed_at(
    shop_api: APIClient, changes: dict[str, Any], pointers: set[str]
) -> None:
    assert read_pointers(register(shop_api, **changes)) == pointers
    assert not WebhookEndpoint.objects.exists()


@pytest.mark.parametrize("url", [URL, "https://8.8.8.8/orders"])
def test_registering_looks_nothing_up(shop_api: APIClient, monkeypatch: Any, url: str) -> None:
    """A name server that hangs would hold up a web thread; and its answer would tell of our own names."""
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.8"]

    monkeypatch.setattr(targets, "look_up", look_up)
    assert register(shop_api, url).status_code == 201
    assert asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.8", "[::1]", "169.254.169.254", "localhost", "db.internal"]
)
def test_every_forbidden_address_is_refused_in_the_same_words(shop_api: APIClient, host: str) -> None:
    [error] = read_problem(register(shop_api, f"https://{host}:5432/"), 400)["errors"]
    assert error["detail"] == f"{host.strip('[]')} does not lead to the public internet."


@pytest.mark.django_db(transaction=True)
def test_client_does_not_learn_what_a_name_of_the_shops_leads_to(
    shop_api: APIClient, monkeypatch: Any
) -> None:
    """Its deliveries fail as any others do; what the name is, staff alone can read."""
    made = register(shop_api, "https://db.shop.example/").json()
    publish(place_for(make_client()))
    delivery = take()
    monkeypatch.setattr(targets, "look_up", lambda host, port: ["10.0.0.8"])
    outcome = asyncio.run(send(delivery))
    assert "it is 10.0.0.8" in outcome.error
    delivery.created_at -= timedelta(days=8)
    WebhookEndpoint.objects.update(failing_since=timezone.now() - timedelta(days=8))
    record_outcome(delivery=delivery, outcome=outcome, at=timezone.now(), ms=1, worker="test")
    shown = shop_api.get(f"{WEBHOOKS}{made['id']}/")
    assert shown.json()["disabled_because"].startswith("Every attempt to reach the receiver has failed")
    assert "10.0.0.8" not in shown.content.decode()


async def send(delivery: WebhookDelivery) -> Outcome:
    sender = Sender()
    try:
        return await sender.send(delivery, at=timezone.now())
    finally:
        await sender.aclose()


def test_one_address_written_in_two_ways_is_registered_once(shop_api: APIClient) -> None:
    assert register(shop_api, "https://8.8.8.8").json()["url"] == "https://8.8.8.8/"
    for same in ("https://8.8.8.8/", "https://8.8.8.8:443", "HTTPS://8.8.8.8/"):
        assert "registered already" in read_problem(register(shop_api, same), 409)["detail"]


def test_address_is_registered_once_and_ten_are_the_limit(shop_api: APIClient) -> None:
    assert register(shop_api).status_code == 201
    assert "registered already" in read_problem(register(shop_api), 409)["detail"]
    for number in range(MAX_LIVE - 1):
        assert register(shop_api, f"{URL}/{number}").status_code == 201
    assert str(MAX_LIVE) in read_problem(register(shop_api, f"{URL}/more"), 409)["detail"]
    assert register(client_of(make_client("other"))).status_code == 201
    first = shop_api.get(WEBHOOKS).json()["results"][0]["id"]
    assert shop_api.delete(f"{WEBHOOKS}{first}/").status_code == 204
    assert register(shop_api, f"{URL}/more").status_code == 201


@pytest.mark.parametrize("method", ["put", "patch"])
def test_other_methods_are_refused(shop_api: APIClient, method: str) -> None:
    address = register(shop_api).headers["Location"]
    read_problem(getattr(shop_api, method)(address, {}, format="json"), 405)


def test_events_of_other_orders_are_not_told(shop_api: APIClient) -> None:
    register(shop_api, events=WebhookEvent.values)
    publish(place_for(make_client("other")))
    publish(place_for(None))
    assert not WebhookDelivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_limit_holds_when_many_register_at_once(shop_api: APIClient) -> None:
    together = threading.Barrier(15)
    statuses: list[int] = []

    def ask(number: int) -> None:
        try:
            together.wait(10)
            statuses.append(register(shop_api, f"{URL}/{number}").status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [201] * MAX_LIVE + [409] * (15 - MAX_LIVE)
