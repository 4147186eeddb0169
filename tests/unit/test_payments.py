"""The payment services against PostgreSQL: the ledger of one order, however often and late it is told."""

from decimal import Decimal

import pytest
from django.db import DatabaseError, transaction

from orders import desk
from orders.models import AttentionFlag, Order, StepKey, StepState
from orders.refusals import AlreadyUndone, StateConflict
from orders.rollback import begin_rollback
from payments import services
from payments.gateways.protocol import Charge, Refund
from payments.models import PaymentEvent, PaymentState
from tests.desk import place

pytestmark = pytest.mark.usefixtures("shop")


def charge_of(order: Order) -> Charge:
    return Charge(
        id="ch_1", key=services.charge_key(order.pk), amount_minor=40000, currency="EUR", refunded_minor=0
    )


def refund_of(order: Order) -> Refund:
    return Refund(id="re_1", key=services.refund_key(order.pk), charge_id="ch_1", amount_minor=40000)


def events_of(order: Order) -> list[tuple[str, Decimal]]:
    return list(PaymentEvent.objects.filter(payment__order=order).values_list("kind", "amount"))


def flags_of(order: Order) -> list[str]:
    return list(AttentionFlag.objects.filter(order=order, cleared_at=None).values_list("subject", flat=True))


def charged() -> Order:
    order = place()
    services.start_charge(order_id=order.pk)
    services.record_charge(order_id=order.pk, charge=charge_of(order))
    return order


def test_amounts_cross_the_gateway_boundary_exactly() -> None:
    assert services.to_minor(Decimal("2700.00")) == 270000
    assert services.to_minor(Decimal("0.29")) == 29
    assert services.from_minor(61_20) == Decimal("61.20")
    assert str(services.from_minor(400_00)) == "400.00"


def test_charge_is_recorded_once_however_often_it_is_told() -> None:
    order = charged()
    services.record_charge(order_id=order.pk, charge=charge_of(order))
    assert events_of(order) == [("charged", Decimal("400.00"))]
    assert order.payment.state == PaymentState.CHARGED
    assert flags_of(order) == []


def test_start_charge_after_the_order_has_turned_back_is_refused() -> None:
    """Also where no refund was due: a rollback that knew of no payment writes no tombstone for it."""
    order = place()
    begin_rollback(order_id=order.pk, failed_step="reserve_inventory", failure_type="OutOfStock", failure="")
    with pytest.raises(AlreadyUndone):
        services.start_charge(order_id=order.pk)
    assert events_of(order) == []


def test_start_charge_after_the_refund_began_is_refused() -> None:
    order = place()
    services.start_refund(order_id=order.pk)
    with pytest.raises(AlreadyUndone):
        services.start_charge(order_id=order.pk)


def test_charge_that_reports_back_after_its_tombstone_is_recorded_and_flagged_until_refunded() -> None:
    order = place()
    services.start_charge(order_id=order.pk)
    services.start_refund(order_id=order.pk)
    services.record_charge(order_id=order.pk, charge=charge_of(order))
    assert events_of(order) == [("charged", Decimal("400.00"))]
    assert flags_of(order) == [services.LATE_CHARGE]
    services.record_refund(order_id=order.pk, charge=charge_of(order), refund=refund_of(order))
    assert flags_of(order) == []
    assert services.get_net_charged(order_id=order.pk) == 0


def test_refund_is_recorded_once_and_nets_to_zero() -> None:
    order = charged()
    for _ in range(2):
        state = services.record_refund(order_id=order.pk, charge=charge_of(order), refund=refund_of(order))
        assert state == StepState.DONE
    assert [kind for kind, _ in events_of(order)] == ["charged", "refunded"]
    assert services.get_net_charged(order_id=order.pk) == 0


def test_refund_after_it_was_settled_outside_is_recorded_and_flagged_as_refunded_twice() -> None:
    order = charged()
    services.start_refund(order_id=order.pk)
    services.settle_refund_outside(order_id=order.pk, reference="transfer 1", note="card expired")
    StepKey.objects.filter(order=order, step="process_payment").update(resolved_at=order.accepted_at)
    services.record_refund(order_id=order.pk, charge=charge_of(order), refund=refund_of(order))
    assert flags_of(order) == [services.REFUNDED_TWICE]
    assert services.get_net_charged(order_id=order.pk) == Decimal("-400.00")


def test_nothing_to_settle_without_a_charge() -> None:
    order = place()
    services.start_charge(order_id=order.pk)
    with pytest.raises(StateConflict, match="nothing to settle"):
        services.settle_refund_outside(order_id=order.pk, reference="x", note="x")


def test_decline_is_recorded_once() -> None:
    order = place()
    services.start_charge(order_id=order.pk)
    for _ in range(2):
        services.record_decline(order_id=order.pk, code="card_declined", message="no")
    assert events_of(order) == [("declined", Decimal(0))]
    services.start_refund(order_id=order.pk)
    assert services.record_nothing_charged(order_id=order.pk) == StepState.NOTHING_TO_UNDO
    order.payment.refresh_from_db()
    assert order.payment.state == PaymentState.DECLINED


@pytest.mark.parametrize("statement", ["update", "delete"])
def test_ledger_cannot_be_changed(statement: str) -> None:
    order = charged()
    rows = PaymentEvent.objects.filter(payment__order=order)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        rows.update(amount=1) if statement == "update" else rows._raw_delete(rows.db)


def test_database_refuses_a_refund_with_the_wrong_sign() -> None:
    order = charged()
    with pytest.raises(DatabaseError, match="payment_event_signs"), transaction.atomic():
        PaymentEvent.objects.create(payment=order.payment, kind="refunded", amount=1)


def test_reopening_a_refund_by_hand_needs_a_failed_attempt() -> None:
    order = charged()
    with pytest.raises(StateConflict, match="not been tried"):
        desk.retry_undo(order_id=order.pk, undo="refund_payment", actor="ada")
