"""The page of the rollbacks: what was undone, why, by whom, how long it took, and the charts above it."""

import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone

from inventory.models import Hold, Product
from orders import statistics
from orders.admin import charts
from orders.admin.lists import format_duration
from orders.models import CUSTOMER, AttentionFlag, CancelRequest, Order, OrderAction
from payments.models import Payment, PaymentEvent
from tests.e2e.doors import LIST, ROLLED_BACK, log_in, make_user, page_of
from tests.e2e.rows import UNDOS, add_order, add_rolled_back, add_trail


def list_found(browser: Browser, **parameters: str) -> list[int]:
    answer = browser.get(ROLLED_BACK, parameters)
    assert answer.status_code == 200
    return [order.number for order in answer.context["cl"].result_list]


def read_row(browser: Browser, order: Order) -> dict[str, str]:
    """The cells of the order's row as texts, by column."""
    page = browser.get(ROLLED_BACK, {"q": str(order.pk)}).content.decode()
    cells = re.findall(r'<t[dh] class="[^"]*field-(\w+)[^"]*">(.*?)</t[dh]>', page, re.DOTALL)
    return {
        name: " ".join(re.sub(r"<[^>]+>", " ", cell).replace("&nbsp;", "").split()) for name, cell in cells
    }


def noon(days_ago: int) -> datetime:
    """Noon, local time, so many days ago."""
    return timezone.localtime().replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)


def fail(days_ago: int, *, step: str, error: str = "OutOfStock", seconds: int | None = 2) -> Order:
    """An order that was rolled back within so many seconds, or is being rolled back still."""
    fields: dict[str, Any] = {
        "accepted_at": noon(days_ago),
        "failed_step": step,
        "failure_type": error,
        "failure": "it failed",
    }
    if seconds is None:
        return add_order("cancelling", **fields)
    return add_rolled_back(took=timedelta(seconds=seconds), **fields)


# --- the list --------------------------------------------------------------------------------------------


def test_a_row_says_what_failed_why_what_was_given_back_and_how_long_it_took(boss: Browser) -> None:
    order = add_rolled_back(
        took=timedelta(minutes=3, seconds=5),
        failed_step="process_payment",
        failure_type="PaymentRefused",
        failure="insufficient funds",
    )
    payment = Payment.objects.create(order=order, amount=100, currency="EUR", token="tok_ok")
    PaymentEvent.objects.create(payment=payment, kind="charged", amount=100)
    PaymentEvent.objects.create(payment=payment, kind="refunded", amount=Decimal("-60.00"))
    PaymentEvent.objects.create(payment=payment, kind="settled_outside", amount=Decimal("-40.00"))
    mug, lamp, *_ = Product.objects.all()
    Hold.objects.create(order=order, product=mug, quantity=2, state="released")
    Hold.objects.create(order=order, product=lamp, quantity=1, state="settled_by_hand")
    row = read_row(boss, order)
    assert row["number"] == str(order.number)
    assert row["rollback_badge"] == "rolled back"
    assert row["failed_with"] == "process_payment PaymentRefused"
    assert row["cause"] == "insufficient funds"
    assert row["triggered_by"] == "the saga"
    assert row["given_back"] == "100.00 EUR 3 units"
    assert row["began"].endswith("took 3 min 5 s")


def test_a_rollback_is_incomplete_until_the_customer_is_told(boss: Browser) -> None:
    order = add_order("cancelled", accepted_at=timezone.now() - timedelta(minutes=3, seconds=30))
    add_trail(order, *UNDOS[:-1])
    AttentionFlag.objects.raise_flag(order.pk, "send_cancellation_email", "it has failed 10 times")
    row = read_row(boss, order)
    assert row["rollback_badge"] == "ROLLBACK INCOMPLETE needs attention"
    assert row["began"].endswith("still open since 3 min")
    add_trail(order, UNDOS[-1], state="resolved")
    assert " took 3 min " in read_row(boss, order)["began"]


