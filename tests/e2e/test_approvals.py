"""Cancels that a second person has to approve: who may decide, what happens before and after, and races."""

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connections, transaction
from django.utils import timezone

from orders import approvals, desk
from orders.models import CancelRequest, Order, OrderAction, OutboxMessage
from orders.refusals import CancelRequested, StateConflict
from orders.rollback import begin_rollback
from payments import services as payments_services
from payments.models import EventKind, Payment, PaymentEvent, PaymentState
from tests.desk import place
from tests.e2e.api import client_of, make_client
from tests.e2e.doors import make_user, set_status
from tests.faults import is_blocked, pausing
from tests.processes import wait_until

CANCELS = ("view_order", "cancel_order", "refund_order")
APPROVES = (*CANCELS, "approve_refund")


def place_paid(amount: str = "900.00", *, status: str = "completed") -> Order:
    """An order whose payment of this amount was taken."""
    order = place()
    Order.objects.filter(pk=order.pk).update(total=amount)
    set_status(order, status)
    payment = Payment.objects.create(
        order=order, state=PaymentState.CHARGED, amount=amount, currency="EUR", token="tok_ok"
    )
    PaymentEvent.objects.create(payment=payment, kind=EventKind.CHARGED, amount=amount, reference="ch_1")
    order.refresh_from_db()
    return order


def ask(order: Order, staff: User) -> CancelRequest:
    """Ask for the cancel; it must await approval."""
    decision = desk.cancel_order_as_staff(order_id=order.pk, staff=staff, reason="damaged")
    assert decision.awaiting is not None
    return decision.awaiting


def kinds(order: Order) -> list[str]:
    return list(order.actions.values_list("kind", flat=True))


@pytest.fixture
def ada(counter: None) -> User:
    return make_user("ada", *CANCELS, staff=True)


@pytest.fixture
def bob(counter: None) -> User:
    return make_user("bob", *APPROVES, staff=True)


def test_refund_above_the_limit_waits_for_a_second_person_and_undoes_nothing(ada: User, bob: User) -> None:
    order = place_paid("500.01")
    request = ask(order, ada)
    order.refresh_from_db()
    assert (order.status, order.cancel_requested_at) == ("completed", None)
    assert OutboxMessage.objects.filter(order=order).count() == 1  # the start of its saga, nothing else
    assert (request.refund, request.reason, request.requested_by) == (Decimal("500.01"), "damaged", ada)

    decision = desk.approve_cancel(request_id=request.pk, staff=bob, note="agreed")
    assert decision.changed
    order.refresh_from_db()
    assert order.status == "cancelling"
    assert kinds(order) == ["place_order", "request_cancel", "approve_cancel", "cancel_order"]
    cancel = OrderAction.objects.get(kind="cancel_order")
    assert (cancel.actor, cancel.reason) == ("ada", "damaged")
    request.refresh_from_db()
    assert (request.state, request.decided_by) == ("approved", bob)


@pytest.mark.parametrize("limit", [Decimal(900), None])
def test_refund_up_to_the_limit_needs_nobody_else(ada: User, settings: Any, limit: Decimal | None) -> None:
    settings.REFUND_APPROVAL_ABOVE = limit
    order = place_paid("900.00")
    assert desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="x").awaiting is None
    order.refresh_from_db()
    assert order.status == "cancelling"


def test_who_asked_cannot_approve_or_reject_but_withdraw(counter: None) -> None:
    eve = make_user("eve", *APPROVES, staff=True)
    order = place_paid()
    request = ask(order, eve)
    with pytest.raises(StateConflict, match="second person"):
        desk.approve_cancel(request_id=request.pk, staff=eve)
    with pytest.raises(StateConflict, match="withdraw"):
        desk.reject_cancel(request_id=request.pk, staff=eve, note="no")
    desk.withdraw_cancel(request_id=request.pk, staff=eve)
    request.refresh_from_db()
    assert request.state == "withdrawn"


