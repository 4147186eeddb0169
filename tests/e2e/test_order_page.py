"""The page of an order over HTTP: what each state shows, and how much it asks the database."""

import re
from datetime import timedelta
from html import unescape

import pytest
from django.test import Client as Browser
from django.utils import timezone

from inventory.models import Hold, Product
from notifications.models import EmailKind
from orders.models import (
    STEPS,
    AttentionFlag,
    CancelRequest,
    Order,
    OrderAction,
    OrderLine,
    StepKind,
    StepState,
    TrailEntry,
)
from tests.desk import place
from tests.e2e.doors import count_queries, log_in, make_user, page_of, set_status
from tests.e2e.order_page import (
    MAILS,
    ask_to_cancel,
    charge,
    live_of,
    make_stuck,
    read,
    read_offers,
    read_rows,
    read_status,
    write_mail,
    write_trail,
)

# --- what each state shows ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "trail", "line"),
    [
        ("pending", [], "pending 0 of 5 steps are done."),
        ("created", [("create_order", "done")], "created 1 of 5 steps are done."),
        ("completed", [], "completed All steps are done."),
        ("shipped", [], "shipped All steps are done, and the order has left the house."),
        (
            "cancelling",
            [("reserve_inventory", "done"), ("release_inventory", "done")],
            "cancelling Rolling back: 1 of 3 undos are done.",
        ),
        (
            "cancelling",
            [("process_payment", "done"), ("refund_payment", "failed")],
            "ROLLBACK INCOMPLETE “Refund the payment” has not succeeded yet.",
        ),
        (
            "cancelled",
            [("send_cancellation_email", "failed")],
            "ROLLBACK INCOMPLETE “Tell the customer” has not succeeded yet.",
        ),
        (
            "cancelled",
            [("send_cancellation_email", "done")],
            "cancelled Rolled back: whatever had been done is undone, and the customer has been told.",
        ),
    ],
)
def test_the_status_line_says_where_the_saga_stands(
    boss: Browser, status: str, trail: list[tuple[str, str]], line: str
) -> None:
    order = place()
    set_status(order, status)
    if trail:
        write_trail(order, *trail)
    assert read_status(read(boss, order)) == line


def test_an_undo_of_which_every_attempt_timed_out_is_an_incomplete_rollback(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelling")
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "refund_payment has failed 10 times")
    page = read(boss, order)
    assert "ROLLBACK INCOMPLETE" in read_status(page)
    assert "Retry now: refund the payment" in read_offers(page)


def test_a_running_order_that_is_asked_to_turn_back_says_so(boss: Browser) -> None:
    order = place()
    set_status(order, "created")
    Order.objects.filter(pk=order.pk).update(cancel_requested_at=timezone.now())
    page = read(boss, order)
    assert "A cancel was asked for" in read_status(page)
    assert "Cancel this order" not in read_offers(page)
    assert "waiting" not in dict(read_rows(page)).values()


def test_steps_still_to_come_are_shown_as_waiting(boss: Browser) -> None:
    order = place()
    write_trail(order, ("create_order", StepState.DONE), ("reserve_inventory", StepState.RUNNING))
    states = ["done", "running", "waiting", "waiting", "waiting"]
    page = read(boss, order)
    assert read_rows(page) == list(zip(STEPS, states, strict=True))
    assert "data-live-since" in page


