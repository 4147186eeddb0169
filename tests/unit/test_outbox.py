"""The outbox against PostgreSQL: leases, order, back-off, and what counts as overdue."""

import itertools
from datetime import timedelta

import pytest
from django.db import ProgrammingError, transaction
from django.utils import timezone

from orders import desk, selectors
from orders.dispatch import claim_due, note_deliveries, note_failure
from orders.models import Order, OrderLine, OutboxMessage
from tests.desk import place
from tests.faults import connect, failing

pytestmark = pytest.mark.usefixtures("shop")


def claim() -> list[str]:
    with transaction.atomic():
        return [message.name for message in claim_due()]


def needs_attention() -> bool:
    return bool(Order.objects.with_attention().get().attention)  # type: ignore[attr-defined]


def make_due() -> None:
    OutboxMessage.objects.update(next_attempt_at=timezone.now())


def test_order_and_message_are_written_together_or_not_at_all() -> None:
    with failing("orders_outboxmessage", "INSERT", times=1):
        with pytest.raises(ProgrammingError, match="injected failure"):
            place()
        assert (Order.objects.count(), OrderLine.objects.count()) == (0, 0)
        place()
    assert (Order.objects.count(), OutboxMessage.objects.count()) == (1, 1)


def test_message_is_born_leased_to_those_who_listen(settings: object) -> None:
    settings.OUTBOX_FIRST_LEASE = 5.0  # type: ignore[attr-defined]
    place()
    assert claim() == []
    make_due()
    assert claim() == ["PlaceOrderSaga"]


def test_claimed_message_is_leased() -> None:
    place()
    assert claim() == ["PlaceOrderSaga"]
    assert claim() == []


def test_row_that_another_dispatcher_claims_is_skipped() -> None:
    place()
    place()
    first = OutboxMessage.objects.order_by("pk")[0]
    with connect() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM orders_outboxmessage WHERE id = %s FOR UPDATE", [first.pk])
        with transaction.atomic():
            assert [message.pk for message in claim_due()] == [first.pk + 1]
        other.execute("ROLLBACK")
    assert claim() == ["PlaceOrderSaga"]


def test_signal_waits_for_the_start_before_it() -> None:
    order = place()
    desk.cancel_order(order_id=order.pk, actor="ada", reason="at once")
    assert claim() == ["PlaceOrderSaga"]
    make_due()
    assert claim() == ["PlaceOrderSaga"]
    note_deliveries(messages=[OutboxMessage.objects.get(name="PlaceOrderSaga")])
    assert claim() == ["cancel"]


def test_failed_delivery_backs_off_further_each_time() -> None:
    place()
    waits = []
    for _ in range(12):
        message = OutboxMessage.objects.get()
        before = timezone.now()
        note_failure(message=message, error="RPCError: nobody there")
        message.refresh_from_db()
        waits.append(round((message.next_attempt_at - before).total_seconds(), 1))
    assert all(later >= earlier - 0.5 for earlier, later in itertools.pairwise(waits))
    assert (waits[0], waits[-1]) == (pytest.approx(0.1, abs=0.1), pytest.approx(10, abs=0.5))
    assert OutboxMessage.objects.get().last_error == "RPCError: nobody there"


def test_undelivered_message_needs_attention_after_a_minute_and_no_longer() -> None:
    order = place()
    assert not needs_attention()
    OutboxMessage.objects.update(created_at=timezone.now() - timedelta(seconds=61))
    assert needs_attention()
    assert "Temporal has not been told" in selectors.list_attention_reasons(order)[0]
    note_deliveries(messages=[OutboxMessage.objects.get()])
    assert not needs_attention()