def test_superuser_does_not_count_as_two_people(counter: None) -> None:
    boss = make_user("boss", staff=True, superuser=True)
    request = ask(place_paid(), boss)
    with pytest.raises(StateConflict, match="second person"):
        desk.approve_cancel(request_id=request.pk, staff=boss)
    with pytest.raises(IntegrityError, match="cancel_request_takes_two_people"), transaction.atomic():
        CancelRequest.objects.update(state="approved", decided_by=boss, decided_at=timezone.now())


def test_rejected_cancel_leaves_the_order_as_it_was(ada: User, bob: User) -> None:
    order = place_paid()
    request = ask(order, ada)
    with pytest.raises(StateConflict, match="reason"):
        desk.reject_cancel(request_id=request.pk, staff=bob, note=" ")
    desk.reject_cancel(request_id=request.pk, staff=bob, note="ask the customer again")
    order.refresh_from_db()
    assert order.status == "completed"
    with pytest.raises(StateConflict, match="already rejected by bob"):
        desk.approve_cancel(request_id=request.pk, staff=bob)
    assert ask(order, ada).pk != request.pk  # it may be asked for again
    with pytest.raises(StateConflict, match="no such request"):
        desk.approve_cancel(request_id=10**9, staff=bob)


def test_asking_twice_asks_once(ada: User) -> None:
    order = place_paid()
    request = ask(order, ada)
    again = desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="damaged")
    assert (again.changed, again.awaiting) == (False, request)
    assert kinds(order).count("request_cancel") == 1


def test_order_is_not_shipped_while_its_cancel_awaits_approval(ada: User, bob: User) -> None:
    order = place_paid()
    request = ask(order, ada)
    with pytest.raises(StateConflict, match="awaits approval"):
        desk.ship_order(order_id=order.pk, actor="wim")
    order.refresh_from_db()
    assert order.status == "completed"
    desk.reject_cancel(request_id=request.pk, staff=bob, note="no")
    assert desk.ship_order(order_id=order.pk, actor="wim").changed


def test_request_lapses_when_the_order_is_cancelled_another_way(ada: User, bob: User) -> None:
    by_customer, by_saga = place_paid(), place_paid(status="created")
    requests = [ask(by_customer, ada), ask(by_saga, ada)]
    desk.cancel_order(order_id=by_customer.pk, actor="the customer", reason="changed my mind")
    begin_rollback(order_id=by_saga.pk, failed_step="x", failure_type="y", failure="z")
    for request in requests:
        request.refresh_from_db()
        assert (request.state, request.decided_by) == ("lapsed", None)
        with pytest.raises(StateConflict, match="already lapsed"):
            desk.approve_cancel(request_id=request.pk, staff=bob)


def test_paid_order_is_cancelled_only_by_who_may_refund(counter: None) -> None:
    clerk = make_user("clerk", "view_order", "cancel_order", staff=True)
    paid, unpaid = place_paid("20.00"), place()
    with pytest.raises(StateConflict, match=r"refunds 20\.00 EUR, which you may not do"):
        desk.cancel_order_as_staff(order_id=paid.pk, staff=clerk, reason="x")
    assert desk.cancel_order_as_staff(order_id=unpaid.pk, staff=clerk, reason="x").changed
    with pytest.raises(StateConflict, match="reason"):
        desk.cancel_order_as_staff(order_id=place().pk, staff=clerk, reason="")


def test_charge_in_flight_counts_as_a_refund(ada: User) -> None:
    order = place()
    Order.objects.filter(pk=order.pk).update(total="900.00", status="created")
    payments_services.start_charge(order_id=order.pk)
    assert ask(order, ada).refund == Decimal("900.00")
    payments_services.record_decline(order_id=order.pk, code="too_much", message="no")
    CancelRequest.objects.update(state="lapsed", decided_at=timezone.now())
    assert desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="x").awaiting is None


def test_a_client_cancels_its_own_orders_without_approval(ada: User) -> None:
    client, order = make_client(), place_paid()
    Order.objects.filter(pk=order.pk).update(client=client)
    address = f"/api/v1/orders/{order.pk}/cancel/"
    answer = client_of(client).post(address, {"reason": "changed my mind"}, format="json")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert not CancelRequest.objects.exists()


