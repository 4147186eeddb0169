"""The back office's pages about webhooks: the log, redelivery, and endpoints added, disabled and enabled."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser

from orders.models import ApiClient, DisabledBy, Order, OrderAction, WebhookDelivery, WebhookEndpoint
from orders.webhooks.registry import MAX_LIVE, disable_endpoint
from tests.desk import place
from tests.e2e.doors import count_queries, log_in, page_of, read_messages
from tests.e2e.hooks import ENDPOINTS, LOG, add_delivery, add_endpoint

REDELIVER = f"{LOG}redeliver/"


pytestmark = pytest.mark.usefixtures("counter")


def read(browser: Browser, address: str, **query: Any) -> str:
    response = browser.get(address, query)
    assert response.status_code == 200, response
    return " ".join(response.content.decode().split())


def find_rows(browser: Browser, **query: Any) -> list[int]:
    response = browser.get(LOG, query)
    assert response.status_code == 200, response
    return sorted(row.pk for row in response.context["cl"].result_list)


def see_log(*more: str) -> Browser:
    return log_in(
        "clerk", "view_webhookdelivery", "view_webhookendpoint", "view_webhookattempt", "view_order", *more
    )


# --- the log --------------------------------------------------------------------------------------------


def test_log_finds_deliveries_by_state_event_client_order_and_id(boss: Browser) -> None:
    order, other = place(), place()
    failed = add_delivery(order, add_endpoint())
    done = add_delivery(other, add_endpoint("partner", "https://partner.example/"), "delivered")
    every = sorted([failed.pk, done.pk])
    assert find_rows(boss) == every
    assert find_rows(boss, state__exact="failed") == [failed.pk]
    assert find_rows(boss, event__exact="order.completed") == every
    assert find_rows(boss, event__exact="order.cancelled") == []
    assert find_rows(boss, client=done.endpoint.client_id) == [done.pk]
    assert find_rows(boss, q=order.number) == [failed.pk]
    assert find_rows(boss, q=str(done.event_id)) == [done.pk]
    assert find_rows(boss, q="partner.ex") == [done.pk]
    assert find_rows(boss, endpoint__id__exact=str(done.endpoint_id)) == [done.pk]
    page = read(boss, LOG)
    assert "It answered 500: out of order" in page
    assert "204" in page


@pytest.mark.parametrize("query", [{"client": "x"}, {"endpoint__id__exact": "x"}, {"state__bad": "x"}])
def test_parameters_without_sense_lead_to_the_whole_log(boss: Browser, query: dict[str, str]) -> None:
    add_endpoint()
    response = boss.get(LOG, query)
    assert response.status_code == 302
    assert response.headers["Location"].startswith(LOG)


def test_log_costs_as_many_queries_for_a_thousand_rows_as_for_one(boss: Browser) -> None:
    endpoint = add_endpoint()
    add_delivery(place(), endpoint)
    one = count_queries(boss, LOG)
    order = place()
    for _ in range(1000):
        add_delivery(order, endpoint)
    assert count_queries(boss, LOG) == one


def test_page_shows_body_and_every_attempt_and_no_secret(boss: Browser) -> None:
    order = place()
    delivery = add_delivery(order, add_endpoint(), attempts=3)
    page = read(boss, f"{LOG}{delivery.pk}/change/")
    assert page.count("It answered 500: out of order") == 3
    assert "&quot;number&quot;: " + str(order.number) in page
    assert str(delivery.event_id) in page
    for address in (
        f"{LOG}{delivery.pk}/change/",
        LOG,
        ENDPOINTS,
        f"{ENDPOINTS}{delivery.endpoint_id}/change/",
    ):
        assert "whsec_" not in read(boss, address)
        assert delivery.endpoint.secret[6:] not in read(boss, address)


def test_hostile_answers_stay_text(boss: Browser) -> None:
    evil = "<script>alert(1)</script>"
    endpoint = add_endpoint(url=f"https://hooks.example.com/?{evil}")
    delivery = add_delivery(place(), endpoint)
    delivery.log.model.objects.create(
        delivery=delivery, at=delivery.created_at, ms=1, status=500, error=evil, worker=evil
    )
    disable_endpoint(endpoint_id=endpoint.pk, by=DisabledBy.STAFF, because=evil)
    for address in (
        LOG, f"{LOG}{delivery.pk}/change/", ENDPOINTS, f"{ENDPOINTS}{endpoint.pk}/change/",
        f"{ENDPOINTS}{endpoint.pk}/enable/", f"{REDELIVER}?delivery={delivery.pk}",
    ):  # fmt: skip
        assert evil not in read(boss, address), address


def test_order_page_leads_to_its_deliveries(boss: Browser) -> None:
    order = place()
    assert "webhookdelivery" not in read(boss, page_of(order)).split('id="content"')[1]
    Order.objects.filter(pk=order.pk).update(client=add_endpoint().client)
    assert f"{LOG}?q={order.number}" in read(boss, page_of(order))
    assert "webhookdelivery" not in read(log_in("clerk", "view_order", "view_orderaction"), page_of(order))


# --- redelivery -----------------------------------------------------------------------------------------


def test_redelivery_asks_first_and_says_who_did_it() -> None:
    order = place()
    delivery = add_delivery(order, add_endpoint())
    clerk = see_log("redeliver_webhook")
    assert f"{REDELIVER}?delivery={delivery.pk}" in read(clerk, f"{LOG}{delivery.pk}/change/")
    assert "with the same webhook-id" in read(clerk, REDELIVER, delivery=delivery.pk)
    assert WebhookDelivery.objects.count() == 1
    answer = clerk.post(REDELIVER, {"delivery": [delivery.pk], "reason": "they mended it"}, follow=True)
    assert ["is on its way again" in said for said in read_messages(answer)] == [True]
    again = WebhookDelivery.objects.exclude(pk=delivery.pk).get()
    assert (again.event_id, again.body, again.redelivery) == (delivery.event_id, delivery.body, 1)
    assert (again.state, again.attempts) == ("waiting", 0)
    delivery.refresh_from_db()
    assert delivery.state == "failed"
    action = OrderAction.objects.get(kind="redeliver_webhook")
    assert (action.order_id, action.actor, action.reason) == (order.pk, "clerk", "they mended it")
    assert "they mended it" in LogEntry.objects.get().get_change_message()
    # A double click sends nothing more.
    answer = clerk.post(REDELIVER, {"delivery": [delivery.pk]}, follow=True)
    assert "on its way again already" in read_messages(answer)[0]
    assert WebhookDelivery.objects.count() == 2
    assert "delivered again" in read(clerk, f"{LOG}{delivery.pk}/change/")


def test_failed_ones_are_redelivered_together_each_by_its_state(boss: Browser) -> None:
    order, gone = place(), add_endpoint(url="https://gone.example/")
    failed, waiting = add_delivery(order, add_endpoint()), add_delivery(order, add_endpoint("x"), "waiting")
    lost = add_delivery(order, gone)
    disable_endpoint(endpoint_id=gone.pk, by=DisabledBy.STAFF, because="it is broken")
    chosen = [failed.pk, waiting.pk, lost.pk]
    page = boss.post(LOG, {"action": "redeliver_selected", "_selected_action": chosen, "index": "0"})
    text = page.content.decode()
    assert "Redeliver 3 webhooks" in text
    assert "Redeliver (2)" in text
    assert "Its endpoint is disabled." in text
    answer = boss.post(REDELIVER, {"delivery": chosen}, follow=True)
    said = sorted("on its way again" in line for line in read_messages(answer))
    assert said == [False, True, True]
    assert WebhookDelivery.objects.filter(redelivery=1).get().event_id == failed.event_id
    before = waiting.next_attempt_at
    waiting.refresh_from_db()
    assert waiting.next_attempt_at < before


def test_who_may_not_redeliver_is_neither_offered_nor_allowed_it() -> None:
    delivery = add_delivery(place(), add_endpoint())
    clerk = see_log()
    assert "redeliver" not in read(clerk, f"{LOG}{delivery.pk}/change/")
    assert "redeliver_selected" not in read(clerk, LOG)
    assert clerk.get(REDELIVER, {"delivery": delivery.pk}).status_code == 403
    assert clerk.post(REDELIVER, {"delivery": delivery.pk}).status_code == 403
    chosen = {"action": "redeliver_selected", "_selected_action": [delivery.pk], "index": "0"}
    clerk.post(LOG, chosen)
    assert WebhookDelivery.objects.count() == 1


@pytest.mark.parametrize("ids", [[], ["x"], ["-1"], ["9" * 30], ["0"], ["\u00b2"]])
def test_redelivery_of_nothing_leads_back(boss: Browser, ids: list[str]) -> None:
    for answer in (boss.get(REDELIVER, {"delivery": ids}), boss.post(REDELIVER, {"delivery": ids})):
        assert answer.status_code == 302
        assert answer.headers["Location"] == LOG


# --- endpoints ------------------------------------------------------------------------------------------


def endpoint_form(**changes: Any) -> dict[str, Any]:
    client, _ = ApiClient.objects.get_or_create(name="shop")
    form = {"client": client.pk, "url": "https://hooks.example.com/", "events": ["order.completed"]}
    return form | changes


def test_adding_shows_the_secret_once(boss: Browser) -> None:
    answer = boss.post(f"{ENDPOINTS}add/", endpoint_form())
    endpoint = WebhookEndpoint.objects.get()
    assert endpoint.secret in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]
    assert endpoint.secret not in read(boss, f"{ENDPOINTS}{endpoint.pk}/change/")
    assert endpoint.secret not in read(boss, f"{ENDPOINTS}{endpoint.pk}/history/")
    assert LogEntry.objects.get().object_id == str(endpoint.pk)
    # Reloading the page registers nothing more.
    assert "registered already" in boss.post(f"{ENDPOINTS}add/", endpoint_form()).content.decode()
    assert WebhookEndpoint.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://hooks.example.com/"}, "begins with https"),
        ({"url": "https://10.0.0.1/"}, "public internet"),
        ({"url": ""}, "This field is required"),
        ({"events": []}, "Choose at least one"),
        ({"events": ["order.lost"]}, "not one of the available choices"),
        ({"client": ""}, "This field is required"),
        ({"client": "99999"}, "not one of the available choices"),
    ],
)
def test_bad_input_is_shown_beside_its_field_and_kept(boss: Browser, changes: Any, said: str) -> None:
    page = boss.post(f"{ENDPOINTS}add/", endpoint_form(**changes)).content.decode()
    assert said in page
    assert "Nothing has been registered yet" in page
    assert not WebhookEndpoint.objects.exists()


def test_disabling_asks_for_the_reason_and_withdraws_what_waits(boss: Browser) -> None:
    endpoint = add_endpoint()
    waiting = add_delivery(place(), endpoint, "waiting")
    address = f"{ENDPOINTS}{endpoint.pk}/disable/"
    assert "1 delivery" in read(boss, address)
    assert "This field is required" in boss.post(address, {"because": ""}).content.decode()
    assert WebhookEndpoint.objects.get().disabled_at is None
    answer = boss.post(address, {"because": "it answers nothing"}, follow=True)
    assert "Disabled: it answers nothing" in read_messages(answer)[0]
    endpoint.refresh_from_db()
    waiting.refresh_from_db()
    assert (endpoint.disabled_by, endpoint.disabled_because) == ("staff", "it answers nothing")
    assert waiting.state == "withdrawn"
    assert "nothing was done" in read_messages(boss.post(address, {"because": "x"}, follow=True))[0]


def test_enabling_takes_what_staff_or_the_receiver_has_ended(boss: Browser) -> None:
    endpoint = add_endpoint()
    address = f"{ENDPOINTS}{endpoint.pk}/enable/"
    disable_endpoint(endpoint_id=endpoint.pk, by=DisabledBy.RECEIVER, because="The receiver answered 410.")
    assert "The receiver answered 410." in read(boss, address)
    assert "Enabled." in read_messages(boss.post(address, follow=True))[0]
    assert WebhookEndpoint.objects.get().disabled_at is None
    disable_endpoint(endpoint_id=endpoint.pk, by=DisabledBy.CLIENT, because="")
    assert "The client has deleted" in read_messages(boss.post(address, follow=True))[0]
    assert WebhookEndpoint.objects.get().disabled_by == "client"


def test_what_staff_have_disabled_is_enabled_and_not_added_again(boss: Browser) -> None:
    boss.post(f"{ENDPOINTS}add/", endpoint_form())
    endpoint = WebhookEndpoint.objects.get()
    boss.post(f"{ENDPOINTS}{endpoint.pk}/disable/", {"because": "it floods us"})
    page = boss.post(f"{ENDPOINTS}add/", endpoint_form()).content.decode()
    assert "ask its staff to enable it again" in page
    viewer = log_in("viewer", "view_webhookendpoint")
    assert viewer.post(f"{ENDPOINTS}{endpoint.pk}/enable/").status_code == 403
    assert WebhookEndpoint.objects.get().disabled_by == "staff"
    boss.post(f"{ENDPOINTS}{endpoint.pk}/enable/")
    assert WebhookEndpoint.objects.get().disabled_at is None


def test_enabling_keeps_to_the_limit(boss: Browser) -> None:
    first = add_endpoint(url="https://hooks.example.com/first")
    disable_endpoint(endpoint_id=first.pk, by=DisabledBy.STAFF, because="")
    for number in range(MAX_LIVE):
        add_endpoint(url=f"https://hooks.example.com/{number}")
    answer = boss.post(f"{ENDPOINTS}{first.pk}/enable/", follow=True)
    assert str(MAX_LIVE) in read_messages(answer)[0]
    assert WebhookEndpoint.objects.filter(disabled_at=None).count() == MAX_LIVE


def test_switching_takes_the_permission_to_change() -> None:
    endpoint = add_endpoint()
    for clerk, status in (
        (see_log(), 403),
        (log_in("changer", "view_webhookendpoint", "change_webhookendpoint"), 200),
    ):
        for page in ("disable", "enable"):
            assert clerk.get(f"{ENDPOINTS}{endpoint.pk}/{page}/").status_code == status
    assert clerk.get(f"{ENDPOINTS}{'0' * 8}-0000-4000-8000-{'0' * 12}/enable/").status_code == 404
