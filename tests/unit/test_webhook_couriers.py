"""Couriers against PostgreSQL and real receivers: leases, back-off, fairness, stopping, redelivery."""

import asyncio
import itertools
import logging
import threading
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, transaction
from django.db.models.functions import Now, RowNumber
from django.utils import timezone

from config.temporal import run_in_db
from orders.models import DisabledBy, WebhookDelivery
from orders.refusals import StateConflict
from orders.webhooks import courier, targets
from orders.webhooks.courier import Load, claim_due, give_back
from orders.webhooks.registry import disable_endpoint, redeliver
from orders.webhooks.selectors import read_clock
from tests.conftest import until
from tests.receiver import Receiver
from tests.webhooks import (
    begin,
    claim,
    delivering,
    find_endpoint,
    lapse,
    make_client,
    make_due,
    make_endpoint,
    place_for,
    publish,
    read_log,
    read_states,
    record,
    take,
    until_states,
)

pytestmark = pytest.mark.usefixtures("hasty_webhooks")


# --- leases and races -----------------------------------------------------------------------------------


def test_claimed_delivery_is_leased_and_due_again_after_the_lease(settings: Any) -> None:
    begin("http://127.0.0.1:9/")
    [pk] = claim()
    assert claim() == []
    lapse()
    assert claim() == [pk]


def test_leases_go_by_the_clock_of_the_database(monkeypatch: Any) -> None:
    """A worker whose clock is an hour fast would otherwise take what others have in hand."""
    begin("http://127.0.0.1:9/")
    began = read_clock()
    delivery = take()
    fast = timezone.now() + timedelta(hours=1)
    monkeypatch.setattr(timezone, "now", lambda: fast)
    assert claim() == []
    make_due_in_the_database()
    delivery = take()
    record(delivery)
    found = WebhookDelivery.objects.get()
    assert delivery.leased_until is not None
    assert delivery.leased_until < began + timedelta(minutes=1)
    assert found.next_attempt_at < began + timedelta(minutes=1)


def make_due_in_the_database() -> None:
    WebhookDelivery.objects.update(next_attempt_at=Now(), leased_until=None)


def race(monkeypatch: Any, receiver: Receiver) -> Counter[str]:
    """Two couriers that look at the same moment; gives how often each event was delivered."""
    begin(f"{receiver.url}/ok", count=4)
    both = threading.Barrier(2)

    def meet(*arguments: Any, **options: Any) -> Any:
        both.wait(10)
        return RowNumber(*arguments, **options)

    monkeypatch.setattr(courier, "RowNumber", meet)

    async def run() -> None:
        senders = [courier.Courier(f"courier-{number}") for number in range(2)]
        await asyncio.gather(*(each.take() for each in senders))
        await asyncio.gather(*(each.close() for each in senders))

    asyncio.run(run())
    return Counter(call.event_id for call in receiver.calls)


def test_two_couriers_deliver_once(monkeypatch: Any, receiver: Receiver) -> None:
    assert set(race(monkeypatch, receiver).values()) == {1}


def test_without_the_lock_two_couriers_deliver_twice(monkeypatch: Any, receiver: Receiver) -> None:
    """The control: the same race, with rows that nobody locks or finds leased."""
    queries = type(WebhookDelivery.objects.all())
    monkeypatch.setattr(queries, "select_for_update", lambda self, **options: self)
    lease = queries.update

    def update(self: Any, **changes: Any) -> int:
        # Both have read by the time the first one's lease is written.
        if {"leased_until", "attempts", "state"} <= set(changes):
            return 0
        return int(lease(self, **changes))

    monkeypatch.setattr(queries, "update", update)
    assert set(race(monkeypatch, receiver).values()) == {2}


def test_failure_of_who_has_lost_the_lease_changes_nothing_for_who_has_it() -> None:
    begin("http://127.0.0.1:9/")
    slow = take()
    make_due()
    fast = take()
    record(slow)
    found = WebhookDelivery.objects.get()
    assert (found.state, found.leased_until, found.attempts) == ("waiting", fast.leased_until, 2)
    record(fast, status=200, error="")
    record(slow)
    assert read_states() == ["delivered"]
    assert len(read_log()) == 3


def test_success_counts_whoever_had_the_lease() -> None:
    begin("http://127.0.0.1:9/")
    slow = take()
    make_due()
    take()
    record(slow, status=200, error="")
    assert read_states() == ["delivered"]


def test_delivery_that_was_withdrawn_while_it_was_sent_says_so_if_it_arrived() -> None:
    begin("http://127.0.0.1:9/")
    delivery = take()
    disable_endpoint(endpoint_id=delivery.endpoint_id, by=DisabledBy.CLIENT, because="")
    record(delivery)
    assert read_states() == ["withdrawn"]
    record(delivery, status=200, error="")
    assert read_states() == ["delivered"]


