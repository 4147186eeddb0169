"""The page of one's own order over HTTP: its link, what it says in each state, and its cancel."""

from typing import Any
from uuid import uuid4

import pytest
from django.core.signing import Signer
from django.test import Client as Browser
from django.utils import timezone

from notifications.models import EmailKind
from orders.links import find_order_url, read_signed, sign_order
from orders.models import CUSTOMER, STEP_OF_UNDO, STEPS, AttentionFlag, Order
from orders.storefront import words
from payments.models import EventKind, Payment, PaymentState
from tests.desk import EMAIL, place
from tests.e2e.acting import GARBAGE
from tests.e2e.doors import set_status
from tests.e2e.order_page import charge, turn_back, write_mail, write_trail
from tests.e2e.storefront import COMPLETE, MASKED, PAID, STEPS_DONE, ask_to_cancel, page_of, read, refund, see

pytestmark = pytest.mark.usefixtures("counter")


# --- the link --------------------------------------------------------------------------------------------


def test_the_link_is_the_key(client: Browser) -> None:
    placed = place()
    signed = sign_order(placed.pk)
    assert read_signed(signed) == placed.pk
    assert f"Order {placed.number}" in see(client, placed)
    forged = [
        str(placed.pk),
        f"{placed.pk}.",
        signed[:-1],
        signed[:-1] + ("A" if signed[-1] != "A" else "B"),
        signed.replace(str(placed.pk), str(uuid4())),
        Signer(sep=".").sign(str(placed.pk)),
        Signer(sep=".", salt="orders").sign(str(placed.pk)),
        Signer(sep=".", salt="orders.links").sign("not an id"),
        sign_order(uuid4()),
        *(value for value in GARBAGE if value),
    ]
    for wrong in forged:
        for path in ("", "live/", "cancel/"):
            answer = client.get(f"/order/{wrong}/{path}")
            assert answer.status_code == 404, wrong
            assert "There is nothing here" in read(answer)
    assert client.post(f"/order/{placed.pk}/cancel/").status_code == 404


def test_a_link_outlasts_a_change_of_the_key(client: Browser, settings: Any) -> None:
    page = page_of(place())
    old = settings.SECRET_KEY
    settings.SECRET_KEY = "new" * 20
    assert client.get(page).status_code == 404
    settings.SECRET_KEY_FALLBACKS = [old]
    assert client.get(page).status_code == 200


def test_the_link_is_nobody_elses_business(client: Browser) -> None:
    placed = place()
    for path in ("", "live/", "cancel/"):
        answer = client.get(page_of(placed) + path)
        assert answer["Cache-Control"] == "private, no-store"
        assert answer["X-Robots-Tag"] == "noindex"
        assert answer["Referrer-Policy"] == "same-origin"
    assert client.post(page_of(placed)).status_code == 405


def test_a_forwarded_link_does_not_give_the_address_away(client: Browser) -> None:
    failed = place()
    turn_back(failed, "cancelled", "EmailRefused")
    completed = place()
    set_status(completed, "completed")
    write_trail(completed, *COMPLETE)
    write_mail(completed)
    for placed in (failed, completed):
        for path in ("", "live/", "cancel/"):
            page = client.get(page_of(placed) + path, follow=True).content.decode()
            assert MASKED in page
            assert EMAIL not in page


def test_the_mails_address_is_the_pages(client: Browser, settings: Any) -> None:
    placed = place()
    assert find_order_url(placed.pk) == ""
    settings.SHOP_URL = "https://shop.example"
    assert find_order_url(placed.pk) == f"https://shop.example{page_of(placed)}"


# --- forward ---------------------------------------------------------------------------------------------


def test_an_order_just_placed(client: Browser) -> None:
    page = see(client, place())
    assert "We are working on your order Thank you. You can close this page" in page
    assert "2 × Noise-cancelling headphones 400.00 Total 400.00 EUR" in page  # noqa: RUF001
    assert f"For {MASKED}" in page
    assert "Done: We have received your order" in page
    assert "To come: Set your items aside To come: Take the payment of 400.00 EUR" in page
    assert "To come: Send your confirmation To come: Ready to be shipped" in page
    assert "Cancel this order" in page


