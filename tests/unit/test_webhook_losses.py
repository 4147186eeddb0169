"""Attempts whose outcome nobody recorded: they count, come ever more rarely, and end."""

import logging
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from config.temporal import run_in_db
from orders.models import WebhookDelivery
from orders.webhooks.courier import LAST_TRIES
from tests.receiver import Receiver
from tests.webhooks import begin, claim, delivering, lapse, take, until_states

pytestmark = pytest.mark.usefixtures("hasty_webhooks")

TABLE = "ALTER TABLE orders_webhookattempt"


def test_claim_counts_the_attempt_and_puts_the_next_one_off(settings: Any) -> None:
    settings.WEBHOOK_RETRY_INITIAL, settings.WEBHOOK_RETRY_MAXIMUM = 5.0, 3600.0
    begin("http://127.0.0.1:9/")
    waits = []
    for number in range(8):
        lapse()
        delivery, now = take(), timezone.now()
        assert WebhookDelivery.objects.get().attempts == number + 1
        waits.append((delivery.next_attempt_at - now).total_seconds())
    assert 4 <= waits[0] <= 6.1
    assert waits[-1] > 400


def test_delivery_whose_outcomes_are_lost_fails_after_its_time_and_not_before(settings: Any) -> None:
    begin("http://127.0.0.1:9/")
    for _ in range(LAST_TRIES):
        take()
        lapse()
    take()
    lapse()
    settings.WEBHOOK_GIVE_UP_AFTER = 0.0
    assert claim() == []
    found = WebhookDelivery.objects.get()
    assert (found.state, found.leased_until, found.attempts) == ("failed", None, LAST_TRIES + 1)


def test_delivery_that_waited_for_its_first_worker_too_long_is_tried_all_the_same(settings: Any) -> None:
    settings.WEBHOOK_GIVE_UP_AFTER = 0.0
    begin("http://127.0.0.1:9/")
    for _ in range(LAST_TRIES):  # the workers are killed each time
        assert len(claim()) == 1
        lapse()
    assert claim() == []


async def test_outcome_that_cannot_be_recorded_ends_the_delivery(
    receiver: Receiver, settings: Any, caplog: Any
) -> None:
    """The database refuses the attempt's row: no outage, so nobody waits for it to pass."""
    settings.WEBHOOK_GIVE_UP_AFTER, settings.WEBHOOK_LEASE = 1.5, 0.2
    await run_in_db(begin, url=f"{receiver.url}/ok")
    await run_in_db(execute, statement=f"{TABLE} ADD CONSTRAINT poison CHECK (false)")
    try:
        with caplog.at_level(logging.ERROR):
            async with delivering():
                await until_states("failed")
    finally:
        await run_in_db(execute, statement=f"{TABLE} DROP CONSTRAINT poison")
    found = await run_in_db(WebhookDelivery.objects.get)
    assert found.attempts == len(receiver.calls) >= LAST_TRIES
    assert "violates check constraint" in caplog.text
    assert "Traceback" in caplog.text


def execute(*, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