# --- races -----------------------------------------------------------------------------------------------


def race(*calls: Any) -> list[str]:
    """Run the calls at the same time; what each said."""

    def run(call: Any) -> str:
        try:
            return "changed" if call().changed else "unchanged"
        except StateConflict:
            return "refused"
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as threads:
        return sorted(threads.map(run, calls))


@pytest.mark.parametrize("round", range(5))
def test_two_people_deciding_at_once_have_one_effect(shop: None, round: int) -> None:
    ada, bob, eve = (make_user(name, *APPROVES, staff=True) for name in ("ada", "bob", "eve"))
    order = place_paid()
    request = ask(order, ada)
    answers = race(
        lambda: desk.approve_cancel(request_id=request.pk, staff=bob),
        lambda: desk.reject_cancel(request_id=request.pk, staff=eve, note="no"),
        lambda: desk.withdraw_cancel(request_id=request.pk, staff=ada),
    )
    assert answers == ["changed", "refused", "refused"]
    request.refresh_from_db()
    order.refresh_from_db()
    assert (order.status == "cancelling") == (request.state == "approved")


def test_without_the_lock_two_people_would_both_decide(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the race above: the same calls, with a reading that locks nothing."""
    ada, bob, eve = (make_user(name, *APPROVES, staff=True) for name in ("ada", "bob", "eve"))
    request = ask(place_paid(), ada)
    both_have_read = threading.Barrier(2)

    def read_without_lock(request_id: int) -> CancelRequest:
        found = CancelRequest.objects.select_related("requested_by", "order").get(pk=request_id)
        both_have_read.wait(10)
        return found

    monkeypatch.setattr(approvals, "_lock_open_request", read_without_lock)
    answers = race(
        lambda: desk.approve_cancel(request_id=request.pk, staff=bob),
        lambda: desk.reject_cancel(request_id=request.pk, staff=eve, note="no"),
    )
    assert answers == ["changed", "changed"]


@pytest.mark.parametrize("round", range(5))
def test_two_people_cancelling_at_once_cancel_once(shop: None, round: int) -> None:
    ada, bob = (make_user(name, *CANCELS, staff=True) for name in ("ada", "bob"))
    small, large = place_paid("20.00"), place_paid("900.00")

    def cancel(order_id: UUID, staff: User) -> Any:
        return lambda: desk.cancel_order_as_staff(order_id=order_id, staff=staff, reason="race")

    for order in (small, large):
        assert race(cancel(order.pk, ada), cancel(order.pk, bob)) == ["changed", "unchanged"]
    assert OutboxMessage.objects.filter(order=small, name="CancelOrderSaga").count() == 1
    assert CancelRequest.objects.filter(order=large).count() == 1


def test_cancel_waits_for_a_charge_that_is_about_to_begin(shop: None) -> None:
    """Otherwise a cancel would be judged as unpaid, and its refund would need nobody's approval."""
    ada = make_user("ada", *CANCELS, staff=True)
    order = place()
    Order.objects.filter(pk=order.pk).update(total="900.00", status="created")

    def run(call: Any) -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    with pausing("payments_payment", "INSERT") as pause, ThreadPoolExecutor(2) as threads:
        charge = threads.submit(run, lambda: payments_services.start_charge(order_id=order.pk))
        wait_until(pause.is_reached, "the charge is about to begin")
        cancel = threads.submit(
            run, lambda: desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="race")
        )
        wait_until(lambda: is_blocked("orders_order"), "the cancel waits for the order's row")
        pause.release()
        assert cancel.result(20).awaiting is not None
        assert charge.result(20).amount_minor == 90_000


def test_order_that_was_cancelled_first_is_never_charged(counter: None) -> None:
    ada = make_user("ada", *CANCELS, staff=True)
    order = place()
    Order.objects.filter(pk=order.pk).update(total="900.00", status="created")
    assert desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="race").awaiting is None
    with pytest.raises(CancelRequested), transaction.atomic():  # as the activity has one
        payments_services.start_charge(order_id=order.pk)
    assert not Payment.objects.exists()