@pytest.mark.parametrize(
    ("trail", "said"),
    [
        ([("create_order", "running")], "To come: Set your items aside"),
        ([("create_order", "lost")], "Late: We cannot check your order yet; we keep trying"),
        ([*STEPS_DONE], "Done: Your items are set aside"),
        ([*STEPS_DONE, ("process_payment", "running")], "Now: We are asking the bank for 400.00 EUR"),
        ([*STEPS_DONE, ("process_payment", "lost")], "Late: The bank does not answer yet; we keep trying"),
        (
            [*STEPS_DONE, ("process_payment", "failed"), ("process_payment", "running")],
            "Late: The bank does not answer yet; we keep trying",
        ),
        ([*PAID], "Done: Payment of 400.00 EUR taken"),
        (
            [*PAID, ("send_confirmation_email", "lost")],
            "Late: Your confirmation could not be sent yet; we keep trying",
        ),
    ],
)
def test_the_way_forward_in_words(client: Browser, trail: list[tuple[str, str]], said: str) -> None:
    placed = place()
    set_status(placed, "created")
    write_trail(placed, *trail)
    page = see(client, placed)
    assert said in page
    assert "We are working on your order" in page


def test_a_failure_that_is_retried_is_late_and_its_error_is_not_shown(client: Browser) -> None:
    placed = place()
    set_status(placed, "created")
    write_trail(
        placed,
        *STEPS_DONE,
        ("process_payment", "failed"),
        error="HTTP 500 from 10.0.0.7",
        error_type="GatewayUnavailable",
        retry_at=timezone.now(),
    )
    page = see(client, placed)
    assert "Late: The bank does not answer yet; we keep trying To come: Send your confirmation" in page
    assert "10.0.0.7" not in client.get(page_of(placed)).content.decode()


def test_every_step_has_words_and_a_new_one_is_left_out(
    client: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(words.STEPS) == set(STEPS)
    assert set(words.UNDOS) == set(STEP_OF_UNDO)
    monkeypatch.setitem(STEPS, "book_courier", "cancel_courier")
    placed = place()
    write_trail(placed, ("book_courier", "done"))
    assert "courier" not in see(client, placed)
    assert "courier" not in see(client, place())


def test_a_completed_order(client: Browser) -> None:
    placed = place()
    set_status(placed, "completed")
    write_trail(placed, *COMPLETE)
    charge(placed)
    write_mail(placed)
    page = see(client, placed)
    assert "Your order is confirmed Thank you. 400.00 EUR paid." in page
    assert f"Done: Confirmation sent to {MASKED}," in page
    assert "Done: Your order is ready to be shipped" in page
    assert "To come" not in page


def test_a_completed_order_without_its_mail_says_so(client: Browser) -> None:
    placed = place()
    set_status(placed, "completed")
    write_trail(placed, *PAID, ("send_confirmation_email", "failed"), error_type="EmailRefused")
    assert "Failed: Your confirmation could not be delivered" in see(client, placed)
    write_mail(placed, copy=1)  # staff had it sent again
    assert f"Done: Confirmation sent to {MASKED}" in see(client, placed)


def test_a_shipped_order(client: Browser) -> None:
    placed = place()
    set_status(placed, "shipped")
    Order.objects.filter(pk=placed.pk).update(shipped_at=timezone.now())
    page = see(client, placed)
    assert "Your order has been shipped" in page
    assert "Done: Your order has left our house" in page
    assert "Cancel this order" not in page


# --- back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure_type", "step", "said"),
    [
        ("PaymentRefused", "process_payment", "The bank declined the payment."),
        ("OutOfStock", "reserve_inventory", "Something in it was sold out before we could set it aside."),
        ("OrderNotSellable", "create_order", "Something in it is no longer sold."),
        ("EmailRefused", "send_confirmation_email", f"could not be delivered to {MASKED}."),
        ("DeadlineExceeded", "process_payment", "It could not be completed in time."),
        ("ZeroDivisionError", "process_payment", words.OUR_FAULT),
    ],
)
def test_a_cancelled_order_says_why(client: Browser, failure_type: str, step: str, said: str) -> None:
    placed = place()
    turn_back(placed, "cancelled", failure_type, failed_step=step)
    write_trail(placed, (step, "failed"), error_type=failure_type, error="traceback")
    page = see(client, placed)
    assert f"{said} Nothing was charged." in page
    assert "Your order was cancelled" in page
    assert "Failed: " in page
    assert failure_type not in page


