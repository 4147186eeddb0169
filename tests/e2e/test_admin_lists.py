"""The admin's lists, and its product pages."""

import re
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone

from orders.admin.lists import format_age
from orders.models import AttentionFlag, CancelRequest, Order, OutboxMessage
from orders.services import Item
from payments.models import Payment, PaymentEvent
from tests.desk import LAPTOPS, place
from tests.e2e.doors import ADD, LIST, ROLLED_BACK, count_queries, log_in, page_of, set_status
from tests.e2e.rows import UNDOS, add_many, add_order, add_rolled_back, add_trail

# --- lists -----------------------------------------------------------------------------------------------


def list_found(browser: Browser, **parameters: str) -> list[int]:
    """The numbers of the orders that the list shows, in order."""
    answer = browser.get(LIST, parameters)
    assert answer.status_code == 200
    return [order.number for order in answer.context["cl"].result_list]


def read_column(browser: Browser, name: str) -> list[str]:
    """The texts of a column of the list, from the top."""
    page = browser.get(LIST).content.decode()
    cells = re.findall(rf'<t[dh] class="[^"]*\bfield-{name}\b[^"]*">(.*?)</t[dh]>', page, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", "", cell).replace("&nbsp;", "").split()) for cell in cells]


@pytest.mark.parametrize("address", [LIST, f"{LIST}?q=ada", ROLLED_BACK, f"{ROLLED_BACK}?by=saga&q=ada"])
def test_a_list_takes_the_same_number_of_queries_at_any_length(boss: Browser, address: str) -> None:
    add_many(10)
    short = count_queries(boss, address)
    add_many(990)
    assert count_queries(boss, address) == short


def test_a_long_list_has_pages_says_how_long_it_is_and_is_never_shown_whole(boss: Browser) -> None:
    add_many(1200)
    answer = boss.get(f"{LIST}?p=3")
    page = answer.content.decode()
    assert "1,200 orders, page 3 of 24" in page
    assert "Show all" not in page
    assert len(answer.context["cl"].result_list) == 50
    assert len(boss.get(f"{LIST}?all=").context["cl"].result_list) == 50


def test_the_pages_hold_every_order_once_newest_first(boss: Browser) -> None:
    add_many(120)
    numbers = [number for page in "123" for number in list_found(boss, p=page)]
    assert numbers == list(Order.objects.order_by("-accepted_at", "-number").values_list("number", flat=True))


# Search: each kind of word


@pytest.mark.parametrize(
    ("word", "finds"),
    [
        ("{number}", True),
        ("#{number}", True),
        ("grace@", True),
        ("GRACE", True),
        ("laptop", True),
        ("LAPTOP-14", True),
        ("ch_4711", True),
        ("ch_471", False),
        ("VOUCHER-1", True),
        ("VOUCHER", False),
        ("{pk}", True),
        ("order-{pk}-cancel", True),
        ("grace {number} laptop", True),
        ("grace mug", False),
        ("nobody", False),
        ("%", False),
        ("_", False),
        ("99999999999999999999999", False),
        ("\u0663", False),
        ("'; drop table", False),
        ("a b c d e f g", False),
        ("g r a c e @", True),
    ],
)
def test_search_finds_by_number_email_sku_payment_reference_and_id(
    boss: Browser, word: str, finds: bool
) -> None:
    wanted = place(LAPTOPS, email="grace@example.com")
    place(email="ada@example.com")
    payment = Payment.objects.create(
        order=wanted, amount=1, currency="EUR", token="tok_ok", charge_id="ch_4711"
    )
    PaymentEvent.objects.create(payment=payment, kind="charged", amount=1, reference="ch_4711")
    PaymentEvent.objects.create(payment=payment, kind="settled_outside", amount=-1, reference="VOUCHER-1")
    query = word.format(number=wanted.number, pk=wanted.pk)
    assert list_found(boss, q=query) == ([wanted.number] if finds else [])


def test_an_order_with_several_matching_lines_is_found_once(boss: Browser) -> None:
    order = place([Item("TEE-M", 1), Item("TEE-L", 1)])
    assert list_found(boss, q="TEE-") == [order.number]


def test_search_keeps_the_filters_and_says_how_many_it_found(boss: Browser) -> None:
    found = place(email="grace@example.com")
    shipped = place(email="grace@example.com")
    set_status(shipped, "shipped")
    page = boss.get(LIST, {"q": "grace", "status__exact": "pending"}).content.decode()
    assert "1 found." in page
    assert '<input type="hidden" name="status__exact" value="pending">' in page
    assert str(found.pk) in page
    assert str(shipped.pk) not in page
    assert "No order matches" in boss.get(LIST, {"q": "nobody"}).content.decode()


# Filters


def test_orders_are_filtered_by_status_and_attention(boss: Browser) -> None:
    stuck, fine, untold = place(), place(), place()
    OutboxMessage.objects.exclude(order=untold).update(delivered_at=timezone.now())
    OutboxMessage.objects.filter(order=untold).update(created_at=timezone.now() - timedelta(days=1))
    set_status(fine, "completed")
    AttentionFlag.objects.raise_flag(stuck.pk, "refund_payment", "refund_payment has failed 10 times")
    AttentionFlag.objects.raise_flag(fine.pk, "refund_payment", "it had")
    AttentionFlag.objects.clear_flag(fine.pk, "refund_payment")
    assert list_found(boss, attention="1") == [untold.number, stuck.number]
    assert list_found(boss, attention="0") == [fine.number]
    assert list_found(boss, status__exact="completed") == [fine.number]
    assert read_column(boss, "status_badge") == [
        "pending needs attention",
        "completed",
        "pending needs attention",
    ]


def test_the_saga_column_says_how_far_it_is_and_the_filter_finds_it(boss: Browser) -> None:
    running, completed, shipped = add_order("created"), add_order("completed"), add_order("shipped")
    add_trail(running, "create_order", "reserve_inventory", "process_payment")
    add_trail(running, "send_confirmation_email", state="failed")
    undone = add_rolled_back()
    untold = add_order("cancelled")
    add_trail(untold, *UNDOS[:-1])
    add_trail(untold, UNDOS[-1], state="failed")
    resolved = add_order("cancelled")
    add_trail(resolved, *UNDOS[:-1])
    add_trail(resolved, UNDOS[-1], state="resolved")
    stuck = add_order("cancelling")
    assert read_column(boss, "saga") == [
        "ROLLBACK INCOMPLETE",
        "rolled back",
        "ROLLBACK INCOMPLETE",
        "rolled back",
        "5/5",
        "5/5",
        "3/5",
    ]
    assert list_found(boss, saga="in_progress") == [running.number]
    assert list_found(boss, saga="completed") == [shipped.number, completed.number]
    assert list_found(boss, saga="rolled_back") == [resolved.number, undone.number]
    assert list_found(boss, saga="incomplete") == [stuck.number, untold.number]


def test_a_cancel_that_awaits_approval_stands_beside_the_status(boss: Browser) -> None:
    asked, decided = add_order("completed"), add_order("completed")
    somebody = User.objects.get()
    request = {"refund": 100, "reason": "damaged", "requested_by": somebody}
    CancelRequest.objects.create(order=asked, **request)
    CancelRequest.objects.create(order=decided, state="rejected", decided_at=timezone.now(), **request)
    assert list_found(boss, saga="awaiting_approval") == [asked.number]
    assert read_column(boss, "status_badge") == ["completed", "completed awaiting approval"]


def test_orders_are_filtered_by_failed_step_and_a_cancel_is_no_failure(boss: Browser) -> None:
    failed = add_order("cancelled", failed_step="process_payment", failure_type="PaymentRefused")
    cancelled = add_order("cancelled", failed_step="process_payment", failure_type="CancelRequested")
    assert list_found(boss, failed_step="process_payment") == [failed.number]
    assert list_found(boss, failed_step="cancelled") == [cancelled.number]
    assert list_found(boss, failed_step="create_order") == []
    assert read_column(boss, "failure_at") == ["none: cancelled", "process_payment"]


def test_orders_are_filtered_by_total_in_bands_that_leave_no_gap(boss: Browser) -> None:
    bands = {
        "under-50": ["49.99"],
        "50-200": ["50.00", "199.99"],
        "200-1000": ["200", "999.99"],
        "from-1000": ["1000"],
    }
    expected = {
        band: [add_order(total=Decimal(total)).number for total in totals] for band, totals in bands.items()
    }
    assert {band: sorted(list_found(boss, amount=band)) for band in bands} == expected


def test_orders_are_filtered_by_date_and_by_the_date_hierarchy(boss: Browser) -> None:
    now = timezone.localtime()
    today, old = add_order(), add_order(accepted_at=now - timedelta(days=400))
    page = boss.get(LIST).content.decode()
    past_week = re.search(r'href="\?(accepted_at__gte=[^"]*)">Past 7 days', page)
    assert past_week
    answer = boss.get(f"{LIST}?{past_week[1].replace('&amp;', '&')}")
    assert [order.number for order in answer.context["cl"].result_list] == [today.number]
    then = timezone.localtime(old.accepted_at)
    assert f'href="?accepted_at__year={then.year}"' in page
    day = {"accepted_at__year": then.year, "accepted_at__month": then.month, "accepted_at__day": then.day}
    assert list_found(boss, **{name: str(value) for name, value in day.items()}) == [old.number]


def test_the_age_is_short_and_the_exact_time_behind_it(boss: Browser) -> None:
    accepted_at = timezone.now() - timedelta(days=12, hours=3)
    add_order(accepted_at=accepted_at)
    assert read_column(boss, "age") == ["12 d"]
    assert f'datetime="{timezone.localtime(accepted_at).isoformat()}"' in boss.get(LIST).content.decode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (10_800, "3 h"),
        (1_036_800, "12 d"),
    ],
)
def test_an_age_is_given_in_its_largest_unit(seconds: int, text: str) -> None:
    assert format_age(timedelta(seconds=seconds)) == text


