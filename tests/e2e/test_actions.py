"""The admin's actions over HTTP: state and permission anew for each row, each with its own result."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import OperationalError
from django.test import Client as Browser

from notifications import services as notifications_services
from notifications.models import EmailMessage
from orders import desk
from orders.admin import confirm
from orders.admin.actions import ACTIONS, BULK
from orders.admin.confirm import MAX_SELECTED
from orders.models import (
    AttentionFlag,
    CancelRequest,
    Order,
    OrderAction,
    OutboxMessage,
)
from orders.services import Item
from payments.models import EventKind, Payment, PaymentEvent, PaymentState
from tests.desk import place
from tests.e2e.acting import GARBAGE, UNKNOWN, complete, read_page, stick
from tests.e2e.doors import LIST, act_on, confirmation, log_in, make_user, page_of, read_messages, set_status

# --- acting ---------------------------------------------------------------------------------------------


def test_each_order_gets_the_answer_its_state_allows(boss: Browser) -> None:
    orders = {status: place() for status in ("created", "completed", "cancelling", "cancelled", "shipped")}
    for status, order in orders.items():
        set_status(order, status)
    answer = boss.post(act_on("cancel"), confirmation(*orders.values()), follow=True)
    assert answer.redirect_chain == [(LIST, 302)]
    names = {status: str(order) for status, order in orders.items()}
    shipped = f"{names['shipped']} has been shipped and can no longer be cancelled."
    assert set(read_messages(answer)) == {
        f"{names['created']}: the cancel is accepted.",
        f"{names['completed']}: the cancel is accepted.",
        f"{names['cancelling']}: nothing was done; it was done or asked for before.",
        f"{names['cancelled']}: nothing was done; it was done or asked for before.",
        f"{names['shipped']}: {shipped}",
    }


def test_one_order_leads_back_to_its_page(boss: Browser) -> None:
    order = complete()
    answer = boss.post(act_on("ship"), confirmation(order, reason="parcel 12"), follow=True)
    assert answer.redirect_chain == [(page_of(order), 302)]
    assert read_messages(answer) == [f"{order}: marked as shipped."]
    assert OrderAction.objects.get(kind="ship_order").reason == "parcel 12"


def test_acting_twice_acts_once(boss: Browser) -> None:
    order = complete()
    for _ in range(2):
        boss.post(act_on("cancel"), confirmation(order))
    assert OrderAction.objects.filter(kind="cancel_order").count() == 1
    assert OutboxMessage.objects.filter(name="CancelOrderSaga").count() == 1


def test_stuck_undo_is_retried_and_resolved(boss: Browser) -> None:
    order = stick(complete())
    retried = boss.post(act_on("retry"), confirmation(order, part="refund_payment"), follow=True)
    assert read_messages(retried) == [f"{order}: refund_payment is tried again now."]
    assert OutboxMessage.objects.get(name="retry_undo").argument == "refund_payment"

    incomplete = boss.post(act_on("resolve"), confirmation(order, part="refund_payment"))
    assert "This field is required" in read_page(incomplete)
    form = confirmation(order, part="refund_payment", reference="T-1")
    resolved = boss.post(act_on("resolve"), form, follow=True)
    assert read_messages(resolved) == [f"{order}: refund_payment is settled by hand."]
    action = OrderAction.objects.get(kind="resolve_undo")
    assert (action.reason, action.reference) == ("customer called", "T-1")
    assert PaymentEvent.objects.get(kind="settled_outside").amount == Decimal("-61.20")


def test_stuck_undos_of_several_orders_are_found_by_themselves(boss: Browser) -> None:
    both, one, none = stick(stick(complete()), "release_inventory"), stick(complete()), complete()
    selection = {"action": "retry_selected", "_selected_action": [o.pk for o in (both, one, none)]}
    page = read_page(boss.post(LIST, selection))
    assert "3 of 4 rows can be done" in page
    assert "None of its undos is stuck." in page
    for order, undo in ((both, "refund_payment"), (both, "release_inventory"), (one, "refund_payment")):
        assert f'name="target" value="{order.pk} {undo}"' in page


def test_closing_an_order_cannot_be_resolved_outside(boss: Browser) -> None:
    order = stick(complete(), "cancel_order")
    page = read_page(boss.get(act_on("resolve"), {"order": str(order.pk)}))
    assert "cannot be settled outside: retry it." in page
    answer = boss.post(
        act_on("resolve"), confirmation(order, part="cancel_order", reference="x"), follow=True
    )
    assert "cannot be settled outside" in read_messages(answer)[0]


def test_mail_is_resent_and_its_copy_is_on_its_way(boss: Browser) -> None:
    order = complete()
    page = read_page(boss.get(act_on("resend"), {"order": str(order.pk)}))
    assert "send the confirmation mail again to ada@example.com" in page
    email = EmailMessage.objects.get()
    answer = boss.post(act_on("resend"), confirmation(order, part=str(email.pk)), follow=True)
    assert read_messages(answer) == [f"{order}: the mail is sent again."]
    assert EmailMessage.objects.get(copy=1).state == "pending"
    again = boss.get(act_on("resend"), {"order": str(order.pk)})
    assert "An earlier copy is still on its way." in read_page(again)


def test_finding_is_acknowledged(boss: Browser) -> None:
    order = complete()
    AttentionFlag.objects.raise_flag(order.pk, "refunded_twice", "Twice 61.20 was refunded.")
    page = read_page(boss.get(act_on("acknowledge"), {"order": str(order.pk), "subject": "refunded_twice"}))
    assert "Twice 61.20 was refunded." in page
    answer = boss.post(act_on("acknowledge"), confirmation(order, part="refunded_twice"), follow=True)
    assert read_messages(answer) == [f"{order}: the flag is cleared."]


def test_refund_above_the_limit_takes_two_people(counter: None) -> None:
    ada = log_in("ada", "view_order", "cancel_order", "refund_order", "approve_refund")
    bob = log_in("bob", "view_order", "approve_refund")
    order = complete(amount="900.00")
    asked = ada.post(act_on("cancel"), confirmation(order), follow=True)
    assert "a second person has to approve the cancel" in read_messages(asked)[0]
    part = str(CancelRequest.objects.get().pk)
    assert "a second person has to approve it" in read_page(
        ada.get(act_on("approve"), {"order": str(order.pk)})
    )
    refused = ada.post(act_on("approve"), confirmation(order, part=part, reason="it's me"), follow=True)
    assert "a second person has to approve it" in read_messages(refused)[0]
    order.refresh_from_db()
    assert order.status == "completed"

    page = read_page(bob.get(act_on("approve"), {"order": str(order.pk)}))
    assert "ada asks for it, to refund 900.00 EUR: customer called" in page
    assert "<li>refund 900.00 EUR</li>" in page
    bob.post(act_on("approve"), confirmation(order, part=part, reason="agreed"))
    order.refresh_from_db()
    assert order.status == "cancelling"
    assert CancelRequest.objects.get().state == "approved"


def test_stale_page_decides_no_request_that_was_not_on_it(counter: None) -> None:
    """The first request is withdrawn and another asked for while the approver reads the page of the first."""
    bob = log_in("bob", "view_order", "approve_refund")
    ada, carl = (make_user(name, "cancel_order", "refund_order", staff=True) for name in ("ada", "carl"))
    order, other = complete(amount="900.00"), complete(amount="900.00")
    first = desk.cancel_order_as_staff(order_id=order.pk, staff=ada, reason="damaged").awaiting
    assert first is not None
    assert f'value="{order.pk} {first.pk}"' in read_page(bob.get(act_on("approve"), {"order": str(order.pk)}))
    desk.withdraw_cancel(request_id=first.pk, staff=ada)
    second = desk.cancel_order_as_staff(order_id=order.pk, staff=carl, reason="scratched").awaiting
    assert second is not None
    for target, part in ((order, first.pk), (other, second.pk)):
        for slug in ("approve", "reject"):
            answer = bob.post(act_on(slug), confirmation(target, part=str(part)), follow=True)
            assert read_messages(answer) == [
                f"{target}: This request for a cancel is decided already, or was never made."
            ]
    second.refresh_from_db()
    assert second.state == "awaiting_approval"


def test_page_that_said_less_is_shown_again_before_money_is_given_back(boss: Browser) -> None:
    order = place([Item("TEE-M", 3)])
    page = read_page(boss.get(act_on("cancel"), {"order": str(order.pk)}))
    assert '<input type="hidden" name="refund" value="0">' in page
    Order.objects.filter(pk=order.pk).update(status="created")
    payment = Payment.objects.create(order=order, state=PaymentState.CHARGED, amount="61.20", currency="EUR")
    PaymentEvent.objects.create(payment=payment, kind=EventKind.CHARGED, amount="61.20")
    for seen in ("0", "61.19", "garbage"):
        again = boss.post(act_on("cancel"), confirmation(order, refund=seen))
        assert "it would give back more than this page said" in read_messages(again)[0]
        assert "refund 61.20 EUR" in read_page(again)
    order.refresh_from_db()
    assert order.cancel_requested_at is None
    boss.post(act_on("cancel"), confirmation(order, refund="61.20"))
    order.refresh_from_db()
    assert order.cancel_requested_at is not None


def test_busy_database_is_reported_for_its_row_and_stops_no_other(
    boss: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [complete() for _ in range(3)]
    ship = desk.ship_order

    def ship_unless_locked(**arguments: Any) -> Any:
        if arguments["order_id"] == orders[1].pk:
            raise OperationalError("canceling statement due to lock timeout")
        return ship(**arguments)

    monkeypatch.setattr(desk, "ship_order", ship_unless_locked)
    answer = boss.post(act_on("ship"), confirmation(*orders), follow=True)
    assert read_messages(answer) == [
        f"{orders[0]}: marked as shipped.",
        f"{orders[1]}: the database was busy, so nothing was done. Try again.",
        f"{orders[2]}: marked as shipped.",
    ]


def test_pending_copy_of_one_mail_does_not_hold_back_the_other(boss: Browser) -> None:
    order = complete()
    mails = {"confirmation": EmailMessage.objects.get()}
    boss.post(act_on("resend"), confirmation(order, part=str(mails["confirmation"].pk)))
    set_status(order, "cancelled")
    mails["cancellation"] = notifications_services.prepare_cancellation(order_id=order.pk).email
    notifications_services.record_sent(email_id=mails["cancellation"].pk)
    page = read_page(boss.get(act_on("resend"), {"order": str(order.pk)}))
    assert "send the cancellation mail again" in page


# --- who may, and bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ACTIONS)
def test_each_action_needs_its_permission(counter: None, slug: str) -> None:
    order = stick(complete())
    everything_else = {action.permission for action in ACTIONS.values()} - {ACTIONS[slug].permission}
    staff = log_in("staff", "view_order", *(permission.partition(".")[2] for permission in everything_else))
    assert staff.get(act_on(slug), {"order": str(order.pk)}).status_code == 403
    assert staff.post(act_on(slug), confirmation(order, part="refund_payment")).status_code == 403
    blind = log_in("blind", ACTIONS[slug].permission.partition(".")[2])
    assert blind.get(act_on(slug), {"order": str(order.pk)}).status_code == 403
    allowed = log_in("allowed", "view_order", ACTIONS[slug].permission.partition(".")[2])
    assert allowed.get(act_on(slug), {"order": str(order.pk)}).status_code == 200


def test_list_offers_only_what_one_may(counter: None) -> None:
    place()
    offered = log_in("wim", "view_order", "ship_order").get(LIST).content.decode()
    assert 'value="ship_selected"' in offered
    assert not any(f'value="{slug}_selected"' in offered for slug in BULK if slug != "ship")
    assert "delete_selected" not in offered


def test_permission_taken_away_between_two_rows_stops_the_second(
    counter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff = log_in("staff", "view_order", "ship_order")
    first, second = complete(), complete()
    ship = desk.ship_order

    def ship_and_revoke(**arguments: Any) -> Any:
        User.objects.get(username="staff").user_permissions.clear()
        return ship(**arguments)

    monkeypatch.setattr(desk, "ship_order", ship_and_revoke)
    answer = staff.post(act_on("ship"), confirmation(first, second))
    messages = [str(message) for message in get_messages(answer.wsgi_request)]
    assert messages == [f"{first}: marked as shipped.", f"{second}: you may no longer do this."]
    assert [Order.objects.get(pk=o.pk).status for o in (first, second)] == ["shipped", "completed"]


def test_too_many_orders_at_once_are_refused(boss: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "MAX_SELECTED", 3)
    for _ in range(4):
        place()
    selection = {
        "action": "cancel_selected",
        "select_across": 1,
        "_selected_action": [Order.objects.all()[0].pk],
    }
    assert read_messages(boss.post(LIST, selection, follow=True)) == ["Select at most 3 orders at a time."]
    assert MAX_SELECTED == 100


@pytest.mark.parametrize("slug", ACTIONS)
def test_garbage_instead_of_an_order_leads_back_to_the_list(boss: Browser, slug: str) -> None:
    for target in [*GARBAGE, UNKNOWN, f"{UNKNOWN} refund_payment", "9" * 4000]:
        for answer in (
            boss.get(act_on(slug), {"order": target}, follow=True),
            boss.post(act_on(slug), {"target": target, "reason": "x", "reference": "x"}, follow=True),
        ):
            assert answer.redirect_chain == [(LIST, 302)], target
            assert read_messages(answer) == ["Select the orders first."]


@pytest.mark.parametrize("slug", ACTIONS)
def test_garbage_instead_of_a_part_of_an_order_is_an_obstacle(boss: Browser, slug: str) -> None:
    order = complete()
    parameter = ACTIONS[slug].parameter or "undo"
    for part in GARBAGE[1:]:
        shown = boss.get(act_on(slug), {"order": str(order.pk), parameter: part})
        assert shown.status_code == 200, part
        assert b"<b>x</b>" not in shown.content
        if ACTIONS[slug].parameter:
            done = boss.post(act_on(slug), confirmation(order, part=part, reference="x"))
            assert done.status_code == 302, part
    if ACTIONS[slug].parameter:
        assert OrderAction.objects.count() == 1


def test_unknown_action_is_not_found(boss: Browser) -> None:
    assert boss.get(act_on("explode")).status_code == 404