async def test_what_was_published_while_its_endpoint_was_disabled_is_withdrawn(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/ok")
    pk = (await run_in_db(WebhookDelivery.objects.get)).endpoint_id
    await run_in_db(disable_endpoint, endpoint_id=pk, by=DisabledBy.STAFF, because="")
    await run_in_db(WebhookDelivery.objects.update, state="waiting")
    async with delivering():
        await until_states("withdrawn")
    assert receiver.connections == 0


def test_retries_back_off_further_each_time_and_end(settings: Any) -> None:
    settings.WEBHOOK_RETRY_INITIAL, settings.WEBHOOK_RETRY_MAXIMUM = 5.0, 3600.0
    begin("http://127.0.0.1:9/")
    waits = []
    for _ in range(14):
        make_due()
        delivery, now = take(), timezone.now()
        record(delivery)
        delivery.refresh_from_db()
        waits.append((delivery.next_attempt_at - now).total_seconds())
    assert 4 <= waits[0] <= 6.1
    assert 2880 <= waits[-1] <= 4321
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:10]))
    assert read_states() == ["waiting"]


def test_delivery_fails_for_good_after_its_time_and_not_before(settings: Any) -> None:
    settings.WEBHOOK_RETRY_INITIAL = settings.WEBHOOK_RETRY_MAXIMUM = 3600.0
    begin("http://127.0.0.1:9/")
    delivery = take()
    settings.WEBHOOK_GIVE_UP_AFTER = 600.0
    record(delivery)
    found = WebhookDelivery.objects.get()
    # A last try at the very end, although the back-off is longer.
    assert found.next_attempt_at == found.created_at + timedelta(seconds=600)
    assert read_states() == ["waiting"]
    make_due()
    delivery = take()
    delivery.created_at -= timedelta(seconds=601)
    record(delivery)
    assert read_states() == ["failed"]
    make_due()
    assert claim() == []


# --- fairness -------------------------------------------------------------------------------------------


async def test_receiver_that_hangs_holds_up_nobody_else(receiver: Receiver, settings: Any) -> None:
    """A client whose ten endpoints all hang, with more waiting than fits, beside one that is well."""
    settings.WEBHOOK_TIMEOUT = 30.0

    def fill() -> None:
        for number in range(10):
            make_endpoint(f"{receiver.url}/hang/{number}")
        order = place_for(make_client())
        for number in range(20):
            publish(order, occurrence=str(number))
        begin(f"{receiver.url}/ok", client="other", count=10)

    await run_in_db(fill)
    async with delivering():
        # Before any of the others has timed out.
        await until_states(*["delivered"] * 10, endpoint__client__name="other", within=15)
        stuck = Counter(call.path for call in receiver.calls if call.path.startswith("/hang"))
    assert stuck
    assert stuck.total() <= courier.MOST_PER_CLIENT
    assert max(stuck.values()) <= courier.MOST_PER_ENDPOINT


async def deliver_beside_hanging_names(receiver: Receiver, monkeypatch: Any, *, within: float) -> None:
    """A third client's delivery arrives in so many seconds, beside two whose names nobody answers for."""
    answer = threading.Event()
    hanging = threading.Semaphore(0)

    def look_up(host: str, port: int) -> list[str]:
        if host == "well.example":
            return ["127.0.0.1"]
        hanging.release()
        answer.wait(30)
        return []

    monkeypatch.setattr(targets, "look_up", look_up)

    def fill() -> None:
        for name in ("one", "two"):
            for number in range(4):
                begin_at(f"http://hangs.example:{receiver.port}/{number}", client=name, count=4)

    await run_in_db(fill)
    try:
        async with delivering():
            await until(lambda: asyncio.sleep(0, hanging.acquire(blocking=False)), what="a name hangs")
            url = f"http://well.example:{receiver.port}/ok"
            await run_in_db(begin, url=url, client="three")
            await until_states("delivered", endpoint__client__name="three", within=within)
            answer.set()
    finally:
        answer.set()


async def test_names_nobody_answers_for_hold_up_nobody_else(
    receiver: Receiver, monkeypatch: Any, settings: Any
) -> None:
    settings.WEBHOOK_TIMEOUT = 30.0
    await deliver_beside_hanging_names(receiver, monkeypatch, within=15)


async def test_without_a_share_for_each_client_they_do(
    receiver: Receiver, monkeypatch: Any, settings: Any
) -> None:
    """The control: as many threads as before, for whoever comes first."""
    monkeypatch.setattr(targets, "LOOK_UPS", 16)
    monkeypatch.setattr(targets, "LOOK_UPS_PER_CLIENT", 16)
    settings.WEBHOOK_TIMEOUT = 2.0
    with pytest.raises(AssertionError, match="the states are"):
        await deliver_beside_hanging_names(receiver, monkeypatch, within=5)


