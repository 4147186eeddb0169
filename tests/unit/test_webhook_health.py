"""Endpoints where nothing arrives any more: noticed, disabled after a week, and had again."""

from datetime import timedelta
from typing import Any

import pytest

from orders.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from orders.webhooks.courier import BROKEN_AFTER
from orders.webhooks.registry import enable_endpoint
from orders.webhooks.selectors import read_clock
from tests.webhooks import begin, make_client, make_due, make_endpoint, publish, read_states, record, take

pytestmark = pytest.mark.usefixtures("hasty_webhooks")

URL = "http://127.0.0.1:9/"
MOMENT = timedelta(minutes=1)


def take_first() -> WebhookDelivery:
    """Claim the oldest delivery that waits."""
    first = WebhookDelivery.objects.filter(state="waiting").order_by("pk")[:1].get()
    later = read_clock() + timedelta(hours=1)
    WebhookDelivery.objects.exclude(pk=first.pk).update(next_attempt_at=later, leased_until=None)
    make_due(pk=first.pk)
    return take()


def fail(*, given_up: bool = False, **outcome: Any) -> None:
    """An attempt that fails: the last one of its delivery, or not."""
    delivery = take_first()
    if given_up:
        delivery.created_at -= timedelta(days=4)
    record(delivery, **outcome)


def fail_since(age: timedelta) -> None:
    """Let the failures have begun that long ago."""
    assert WebhookEndpoint.objects.filter(disabled_at=None).update(failing_since=read_clock() - age) == 1


def read_endpoint() -> WebhookEndpoint:
    return WebhookEndpoint.objects.get()


def test_endpoint_is_disabled_when_every_attempt_has_failed_for_a_week() -> None:
    begin(URL, count=2)
    began = read_clock()
    fail()
    first = read_endpoint().failing_since
    assert first is not None
    assert first >= began
    fail()
    assert read_endpoint().failing_since == first
    fail_since(BROKEN_AFTER)
    fail(given_up=True)
    endpoint = read_endpoint()
    assert endpoint.disabled_by == "receiver"
    assert f"failed since {endpoint.failing_since:%Y-%m-%d %H:%M} UTC" in endpoint.disabled_because
    assert sorted(read_states()) == ["failed", "withdrawn"]


def test_endpoint_is_not_disabled_before_nor_at_a_failure_that_may_pass() -> None:
    begin(URL, count=2)
    fail()
    fail_since(BROKEN_AFTER - MOMENT)
    fail(given_up=True)
    assert read_endpoint().disabled_at is None
    fail_since(BROKEN_AFTER * 4)
    fail()
    assert read_endpoint().disabled_at is None
    assert read_states().count("waiting") == 1


def test_success_in_between_begins_the_week_anew() -> None:
    begin(URL, count=2)
    fail()
    fail_since(BROKEN_AFTER)
    record(take_first(), status=200, error="")
    assert read_endpoint().failing_since is None
    fail(given_up=True)
    assert read_endpoint().disabled_at is None


def test_time_in_which_the_client_is_switched_off_says_nothing_of_its_receiver() -> None:
    begin(URL)
    client = make_client()
    client.is_active = False
    client.save()
    fail(status=None, error="Nothing was sent: the client is switched off.")
    assert read_endpoint().failing_since is None


def test_disabled_endpoint_can_be_had_again() -> None:
    order = begin(URL)
    fail()
    fail_since(BROKEN_AFTER)
    fail(given_up=True)
    [broken] = WebhookEndpoint.objects.all()
    anew = make_endpoint(URL)
    assert (anew.failing_since, anew.secret == broken.secret) == (None, False)
    publish(order, WebhookEvent.COMPLETED)
    assert WebhookDelivery.objects.filter(endpoint=anew).count() == 1


def test_enabling_begins_the_week_anew() -> None:
    begin(URL)
    fail()
    fail_since(BROKEN_AFTER)
    fail(given_up=True)
    assert enable_endpoint(endpoint_id=read_endpoint().pk)
    assert read_endpoint().failing_since is None