def test_a_row_says_who_began_the_rollback_and_the_filter_finds_it(boss: Browser) -> None:
    customer, clerk = make_user("grace"), make_user("ada", staff=True)
    asked = {"failure_type": "CancelRequested", "placed_by": customer}
    by_customer, by_staff, approved, by_temporal = (add_order("cancelling", **asked) for _ in range(4))
    OrderAction.objects.create(order=by_customer, kind="cancel_order", actor="grace", reason="too late")
    in_the_shop = add_order("cancelling", failure_type="CancelRequested")
    OrderAction.objects.create(order=in_the_shop, kind="cancel_order", actor=CUSTOMER, reason="regrets")
    OrderAction.objects.create(order=by_staff, kind="cancel_order", actor="ada", reason="damaged")
    CancelRequest.objects.create(
        order=approved,
        state="approved",
        refund=100,
        reason="lost",
        requested_by=clerk,
        decided_by=User.objects.get(username="boss"),
        decided_at=timezone.now(),
    )
    OrderAction.objects.create(order=approved, kind="cancel_order", actor="boss", reason="approved")
    failed = add_order(
        "cancelling", failed_step="create_order", failure_type="OrderNotSellable", placed_by=customer
    )
    OrderAction.objects.create(order=failed, kind="cancel_order", actor="grace", reason="came too late")
    said = {order.number: read_row(boss, order)["triggered_by"] for order in Order.objects.all()}
    assert said == {
        by_customer.number: "the customer too late",
        in_the_shop.number: "the customer regrets",
        by_staff.number: "ada damaged",
        approved.number: "ada, approved by boss lost",
        by_temporal.number: "a cancel in Temporal",
        failed.number: "the saga",
    }
    assert sorted(list_found(boss, by="customer")) == [by_customer.number, in_the_shop.number]
    assert sorted(list_found(boss, by="person")) == [by_staff.number, approved.number, by_temporal.number]
    assert list_found(boss, by="saga") == [failed.number]


def test_rollbacks_are_filtered_searched_and_in_the_order_they_began(boss: Browser) -> None:
    add_order("completed")
    old = fail(60, step="process_payment", error="PaymentRefused")
    stuck = fail(2, step="reserve_inventory", seconds=None)
    done = fail(1, step="reserve_inventory")
    assert list_found(boss) == [done.number, stuck.number, old.number]
    assert list_found(boss, rollback="rolled_back") == [done.number, old.number]
    assert list_found(boss, rollback="incomplete") == [stuck.number]
    assert list_found(boss, failed_step="process_payment") == [old.number]
    assert list_found(boss, failure_type="OutOfStock") == [done.number, stuck.number]
    assert list_found(boss, q=str(stuck.number)) == [stuck.number]
    then = timezone.localtime(old.rollback_started_at)
    assert list_found(
        boss, rollback_started_at__year=str(then.year), rollback_started_at__month=str(then.month)
    ) == [old.number]
    assert ">PaymentRefused</a>" in boss.get(ROLLED_BACK).content.decode()


def test_a_row_leads_to_the_order_s_page(boss: Browser) -> None:
    order = add_rolled_back()
    assert f'href="{page_of(order)}' in boss.get(ROLLED_BACK).content.decode()
    assert boss.get(f"{ROLLED_BACK}{order.pk}/change/").headers["Location"] == page_of(order)