def test_process_claims_no_more_than_it_can_hold() -> None:
    for name in range(8):
        for number in range(4):
            begin_at(f"http://127.0.0.1:9/{number}", client=f"client {name}", count=5)
    load = Load()
    for _ in range(3):
        with transaction.atomic():
            for delivery in claim_due(load=load):
                load.add(delivery.endpoint.client_id, delivery.endpoint_id)
    assert load.is_full
    assert load.clients.total() == courier.MOST
    assert max(load.clients.values()) <= courier.MOST_PER_CLIENT
    assert max(load.endpoints.values()) <= courier.MOST_PER_ENDPOINT
    # Everybody got something.
    assert len(load.clients) == 8


def begin_at(url: str, *, client: str, count: int) -> None:
    owner = make_client(client)
    endpoint = make_endpoint(url, client=owner)
    order = place_for(owner)
    WebhookDelivery.objects.bulk_create(
        WebhookDelivery(endpoint=endpoint, order=order, event_id=uuid4(), event="order.completed", body="{}")
        for _ in range(count)
    )


# --- stopping, and the database away --------------------------------------------------------------------


async def test_courier_that_stops_finishes_what_it_has_in_hand(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/hang")
    async with delivering():
        await until(lambda: asyncio.sleep(0, bool(receiver.calls)), what="it is being sent")
    assert await run_in_db(read_log) == [(None, "There was no answer within 1 s.")]


async def test_courier_that_must_stop_gives_back_what_it_has_in_hand(
    receiver: Receiver, settings: Any
) -> None:
    settings.WEBHOOK_TIMEOUT, settings.WORKER_GRACE = 30.0, 0.2
    await run_in_db(begin, url=f"{receiver.url}/hang")
    async with delivering():
        await until(lambda: asyncio.sleep(0, bool(receiver.calls)), what="it is being sent")
    found = await run_in_db(WebhookDelivery.objects.get)
    assert (found.state, found.leased_until, found.attempts) == ("waiting", None, 0)
    assert len(await run_in_db(claim)) == 1


def test_lease_of_somebody_else_is_not_given_back() -> None:
    begin("http://127.0.0.1:9/")
    slow = take()
    make_due()
    fast = take()
    give_back(deliveries=[slow])
    assert WebhookDelivery.objects.get().leased_until == fast.leased_until


async def test_courier_outlives_a_database_that_is_away(
    receiver: Receiver, monkeypatch: Any, caplog: Any
) -> None:
    """Claims and records fail for a while; the delivery is sent once, and recorded when that is possible."""
    monkeypatch.setattr(courier, "RECORD_AGAIN_AFTER", 0.05)
    await run_in_db(begin, url=f"{receiver.url}/ok")
    failures = {"claim_due": 3, "record_outcome": 3}

    def fail_at_first(name: str) -> Any:
        real = getattr(courier, name)

        def work(**options: Any) -> Any:
            if failures[name]:
                failures[name] -= 1
                raise OperationalError("server closed the connection unexpectedly")
            return real(**options)

        return work

    for name in failures:
        monkeypatch.setattr(courier, name, fail_at_first(name))
    with caplog.at_level(logging.WARNING):
        async with delivering():
            await until_states("delivered")
    assert len(receiver.calls) == 1
    assert "webhooks could not be read" in caplog.text
    assert "is not recorded yet" in caplog.text


# --- having it delivered again --------------------------------------------------------------------------


async def test_redelivery_has_the_same_id_and_body(receiver: Receiver) -> None:
    await run_in_db(begin, url=f"{receiver.url}/ok")
    async with delivering():
        await until_states("delivered")
        first = await run_in_db(WebhookDelivery.objects.get)
        await run_in_db(redeliver, delivery_id=first.pk, actor="ada")
        await until_states("delivered", "delivered")
    one, two = receiver.calls
    assert (one.event_id, one.body) == (two.event_id, two.body)


def test_redelivery_of_what_still_waits_is_only_made_due() -> None:
    begin("http://127.0.0.1:9/")
    delivery = take()
    with pytest.raises(StateConflict, match="being sent"):
        redeliver(delivery_id=delivery.pk, actor="ada")
    record(delivery)
    WebhookDelivery.objects.update(next_attempt_at=timezone.now() + timedelta(hours=1))
    assert redeliver(delivery_id=delivery.pk, actor="ada").pk == delivery.pk
    assert claim() == [delivery.pk]
    assert WebhookDelivery.objects.count() == 1


def test_nothing_is_delivered_again_to_a_disabled_endpoint() -> None:
    begin("http://127.0.0.1:9/")
    delivery = WebhookDelivery.objects.get()
    disable_endpoint(endpoint_id=delivery.endpoint_id, by=DisabledBy.STAFF, because="")
    assert find_endpoint(delivery.endpoint_id).disabled_at is not None
    with pytest.raises(StateConflict, match="disabled"):
        redeliver(delivery_id=delivery.pk, actor="ada")
