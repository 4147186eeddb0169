"""The export of the order list: what is in it, who may have it, and what a spreadsheet makes of it."""

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import DataError, connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orders.admin import lists
from orders.admin.lists import defuse
from payments.models import Payment, PaymentEvent
from tests.e2e.doors import LIST, log_in
from tests.e2e.rows import add_many, add_order, add_rolled_back, add_trail

EXPORT = f"{LIST}export/"


def read_export(browser: Browser, **parameters: Any) -> list[dict[str, str]]:
    response = browser.get(EXPORT, parameters)
    assert response.status_code == 200
    assert response.streaming
    return list(csv.DictReader(io.StringIO(response.getvalue().decode("utf-8"), newline="")))


def test_the_export_holds_what_is_known_of_each_order_in_the_list_s_order(
    boss: Browser, settings: Any
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    begun = timezone.now().replace(microsecond=0)
    running = add_order("created", accepted_at=begun - timedelta(hours=1))
    add_trail(running, "create_order", "reserve_inventory")
    undone = add_rolled_back(accepted_at=begun, failed_step="process_payment", failure_type="PaymentRefused")
    payment = Payment.objects.create(order=undone, amount=100, currency="EUR", token="tok_ok")
    PaymentEvent.objects.create(payment=payment, kind="charged", amount=100)
    PaymentEvent.objects.create(payment=payment, kind="refunded", amount=Decimal("-100.00"))
    first, second = read_export(boss)
    berlin = ZoneInfo("Europe/Berlin")
    assert first == {
        "number": str(undone.number),
        "id": str(undone.pk),
        "accepted at": begun.astimezone(berlin).isoformat(),
        "status": "cancelled",
        "saga": "rolled back",
        "customer": "ada@example.com",
        "currency": "EUR",
        "total": "100.00",
        "refunded": "100.00",
        "failed step": "process_payment",
        "failure type": "PaymentRefused",
        "completed at": "",
        "shipped at": "",
        "rolled back at": (begun + timedelta(seconds=3)).astimezone(berlin).isoformat(),
    }
    assert (second["number"], second["saga"], second["refunded"]) == (str(running.number), "2/5", "0.00")


def test_the_export_is_filtered_searched_and_sorted_as_the_list_that_links_to_it(boss: Browser) -> None:
    small = add_order("completed", total=Decimal(10), customer_email="grace@example.com")
    large = add_order("completed", total=Decimal(20), customer_email="grace@example.com")
    add_order("completed", customer_email="ada@example.com")
    add_order("pending", customer_email="grace@example.com")
    by_total = str(list(boss.get(LIST).context["cl"].list_display).index("total_with_currency"))
    parameters = {"o": by_total, "q": "grace", "status__exact": "completed"}
    listed = boss.get(LIST, parameters)
    assert f"export/?o={by_total}&amp;q=grace&amp;status__exact=completed" in listed.content.decode()
    rows = read_export(boss, **parameters)
    assert [row["id"] for row in rows] == [str(small.pk), str(large.pk)]
    assert [order.pk for order in listed.context["cl"].result_list] == [small.pk, large.pk]


def test_the_export_streams_and_takes_the_same_number_of_queries_at_any_length(
    boss: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    def count_queries() -> int:
        with CaptureQueriesContext(connection) as queries:
            read_export(boss)
        return len(queries)

    caplog.set_level("INFO")
    add_many(10)
    count_queries()  # what this process looks up once is not of the export
    short = count_queries()
    add_many(990)
    assert count_queries() == short
    assert caplog.messages[-1] == "boss exported 1000 orders"


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+49@example.com",
        "-1@example.com",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        '"=1',
        "';=1",
        ",=1",
        " =1",
        "\uff1d1",
    ],
)
def test_no_cell_is_taken_for_a_formula(cell: str) -> None:
    assert defuse(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["", "ada@example.com", "3/5", "rolled back", "a=b", "2026-01-01T00:00:00+00:00"]
)
def test_a_harmless_cell_stays_as_it_is(cell: str) -> None:
    assert defuse(cell) == cell


def test_what_customers_and_gateways_say_is_quoted_and_defused(boss: Browser) -> None:
    add_order(
        "cancelled",
        customer_email="=cmd|'/c calc'!A1@example.com",
        failure_type='Bad", ="worse"\r\nstill',
    )
    (row,) = read_export(boss)
    assert row["customer"] == "'=cmd|'/c calc'!A1@example.com"
    assert row["failure type"] == 'Bad", ="worse"\r\nstill'


def test_the_export_is_a_file_with_the_date_in_its_name(boss: Browser) -> None:
    response = boss.get(EXPORT)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    today = timezone.localdate().isoformat()
    assert response.headers["Content-Disposition"] == f'attachment; filename="orders-{today}.csv"'
    assert response.getvalue().decode().startswith("number,id,accepted at,")


def test_only_who_may_see_orders_may_export_them(counter: None) -> None:
    assert log_in("clerk", "add_order").get(EXPORT).status_code == 403
    assert log_in("viewer", "view_order").get(EXPORT).status_code == 200
    assert Browser().get(EXPORT).status_code == 302


@pytest.mark.parametrize(
    "query",
    ["status__exact=%00", "saga=nonsense", "accepted_at__year=99999", "total__gte=x", "nonsense=1", "q=%00"],
)
def test_bad_filters_lead_back_to_the_list_with_its_message(boss: Browser, query: str) -> None:
    answer = boss.get(f"{EXPORT}?{query}", follow=True)
    assert answer.redirect_chain == [(f"{LIST}?{query}", 302), (LIST, 302)]
    assert b"parameters that make no sense" in answer.content


def test_an_export_that_breaks_off_says_so_in_its_last_line(
    boss: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lists, "EXPORT_CHUNK", 5)
    add_many(12)
    response = boss.get(EXPORT)
    lines = iter(response)
    next(lines)
    next(lines)
    with connection.cursor() as cursor, pytest.raises(DataError):
        # Takes the export's cursor with it.
        cursor.execute("SELECT 1/0")
    *rest, last = [line.decode() for line in lines]
    assert len(rest) == 4
    assert last == "INCOMPLETE: the database failed after 5 orders. Export them again.\r\n"
    assert "the export by boss broke off after 5 orders" in caplog.messages
