"""What an order's page offers to whom, and the page of a mail."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser

from notifications.models import EmailState
from orders.models import (
    AttentionFlag,
)
from tests.desk import place
from tests.e2e.doors import LIST, log_in, make_user, set_status
from tests.e2e.order_page import (
    MAILS,
    ask_to_cancel,
    charge,
    make_stuck,
    read,
    read_offers,
    write_mail,
)

# --- who is offered what --------------------------------------------------------------------------------


def test_a_viewer_is_offered_nothing(counter: None) -> None:
    viewer = log_in("viewer", "view_order")
    completed = place()
    set_status(completed, "completed")
    mail = write_mail(completed)
    AttentionFlag.objects.raise_flag(completed.pk, "refunded_twice", "400.00 EUR")
    asked = place()
    ask_to_cancel(asked, make_user("ada"))
    for order in (completed, asked, make_stuck()):
        page = read(viewer, order)
        assert read_offers(page) == []
        assert "/act/" not in page
    page = read(viewer, completed)
    # Money, mails and who did what are shown to those who may see them.
    for section, title in (("payment", "Payment"), ("mails", "Mails"), ("actions", "Who did what")):
        assert f'id="{section}"' not in page
        assert title not in page
    assert mail.subject not in page
    seeing = ("view_order", "view_payment", "view_emailmessage", "view_orderaction")
    page = read(log_in("auditor", *seeing), completed)
    assert f"{MAILS}{mail.pk}/" in page
    assert all(f'id="{section}"' in page for section in ("payment", "mails", "actions"))


@pytest.mark.parametrize(
    ("permissions", "offers"),
    [
        (["cancel_order"], []),
        (["cancel_order", "refund_order"], ["Cancel this order"]),
        (["ship_order"], ["Mark as shipped"]),
        (["resend_email"], ["Send the confirmation again"]),
        (["retry_undo"], ["Acknowledge: confirmation sent too late"]),
        (["resolve_undo", "approve_refund", "add_order"], []),
    ],
)
def test_a_completed_and_paid_order_offers_what_each_may_do(
    counter: None, permissions: list[str], offers: list[str]
) -> None:
    order = place()
    set_status(order, "completed")
    charge(order)
    write_mail(order)
    write_mail(order, copy=1)
    AttentionFlag.objects.raise_flag(order.pk, "late_confirmation", "too late")
    assert read_offers(read(log_in("staff", "view_order", *permissions), order)) == offers


@pytest.mark.parametrize(
    ("undo", "permission", "offers"),
    [
        ("refund_payment", "retry_undo", ["Retry now: refund the payment"]),
        ("refund_payment", "resolve_undo", ["Resolve by hand: refund the payment"]),
        ("cancel_order", "retry_undo", ["Retry now: close the order as cancelled"]),
        ("cancel_order", "resolve_undo", []),
        ("refund_payment", "cancel_order", []),
    ],
)
def test_a_stuck_undo_is_offered_to_those_who_may_repair_it(
    counter: None, undo: str, permission: str, offers: list[str]
) -> None:
    order = make_stuck(undo)
    AttentionFlag.objects.raise_flag(order.pk, undo, "it has failed 10 times")
    assert read_offers(read(log_in("staff", "view_order", permission), order)) == offers


@pytest.mark.parametrize(
    ("status", "offers"),
    [
        ("pending", ["Cancel this order"]),
        ("created", ["Cancel this order"]),
        ("completed", ["Mark as shipped", "Cancel this order"]),
        ("shipped", []),
        ("cancelling", []),
        ("cancelled", []),
    ],
)
def test_only_moves_that_the_order_can_make_are_offered(
    boss: Browser, status: str, offers: list[str]
) -> None:
    order = place()
    set_status(order, status)
    assert read_offers(read(boss, order)) == offers


def test_an_open_cancel_is_decided_by_another_and_withdrawn_by_who_asked(counter: None) -> None:
    order = place()
    set_status(order, "completed")
    powers = ["view_order", "view_cancelrequest", "cancel_order", "refund_order", "approve_refund"]
    ada, linus = log_in("ada", *powers), log_in("linus", *powers)
    asked = ask_to_cancel(order, User.objects.get(username="ada"))
    assert read_offers(read(ada, order)) == ["Withdraw the cancel"]
    page = read(linus, order)
    assert read_offers(page) == ["Approve the cancel", "Reject the cancel"]
    assert f"{LIST}act/approve/?order={order.pk}&amp;request={asked.pk}" in page
    assert "a second person has to decide" in page
    assert "400.00 EUR" in page


def test_offers_lead_to_the_page_that_asks_for_the_reason(boss: Browser) -> None:
    order, completed = make_stuck(), place()
    set_status(completed, "completed")
    page = read(boss, order)
    assert f'href="{LIST}act/retry/?order={order.pk}&amp;undo=refund_payment"' in page
    mail = write_mail(completed)
    assert f'href="{LIST}act/resend/?order={completed.pk}&amp;email={mail.pk}"' in read(boss, completed)
    assert "<form" not in page.split('id="content-start"')[1]


# --- the mail -------------------------------------------------------------------------------------------


def test_a_mail_is_shown_as_text_and_framed_as_the_customer_sees_it(boss: Browser) -> None:
    mail = write_mail(place(), copy=2)
    page = boss.get(f"{MAILS}{mail.pk}/change/").content.decode()
    assert "Thank you." in page
    assert "a person, who had it sent again (copy 2)" in page
    assert re.search(rf'<iframe[^>]* sandbox src="{MAILS}{mail.pk}/html/"', page)
    assert "Thank you</h1>" not in page

    frame = boss.get(f"{MAILS}{mail.pk}/html/")
    assert frame.content.decode() == mail.html
    assert frame.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert frame.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"
    )


def test_the_saga_s_own_mail_says_so(boss: Browser) -> None:
    mail = write_mail(place(), state=EmailState.PENDING, sent_at=None)
    page = boss.get(f"{MAILS}{mail.pk}/change/").content.decode()
    assert "the order&#x27;s saga" in page
    assert '<span class="od-badge od-pending">pending</span>' in page


def test_a_mail_opens_only_to_those_who_may_read_mails(boss: Browser) -> None:
    mail = write_mail(place())
    html = f"{MAILS}{mail.pk}/html/"
    assert log_in("reader", "view_emailmessage").get(html).status_code == 200
    assert log_in("viewer", "view_order").get(html).status_code == 403
    assert Browser().get(html).status_code == 302
    assert boss.post(html).status_code == 405
    for pk in ("0", str(10**30)):
        assert boss.get(f"{MAILS}{pk}/html/").status_code == 404