def test_rollbacks_are_for_those_who_may_see_orders(counter: None) -> None:
    viewer, stranger = log_in("viewer", "view_order"), log_in("stranger", "view_rollback")
    assert viewer.get(ROLLED_BACK).status_code == 200
    assert stranger.get(ROLLED_BACK).status_code == 403
    assert f'href="{ROLLED_BACK}"' in viewer.get("/admin/orders/").content.decode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (185, "3 min 5 s"),
        (7_800, "2 h 10 min"),
        (86_400, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_is_given_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


# --- the charts ------------------------------------------------------------------------------------------


def test_the_charts_count_what_happened_on_each_day(boss: Browser) -> None:
    for step in ("process_payment", "process_payment", "reserve_inventory"):
        fail(3, step=step)
    fail(3, step="process_payment", error="CancelRequested")
    fail(1, step="begin_rollback", error="Error")
    fail(40, step="process_payment")
    counts, *_ = charts.draw_charts(30).charts
    assert counts.columns == ["reserve_inventory", "process_payment", "cancelled", "other", "all"]
    rows = dict(counts.rows)
    assert len(rows) == 30
    day = charts.format_day
    assert rows.pop(day(noon(3).date())) == ["1", "2", "1", "0", "4"]
    assert rows.pop(day(noon(1).date())) == ["0", "0", "0", "1", "1"]
    assert set(map(tuple, rows.values())) == {("0", "0", "0", "0", "0")}
    assert "5 in all: reserve_inventory 1, process_payment 2, cancelled 1, other 1." in counts.description
    assert len(charts.draw_charts(90).charts[0].rows) == 90
    assert charts.draw_charts(90).charts[0].headline == "6 rollbacks"


def test_the_share_is_of_the_orders_accepted_that_day() -> None:
    assert statistics.Share(0, 0).percent == 0
    assert statistics.Share(8, 2).percent == 25


def test_orders_are_counted_by_the_day_they_were_accepted(counter: None) -> None:
    for status in ("completed", "completed", "shipped"):
        add_order(status, accepted_at=noon(2))
    fail(2, step="create_order")
    add_order("completed", accepted_at=noon(0))
    _, shares, _ = charts.draw_charts(7).charts
    rows = dict(shares.rows)
    assert rows[charts.format_day(noon(2).date())] == ["4", "1", "25.0 %"]
    assert rows[charts.format_day(noon(0).date())] == ["1", "0", "0.0 %"]
    assert rows[charts.format_day(noon(1).date())] == ["0", "0", "0.0 %"]
    assert shares.headline == "20.0 % of 5 orders"


def test_durations_are_interpolated_percentiles_of_the_complete_rollbacks(counter: None) -> None:
    for seconds in (10, 20, 30, 40, 50):
        fail(2, step="create_order", seconds=seconds)
    fail(1, step="create_order", seconds=100)
    fail(2, step="create_order", seconds=None)
    by_day, overall = statistics.measure_rollbacks(noon(6).date())
    assert by_day == {
        noon(2).date(): statistics.Durations(5, timedelta(seconds=30), timedelta(seconds=48)),
        noon(1).date(): statistics.Durations(1, timedelta(seconds=100), timedelta(seconds=100)),
    }
    assert (overall.count, overall.p50) == (6, timedelta(seconds=35))


def test_a_day_begins_at_midnight_where_the_shop_is(counter: None, settings: Any) -> None:
    settings.TIME_ZONE = "Pacific/Auckland"
    midnight = datetime(2026, 3, 2, tzinfo=ZoneInfo("Pacific/Auckland"))
    for moment in (midnight - timedelta(seconds=1), midnight):
        add_rolled_back(accepted_at=moment, rollback_started_at=moment, failed_step="create_order")
    first, second = date(2026, 3, 1), date(2026, 3, 2)
    assert statistics.count_rollbacks(first) == {first: {"create_order": 1}, second: {"create_order": 1}}
    assert statistics.count_rollbacks(second) == {second: {"create_order": 1}}
    assert set(statistics.count_orders(first)) == {first, second}
    assert set(statistics.measure_rollbacks(first)[0]) == {first, second}


def test_bars_are_stacked_to_the_day_s_count(counter: None) -> None:
    for step in ("create_order", "process_payment", "process_payment", "process_payment"):
        fail(0, step=step)
    bars = charts.draw_charts(7).charts[0].bars
    assert [bar.text.split(": ")[1] for bar in bars] == ["1 create_order", "3 process_payment"]
    low, high = bars
    field = charts.BOTTOM - charts.TOP
    assert float(low.height) == pytest.approx(field / 4)
    assert float(high.height) == pytest.approx(field * 3 / 4)
    assert float(low.y) == pytest.approx(charts.BOTTOM - field / 4)
    assert float(high.y) == pytest.approx(charts.TOP)
    assert float(high.x) + float(high.width) <= charts.RIGHT


def test_the_charts_are_described_in_words_and_followed_by_their_numbers(boss: Browser) -> None:
    fail(1, step="process_payment")
    page = boss.get(ROLLED_BACK).content.decode()
    for slug in ("rollbacks-by-step", "share-rolled-back", "time-to-roll-back"):
        assert f'<svg role="img" aria-labelledby="{slug}-title {slug}-description"' in page
        assert f'<title id="{slug}-title">' in page
        assert f'<desc id="{slug}-description">' in page
    assert page.count("<summary>The numbers as a table</summary>") == 3
    assert not re.search(r"\sstyle=|<style|\son\w+=", page)


def test_without_a_rollback_the_charts_say_so(boss: Browser) -> None:
    page = boss.get(ROLLED_BACK).content.decode()
    assert page.count("Nothing to show for this period.") == 3
    assert "<svg role" not in page
    assert "No order has been rolled back." in page


def test_the_period_is_chosen_beside_the_filters_and_changes_none_of_them(boss: Browser) -> None:
    recent, old = fail(1, step="process_payment"), fail(60, step="process_payment")
    page = boss.get(f"{ROLLED_BACK}?failed_step=process_payment&days=90").content.decode()
    assert "The last 90 days" in page
    assert 'href="?failed_step=process_payment&amp;days=7"' in page
    assert '<input type="hidden" name="days" value="90">' in page
    assert list_found(boss, days="7", failed_step="process_payment") == [recent.number, old.number]


@pytest.mark.parametrize("days", ["", "x", "0", "-1", "31", "9" * 40, "\x00", "90 "])
def test_a_period_there_is_not_is_the_usual_one(boss: Browser, days: str) -> None:
    answer = boss.get(ROLLED_BACK, {"days": days})
    assert answer.status_code == 200
    assert "The last 30 days" in answer.content.decode()


def test_the_order_list_knows_no_period(boss: Browser) -> None:
    assert boss.get(f"{LIST}?days=7", follow=True).redirect_chain == [(LIST, 302)]
