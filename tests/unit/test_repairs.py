"""What a person may do about a stuck undo or a finding, decided against the database."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from orders import desk
from orders.models import AttentionFlag, Order, OrderStatus, StepKey, TrailEntry
from orders.refusals import StateConflict
from orders.repairs import LATE_MARGIN
from tests.desk import place
from tests.faults import connect

pytestmark = pytest.mark.usefixtures("shop")


@pytest.fixture
def order() -> Order:
    """An order whose refund has been tried and has not ended."""
    order = place()
    StepKey.objects.create(order=order, step="process_payment", undone_at=timezone.now())
    Order.objects.filter(pk=order.pk).update(
        status=OrderStatus.CANCELLING, rollback_started_at=timezone.now()
    )
    return order


def begin_attempt(order: Order, *, seconds_ago: float) -> None:
    TrailEntry.objects.create(
        order=order,
        name="refund_payment",
        kind="undo",
        state="running",
        started_at=timezone.now() - timedelta(seconds=seconds_ago),
    )


def retry(order: Order) -> bool:
    return desk.retry_undo(order_id=order.pk, undo="refund_payment", actor="ada").changed


def test_attempt_in_flight_is_waited_for_until_it_must_be_lost(order: Order, settings: object) -> None:
    settings.SAGA_ATTEMPT_TIMEOUT = 15.0  # type: ignore[attr-defined]
    begin_attempt(order, seconds_ago=15 + LATE_MARGIN - 1)
    with pytest.raises(StateConflict, match="in flight"):
        retry(order)
    TrailEntry.objects.update(started_at=timezone.now() - timedelta(seconds=15 + LATE_MARGIN + 1))
    assert retry(order)


def test_attempt_that_holds_the_lock_is_in_flight_and_nobody_waits_for_it(order: Order) -> None:
    with connect() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM orders_stepkey WHERE order_id = %s FOR UPDATE", [order.pk])
        with pytest.raises(StateConflict, match="in flight"):
            retry(order)
        other.execute("ROLLBACK")


def test_undo_that_has_left_only_a_flag_can_be_retried(order: Order) -> None:
    with pytest.raises(StateConflict, match="has not been tried"):
        retry(order)
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "has failed 10 times")
    assert retry(order)


def test_undo_that_has_left_no_key_is_settled_for_good() -> None:
    order = place()
    Order.objects.filter(pk=order.pk).update(
        status=OrderStatus.CANCELLING, rollback_started_at=timezone.now()
    )
    AttentionFlag.objects.raise_flag(order.pk, "send_cancellation_email", "has failed 10 times")
    desk.resolve_undo(
        order_id=order.pk,
        undo="send_cancellation_email",
        actor="ada",
        reason="told by telephone",
        reference="call 7",
    )
    assert StepKey.objects.get(order=order, step="send_confirmation_email").resolved_at


def test_finding_is_acknowledged_once_the_order_has_ended(order: Order) -> None:
    AttentionFlag.objects.raise_flag(order.pk, "refunded_twice", "400.00 EUR went back twice")
    with pytest.raises(StateConflict, match="clears itself"):
        desk.acknowledge(order_id=order.pk, subject="refunded_twice", actor="ada", reason="asked for it back")
    Order.objects.filter(pk=order.pk).update(status=OrderStatus.CANCELLED, rolled_back_at=timezone.now())
    with pytest.raises(StateConflict, match="Give a reason"):
        desk.acknowledge(order_id=order.pk, subject="refunded_twice", actor="ada", reason=" ")
    desk.acknowledge(order_id=order.pk, subject="refunded_twice", actor="ada", reason="asked for it back")
    assert not Order.objects.with_attention().get().attention  # type: ignore[attr-defined]
    assert [action.kind for action in order.actions.all()] == ["place_order", "acknowledge"]
    with pytest.raises(StateConflict, match="no open flag"):
        desk.acknowledge(order_id=order.pk, subject="refunded_twice", actor="ada", reason="again")


def test_no_statement_waits_for_a_lock_without_an_end() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("10s",)