def test_what_customers_write_is_escaped(boss: Browser) -> None:
    add_order("cancelled", customer_email="<b>x</b>@example.com", failed_step="<i>", failure_type="<u>")
    for address in (LIST, ROLLED_BACK):
        page = boss.get(address).content.decode()
        assert not re.search("<b>x|<i>|<u>", page)


def test_the_index_and_the_order_list_lead_to_the_rolled_back_orders(boss: Browser) -> None:
    assert f'href="{ROLLED_BACK}"' in boss.get("/admin/").content.decode()
    assert f'href="{ROLLED_BACK}"' in boss.get(LIST).content.decode()
    assert b"No order has been rolled back" in boss.get(ROLLED_BACK).content


def test_an_unknown_order_is_not_found(boss: Browser) -> None:
    assert boss.get(f"{LIST}{uuid4()}/change/").status_code == 404
    assert boss.get(f"{LIST}nonsense/change/").status_code == 404


def test_no_page_carries_inline_script_or_style(boss: Browser) -> None:
    order = place()
    confirm = boss.post(LIST, {"action": "cancel_selected", "_selected_action": [order.pk]})
    pages = [boss.get(address) for address in (LIST, ROLLED_BACK, ADD, page_of(order), "/admin/")]
    for response in [*pages, confirm]:
        page = response.content.decode()
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)[^>]*>\s*[^\s<]|\sstyle=|\son\w+=", page)