def test_undos_still_due_are_shown_as_waiting_in_the_order_they_run(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelling")
    write_trail(order, ("create_order", "done"), ("reserve_inventory", "done"), ("process_payment", "failed"))
    assert read_rows(read(boss, order))[3:] == [
        ("refund_payment", "waiting"),
        ("release_inventory", "waiting"),
        ("cancel_order", "waiting"),
        ("send_cancellation_email", "waiting"),
    ]


def test_an_ended_order_waits_for_nothing(boss: Browser) -> None:
    completed, cancelled = place(), place()
    set_status(completed, "completed")
    set_status(cancelled, "cancelled")
    write_trail(completed, ("create_order", "done"))
    write_trail(cancelled, ("send_cancellation_email", "nothing_to_undo"))
    assert read_rows(read(boss, completed)) == [("create_order", "done")]
    assert read_rows(read(boss, cancelled)) == [("send_cancellation_email", "nothing to undo")]


def test_a_failure_tells_its_error_its_attempts_and_when_it_is_tried_again(boss: Browser) -> None:
    order = make_stuck()
    retry_at = timezone.now() + timedelta(seconds=30)
    TrailEntry.objects.update(attempts=7, retry_at=retry_at, ms=61_500, worker="worker-9@vm")
    page = read(boss, order)
    assert "The payment gateway did not answer as it should: no verdict" in page
    assert "<code>GatewayUnavailable</code>" in page
    assert "7 attempts" in page
    assert "took 1 min 1 s" in page
    assert "worker-9@vm" in page
    assert f'data-live-until="{retry_at.isoformat()}"' in page

    # A step of an order that turns back is not tried again, whatever it was waiting for.
    TrailEntry.objects.update(kind=StepKind.STEP, name="process_payment")
    assert "data-live-until" not in read(boss, order)


def test_a_success_keeps_the_error_before_it(boss: Browser) -> None:
    order = place()
    write_trail(order, ("process_payment", "done"), error_type="OutOfStock", error="three left", attempts=2)
    assert "Before that: There was not enough stock: three left" in read(boss, order)


def test_an_error_of_an_unknown_kind_and_a_step_without_words_are_shown_as_they_are(boss: Browser) -> None:
    order = place()
    write_trail(order, ("book_courier", "failed"), error_type="Strange", error="x" * 500)
    page = read(boss, order)
    assert "<strong>Book courier</strong>" in page
    assert "<code>Strange</code>" in page
    assert f"<pre>{'x' * 500}</pre>" in page


def test_the_plan_tells_what_has_become_of_each_step(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelled")
    write_trail(
        order,
        ("create_order", "done"),
        ("reserve_inventory", "done"),
        ("process_payment", "failed"),
        ("refund_payment", "nothing_to_undo"),
        ("release_inventory", "resolved"),
        ("cancel_order", "done"),
        ("send_cancellation_email", "done"),
    )
    assert re.findall(r'od-stage-state">([\w ]+)<', read(boss, order)) == [
        "undone",
        "resolved by hand",
        "failed",
        "not run",
        "not run",
    ]


def test_facts_reasons_and_history_are_all_there(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelled")
    Order.objects.filter(pk=order.pk).update(
        failed_step="process_payment", failure_type="PaymentRefused", failure="no funds"
    )
    charge(order)
    Hold.objects.create(order=order, product=Product.objects.get(sku="MUG-STONE"), quantity=4)
    mail = write_mail(order, EmailKind.CANCELLATION, copy=1)
    AttentionFlag.objects.raise_flag(order.pk, "refunded_twice", "400.00 EUR was refunded by the gateway")
    OrderAction.objects.create(
        order=order,
        kind="resolve_undo",
        undo="refund_payment",
        actor="grace",
        reason="by bank",
        reference="T-1",
    )
    asked = ask_to_cancel(order, make_user("ada"))
    CancelRequest.objects.filter(pk=asked.pk).update(
        state="rejected", decided_by=make_user("linus"), decided_at=timezone.now(), note="keep it"
    )
    page = read(boss, order)
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))
    assert "Take the payment process_payment : The payment was declined: no funds PaymentRefused" in text
    assert f"order-{order.pk}" in page
    assert "Refunded twice: 400.00 EUR was refunded by the gateway" in text
    assert "Stoneware mug MUG-STONE 4 held" in text
    assert f'href="{MAILS}{mail.pk}/change/"' in page
    assert "cancellation, sent again by a person" in text
    assert "grace Resolved by hand: Refund the payment resolve_undo refund_payment by bank T-1" in text
    assert re.search(r"ada wrong colour 400\.00 EUR rejected .* by linus keep it", text)


def test_whatever_people_and_gateways_say_is_escaped(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelling")
    evil = "<script>alert(1)</script>"
    Order.objects.filter(pk=order.pk).update(failure=evil, failed_step=evil, failure_type=evil)
    OrderLine.objects.filter(order=order).update(name=evil)
    write_trail(order, ("refund_payment", "failed"), error=evil * 20, error_type=evil, worker=evil)
    AttentionFlag.objects.raise_flag(order.pk, evil, evil)
    OrderAction.objects.create(order=order, kind="cancel_order", actor=evil, reason=evil, reference=evil)
    ask_to_cancel(order, make_user(evil))
    write_mail(order, subject=evil)
    for answer in (boss.get(page_of(order)), boss.get(live_of(order))):
        assert b"<script>alert" not in answer.content
        assert b"&lt;script&gt;alert" in answer.content


# --- one page for every order ---------------------------------------------------------------------------


def test_the_page_asks_as_few_questions_however_long_the_story(counter: None) -> None:
    order = make_stuck()
    charge(order)
    write_mail(order)
    products = list(Product.objects.exclude(sku__in=order.lines.values("sku")))
    Hold.objects.create(order=order, product=products.pop(), quantity=1)
    staff = log_in("staff", "view_order", "retry_undo", "cancel_order", "resend_email", "view_emailmessage")
    addresses = [page_of(order), live_of(order)]
    before = [count_queries(staff, address) for address in addresses]
    write_trail(order, *[("reserve_inventory", StepState.LOST)] * 20)
    OrderLine.objects.bulk_create(
        OrderLine(order=order, sku=each.sku, name=each.name, unit_price=each.price, quantity=1)
        for each in products
    )
    Hold.objects.bulk_create(Hold(order=order, product=each, quantity=1) for each in products)
    for copy in range(1, 6):
        write_mail(order, copy=copy)
        OrderAction.objects.create(order=order, kind="retry_undo", actor="ada", undo="refund_payment")
        AttentionFlag.objects.raise_flag(order.pk, f"finding_{copy}", "look at it")
        asked = ask_to_cancel(order, make_user(f"asker-{copy}"))
        CancelRequest.objects.filter(pk=asked.pk).update(state="withdrawn", decided_at=timezone.now())
    assert [count_queries(staff, address) for address in addresses] == before
    assert max(before) < 20


def test_pages_hold_no_script_and_no_style_of_their_own(boss: Browser) -> None:
    order = make_stuck()
    mail = write_mail(order)
    for address in (page_of(order), live_of(order), f"{MAILS}{mail.pk}/change/"):
        page = boss.get(address).content.decode()
        assert re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page) == []
        assert "<style" not in page
        assert re.findall(r"<[^>]*\s(?:style|on[a-z]+)=[^>]*>", page) == []
        assert "javascript:" not in page