def test_a_declined_order_in_all_its_rows(client: Browser) -> None:
    placed = place()
    turn_back(placed, "cancelled", "PaymentRefused", failed_step="process_payment")
    write_trail(placed, *STEPS_DONE, ("process_payment", "failed"), error_type="PaymentRefused")
    write_trail(placed, ("refund_payment", "nothing_to_undo"), ("release_inventory", "done"))
    write_trail(placed, ("cancel_order", "done"), ("send_cancellation_email", "done"))
    write_mail(placed, EmailKind.CANCELLATION)
    Payment.objects.create(
        order=placed, amount=placed.total, currency="EUR", token="x", state=PaymentState.DECLINED
    )
    page = see(client, placed)
    rows = [
        "Failed: The bank declined the payment",
        "Done: Nothing was charged",
        "Done: Your items are back on sale",
        "Done: Your order is cancelled",
        f"Done: Cancellation sent to {MASKED}",
    ]
    places = [page.index(row) for row in rows]
    assert places == sorted(places)


@pytest.mark.parametrize(("actor", "said"), [(CUSTOMER, "You requested it."), ("ada", words.BY_SHOP)])
def test_a_refund_on_its_way_and_arrived(client: Browser, actor: str, said: str) -> None:
    placed = place()
    set_status(placed, "completed")
    write_trail(placed, *COMPLETE)
    payment = charge(placed)
    ask_to_cancel(placed, actor)
    page = see(client, placed)
    assert f"Your order is being cancelled {said} The refund of 400.00 EUR is on its way." in page
    assert "To come: Give back what was paid To come: Put your items back on sale" in page
    assert "Cancel this order" not in page

    refund(payment)
    write_trail(placed, ("refund_payment", "done"))
    page = see(client, placed)
    assert f"{said} 400.00 EUR refunded." in page
    assert "Done: 400.00 EUR refunded" in page
    assert "To come: Give back" not in page


def test_a_refund_settled_by_hand_and_one_made_twice_look_like_a_refund(client: Browser) -> None:
    placed = place()
    turn_back(placed, "cancelled")
    payment = charge(placed)
    refund(payment, EventKind.SETTLED_OUTSIDE)
    write_trail(placed, ("refund_payment", "resolved"), ("send_cancellation_email", "resolved"))
    page = see(client, placed)
    assert "400.00 EUR refunded. " in page
    assert "Done: 400.00 EUR refunded" in page
    assert f"Done: {words.TOLD_BY_HAND}" in page
    refund(payment)
    AttentionFlag.objects.raise_flag(placed.pk, "refunded_twice", "refunded twice")
    page = see(client, placed)
    assert "Your order was cancelled" in page
    assert "800.00" not in page
    assert "twice" not in page


def test_a_charge_in_flight_is_not_called_nothing(client: Browser) -> None:
    placed = place()
    turn_back(placed, "cancelling", "DeadlineExceeded")
    write_trail(placed, *STEPS_DONE, ("process_payment", "lost"))
    Payment.objects.create(order=placed, amount=placed.total, currency="EUR", token="x")
    page = see(client, placed)
    assert "Should the bank have taken 400.00 EUR, you get it back." in page
    assert "Nothing was charged" not in page
    assert "Failed: The payment did not go through" in page


@pytest.mark.parametrize(
    ("undo", "said"),
    [
        ("refund_payment", "Late: The refund has not gone through yet; we keep trying"),
        ("release_inventory", "Late: Your items are not back on sale yet; we keep trying"),
        ("send_cancellation_email", "Late: Our mail to you could not be sent yet; we keep trying"),
    ],
)
def test_a_stuck_order_says_that_somebody_looks_after_it(client: Browser, undo: str, said: str) -> None:
    placed = place()
    turn_back(placed, "cancelled" if undo == "send_cancellation_email" else "cancelling")
    charge(placed)
    write_trail(placed, *PAID, (undo, "failed"), error_type="RefundRefused", error="secret reason")
    assert words.LOOKED_AFTER not in see(client, placed)
    AttentionFlag.objects.raise_flag(placed.pk, undo, "secret reason")
    page = see(client, placed)
    assert said in page
    assert "The refund of 400.00 EUR is on its way. " + words.LOOKED_AFTER in page
    assert "secret reason" not in client.get(page_of(placed)).content.decode()


def test_an_order_nobody_works_on_says_that_somebody_looks_after_it(client: Browser, settings: Any) -> None:
    placed = place()
    assert words.LOOKED_AFTER not in see(client, placed)
    settings.OUTBOX_ATTENTION_AFTER = -1.0
    assert f"We are working on your order {words.LOOKED_AFTER}" in see(client, placed)