# --- senseless addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        f"{LIST}?status__exact=%00",
        f"{LIST}?saga=nonsense",
        f"{LIST}?attention=2",
        f"{LIST}?amount=%00",
        f"{LIST}?accepted_at__year=2026&accepted_at__month=13",
        f"{LIST}?accepted_at__gte=x",
        f"{ROLLED_BACK}?by=%27",
        f"{ROLLED_BACK}?failed_step=%00",
        f"{ROLLED_BACK}?rollback_started_at__year=99999",
        "/admin/orders/orderaction/?at__year=99999999999999",
    ],
)
def test_senseless_parameters_lead_back_to_the_whole_list(boss: Browser, address: str) -> None:
    answer = boss.get(address, follow=True)
    assert answer.status_code == 200
    assert answer.redirect_chain


@pytest.mark.parametrize("query", ["saga=zz", "accepted_at__year=99999999999", "status__exact=%00", "q=%00"])
@pytest.mark.parametrize("action", ["cancel_selected", "nonsense", ""])
def test_an_action_on_a_list_with_senseless_parameters_is_answered_as_the_list_is(
    boss: Browser, query: str, action: str
) -> None:
    chosen = {"action": action, "_selected_action": [place().pk], "index": "0"} if action else {}
    asked = boss.get(f"{LIST}?{query}", follow=True)
    answer = boss.post(f"{LIST}?{query}", chosen, follow=True)
    said = [str(message) for message in asked.context["messages"]]
    assert said == ["The address had parameters that make no sense; this is the whole list."]
    assert [str(message) for message in answer.context["messages"]] == said
    assert answer.redirect_chain == asked.redirect_chain == [(LIST, 302)]
    assert boss.head(f"{LIST}?{query}").status_code == 302


def test_without_the_permission_an_action_is_forbidden_whatever_the_parameters(counter: None) -> None:
    clerk = log_in("clerk", "add_order")
    chosen = {"action": "cancel_selected", "_selected_action": [place().pk]}
    assert clerk.post(f"{LIST}?saga=zz", chosen).status_code == 403


@pytest.mark.parametrize(
    "query",
    [
        "q=%00",
        "q=%ED%A0%80",
        "o=99.-1.x",
        "p=x",
        "p=99999999999999999999",
        "failure_type=x",
        "e=1",
        "days=x",
        "accepted_at__month=5",
        "client=x",
        "q=" + "a+" * 2000,
    ],
)
def test_parameters_that_change_nothing_still_give_the_list(boss: Browser, query: str) -> None:
    for address in (LIST, ROLLED_BACK):
        assert boss.get(f"{address}?{query}", follow=True).status_code == 200


@pytest.mark.parametrize("action", ["cancel_selected", "ship_selected"])
def test_garbled_selection_is_refused(boss: Browser, action: str) -> None:
    answer = boss.post(LIST, {"action": action, "_selected_action": ["garbage"]}, follow=True)
    assert b"Select the orders first" in answer.content
