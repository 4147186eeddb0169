"""The made-up past: its books balance, its trails are the saga's, and it stays out of real books."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import Count, F, Model, Q, Sum
from django.template.loader import render_to_string
from django.utils import timezone

from inventory.models import Hold, StockMovement
from inventory.selectors import list_products
from notifications.models import EmailMessage
from orders import selectors
from orders.management.commands import seed_orders
from orders.management.seeding import copying
from orders.management.seeding.books import count_seconds, make_rows
from orders.models import (
    ApiKey,
    CancelRequest,
    Order,
    OutboxMessage,
    TrailEntry,
)
from payments import services as payments_services
from payments.models import Payment
from tests.desk import STEPS, UNDOS, check_stock_sums, read_trail
from tests.e2e.past import COUNT, make_past, seed
from tests.e2e.storefront import add_products
from tests.processes import PROJECT, build_environment

# Which undos each cause of a rollback leaves, and how.
ROLLED_BACK = {
    ("create_order", "OrderNotSellable"): (["create_order"], UNDOS[2:], "done"),
    ("reserve_inventory", "OutOfStock"): (STEPS[:2], UNDOS[1:], "done"),
    ("process_payment", "PaymentRefused"): (STEPS[:3], UNDOS, "nothing_to_undo"),
    ("process_payment", "CancelRequested"): (STEPS[:3], UNDOS, "done"),
    ("", "CancelRequested"): (STEPS, UNDOS, "done"),
}


@pytest.fixture
def past(db: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return make_past(monkeypatch)


def test_every_ending_is_there_in_its_share(past: dict[str, Any]) -> None:
    assert sum(past["endings"].values()) == Order.objects.count() == COUNT
    assert len(past["endings"]) == 13
    statuses = Counter(Order.objects.values_list("status", flat=True))
    assert 0.75 * COUNT < statuses["completed"] + statuses["shipped"] < 0.81 * COUNT
    assert 0.35 * COUNT < statuses["shipped"] < 0.45 * COUNT
    assert (statuses["created"], statuses["cancelling"]) == (1, 2)
    causes = Counter(Order.objects.exclude(failure_type="").values_list("failure_type", flat=True))
    assert causes.most_common()[0][0] == "PaymentRefused"
    assert CancelRequest.objects.filter(state="awaiting_approval", order__status="completed").count() == 1
    customers = Order.objects.values_list("customer_email", flat=True)
    assert {address.partition("@")[2] for address in customers} == {"example.com", "example.org"}


def test_stock_equals_its_movements_and_open_holds_at_every_moment(past: dict[str, Any]) -> None:
    check_stock_sums()
    for product in list_products():
        on_hand = reserved = 0
        # Stock that was there before the made-up past began is not part of it.
        for movement in (
            StockMovement.objects.filter(product=product)
            .exclude(note="seed_catalogue")
            .order_by("at", F("order").asc(nulls_first=True))
        ):
            on_hand += movement.on_hand_change
            reserved += movement.reserved_change
            assert 0 <= reserved <= on_hand
    unsold = Order.objects.filter(status__in=["created", "completed"])
    assert set(unsold.values_list("holds__state", flat=True)) == {"held"}
    assert set(Hold.objects.filter(state="held").values_list("order__status", flat=True)) == {
        "created",
        "completed",
    }
    assert set(Order.objects.filter(status="shipped").values_list("holds__state", flat=True)) == {"sold"}
    lines = Order.objects.filter(status="shipped").values_list("lines__sku", "lines__quantity", "pk")
    holds = Order.objects.filter(status="shipped").values_list("holds__product__sku", "holds__quantity", "pk")
    assert sorted(lines) == sorted(holds)


def test_money_is_what_the_orders_say(past: dict[str, Any]) -> None:
    order: Any  # with `net`
    for order in Order.objects.prefetch_related("lines").annotate(net=Sum("payment__events__amount")):
        assert order.total == sum(line.amount for line in order.lines.all()) > 0
        match order.status:
            case "completed" | "shipped":
                assert order.net == order.total
            case "cancelled":
                assert not order.net
            case "cancelling":  # the refund is stuck: still owed
                assert order.net == order.total
            case _:
                assert order.net is None
    kinds = Payment.objects.annotate(
        charged=Count("events", filter=Q(events__kind="charged")),
        given_back=Count("events", filter=Q(events__kind__in=["refunded", "settled_outside"])),
    ).values_list("state", "charged", "given_back")
    assert set(kinds) == {
        ("charged", 1, 0),
        ("declined", 0, 0),
        ("refunded", 1, 1),
        ("settled_outside", 1, 1),
        ("started", 0, 0),
    }
    assert not Payment.objects.filter(Q(state="charged") & Q(charge_id="")).exists()


def test_trails_are_those_of_the_saga(past: dict[str, Any]) -> None:
    order: Any  # with `attention`, which mypy cannot see
    for order in selectors.list_orders():
        trail = read_trail(order)
        match order.status:
            case "completed" | "shipped":
                assert [name for name, _ in trail] == STEPS
                refused = {name for name, state in trail if state != "done"}
                assert refused <= {"send_confirmation_email"}
                assert bool(refused) == order.attention
            case "cancelled":
                steps, undos, refund = ROLLED_BACK[order.failed_step, order.failure_type]
                assert [name for name, _ in trail] == [*steps, *undos]
                states = dict(trail)
                if "refund_payment" in states:
                    assert states["refund_payment"] in (refund, "resolved")
                if order.failure_type != "CancelRequested":
                    assert states.pop(order.failed_step) == "failed"
                nothing_held = "nothing_to_undo" if order.failure_type == "OutOfStock" else "done"
                assert states.pop("release_inventory", nothing_held) == nothing_held
                states.pop("refund_payment", None)
                assert set(states.values()) == {"done"}
                assert selectors.is_settled(order, selectors.summarise_trail(order.trail.all()))
            case "cancelling":
                assert trail == [
                    *((s, "done") for s in STEPS),
                    ("refund_payment", "failed"),
                    (UNDOS[1], "done"),
                ]
                assert order.attention
            case _:
                assert trail == [(STEPS[0], "done"), (STEPS[1], "done"), (STEPS[2], "failed")]


def test_nothing_happens_before_its_time(past: dict[str, Any]) -> None:
    assert not TrailEntry.objects.exclude(
        started_at__gt=F("order__accepted_at"), finished_at__gte=F("started_at")
    ).exists()
    assert not TrailEntry.objects.exclude(state="lost").exclude(ms__gt=0).exists()
    in_order = ["accepted_at", "completed_at", "shipped_at"]
    for earlier, later in [
        *itertools.pairwise(in_order),
        ("accepted_at", "rollback_started_at"),
    ]:
        assert not Order.objects.filter(**{f"{later}__lte": F(earlier)}).exists()
    assert not Order.objects.filter(rolled_back_at__lte=F("rollback_started_at")).exists()
    assert list(Order.objects.order_by("accepted_at")) == list(Order.objects.order_by("number"))
    with connection.cursor() as cursor:
        for table, column in [
            ("orders_trailentry", "finished_at"),
            ("orders_orderaction", "at"),
            ("inventory_stockmovement", "at"),
            ("payments_paymentevent", "at"),
            ("notifications_emailmessage", "sent_at"),
            ("orders_attentionflag", "raised_at"),
        ]:
            cursor.execute(f"SELECT count(*) FROM {table} WHERE {column} > clock_timestamp()")
            assert cursor.fetchone() == (0,), table


def test_workers_find_nothing_to_do(past: dict[str, Any]) -> None:
    assert not OutboxMessage.objects.filter(delivered_at=None).exists()
    starts = OutboxMessage.objects.filter(kind="start").values_list("order_id", "workflow_id", "name")
    for order_id, workflow_id, name in starts:
        suffix = "-cancel" if name == "CancelOrderSaga" else ""
        assert workflow_id == f"order-{order_id}{suffix}"


def test_mails_read_as_the_templates_do(past: dict[str, Any], settings: Any) -> None:
    for email in EmailMessage.objects.select_related("order").prefetch_related("order__lines"):
        order = email.order
        back = payments_services.get_net_charged(order_id=order.pk) == 0 and hasattr(order, "payment")
        charged = back and order.payment.charge_id
        context = {
            "order": order,
            "lines": order.lines.all(),
            "shop_name": settings.SHOP_NAME,
            "refunded": order.total if charged else 0,
        }
        kind = email.kind
        assert email.subject == render_to_string(f"emails/{kind}_subject.txt", context).strip()
        assert email.text == render_to_string(f"emails/{kind}.txt", context)
        assert email.html == render_to_string(f"emails/{kind}.html", context)
        assert email.recipient == order.customer_email
    pending = EmailMessage.objects.exclude(state="sent").values_list("order__status", "kind")
    assert list(pending) == [("completed", "confirmation")]
    assert (
        EmailMessage.objects.filter(kind="cancellation").count()
        == Order.objects.filter(status="cancelled").count()
    )


# --- runs ------------------------------------------------------------------------------------------------


def test_second_run_with_the_same_seed_adds_the_same_orders_again(past: dict[str, Any]) -> None:
    first = set(Order.objects.values_list("pk", flat=True))
    assert seed()["endings"] == past["endings"]
    assert Order.objects.count() == 2 * COUNT
    check_stock_sums()

    def wishes(orders: Any) -> list[tuple[Any, ...]]:
        return list(orders.order_by("number").values_list("customer_email", "total", "status", "failure"))

    assert wishes(Order.objects.filter(pk__in=first)) == wishes(Order.objects.exclude(pk__in=first))


def test_few_orders_and_a_single_day_are_enough(db: None) -> None:
    for count in (1, 7, 99, 100):
        assert sum(seed(count=count, days=1)["endings"].values()) == count
    assert Order.objects.count() == 207
    connection.check_constraints()
    check_stock_sums()


def test_interrupted_run_leaves_whole_chunks(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: Counter[str] = Counter()
    copy_rows = copying.copy_rows

    def interrupt_second_chunk(model: type[Model], *arguments: Any) -> None:
        copy_rows(model, *arguments)
        copied[model.__name__] += 1
        if copied["StockMovement"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(seed_orders, "CHUNK", 100)
    monkeypatch.setattr(copying, "copy_rows", interrupt_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        seed()
    assert (Order.objects.count(), copied["Order"]) == (100, 2)
    connection.check_constraints()
    check_stock_sums()


@pytest.mark.parametrize(
    ("option", "value"), [("count", 0), ("count", 10**9), ("days", 0), ("days", 100_000)]
)
def test_number_out_of_range_is_wrong_use(db: None, option: str, value: int) -> None:
    with pytest.raises(CommandError, match=f"--{option} takes a number from 1 to") as refusal:
        seed(**{option: value})
    assert refusal.value.returncode == 2
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDED", False),
        ("DATABASE", "db.shop.example"),
        ("TEMPORAL_ADDRESS", "temporal.shop.example:7233"),
        ("PAYMENT_GATEWAY_URL", "https://bank.example"),
        ("EMAIL_HOST", "smtp.shop.example"),
    ],
)
def test_real_books_are_never_written_into(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    if name == "DATABASE":
        monkeypatch.setitem(connection.settings_dict, "HOST", value)
    else:
        setattr(settings, name, value)
    with pytest.raises(CommandError, match="only runs on a developer's machine") as refusal:
        seed()
    assert refusal.value.returncode == 2
    monkeypatch.undo()
    assert not Order.objects.exists()


def test_delivery_does_not_count_on_goods_that_are_still_out() -> None:
    warehouse, start = copying.Warehouse(), timezone.now()

    def deliver(*movements: tuple[str, int, float]) -> list[int]:
        """Units received for (kind, change of what is held, day) of one product."""
        rows = make_rows()
        rows[StockMovement] = [
            (1, uuid4(), kind, 0, change, "", start + timedelta(days=day)) for kind, change, day in movements
        ]
        warehouse.receive(rows)
        return [row[3] for row in rows[StockMovement] if row[2] == "received"]

    assert deliver(("reserved", 5, 0), ("released", -5, 10)) == [5]
    assert deliver(("reserved", 5, 1)) == [5]
    assert deliver(("reserved", 4, 11)) == []
    assert deliver(("reserved", 3, 12)) == [2]


# --- the benchmark of the pages --------------------------------------------------------------------------


def test_benchmark_measures_the_api_as_the_busiest_client_and_leaves_no_key(db: None) -> None:
    User.objects.create_superuser("boss")
    seed(count=1000)
    out = StringIO()
    call_command("bench_pages", rounds=2, only="API", json=True, stdout=out, stderr=StringIO())
    pages = {page["page"]: page for page in json.loads(out.getvalue())["pages"]}
    assert {"API: products", "API: orders", "API: orders, next page"} <= set(pages)
    assert {"API: order, newest", "API: order, long trail", "API: trail, long trail"} <= set(pages)
    for page in pages.values():
        assert page["status"] == 200
        assert 0 < page["p50"] <= page["p95"]
        assert page["queries"] > 1
    assert pages["API: order, long trail"]["kilobytes"] > pages["API: order, newest"]["kilobytes"] > 0
    assert not ApiKey.objects.exists()


def test_benchmark_measures_the_shop_with_a_filled_cart_and_leaves_none(db: None) -> None:
    User.objects.create_superuser("boss")
    seed(count=1000)
    add_products(100)
    out = StringIO()
    call_command("bench_pages", rounds=2, only="shop", json=True, stdout=out, stderr=StringIO())
    pages = {page["page"]: page for page in json.loads(out.getvalue())["pages"]}
    assert set(pages) == {
        *("shop: catalogue", "shop: cart", "shop: checkout"),  # an empty cart has no checkout
        *("shop: cart, full", "shop: checkout, full"),
        *("shop: newest order", "shop: order rolled back"),
    }
    assert pages["shop: cart, full"]["kilobytes"] > 5 * pages["shop: cart"]["kilobytes"]
    assert pages["shop: cart, full"]["queries"] == pages["shop: cart"]["queries"]
    assert {page["status"] for page in pages.values()} == {200}
    assert not Session.objects.exists()


def test_benchmark_measures_pages_and_leaves_no_log_in(db: None) -> None:
    User.objects.create_superuser("boss")
    seed(count=1000)
    out = StringIO()
    call_command("bench_pages", rounds=2, only="search", json=True, stdout=out, stderr=StringIO())
    report = json.loads(out.getvalue())
    assert report["orders"] == 1000
    assert [page["page"] for page in report["pages"]] == [
        "search: number",
        "search: e-mail",
        "search: part of an e-mail",
        "search: SKU",
        "search: payment reference",
        "search: nothing found",
    ]
    for page in report["pages"]:
        assert page["status"] < 400
        assert 0 < page["p50"] <= page["p95"]
        assert page["queries"] > 0
    assert not Session.objects.exists()


@pytest.mark.parametrize(
    ("orders", "message"), [(10, "There are 10 orders"), (1000, "There is no administrator")]
)
def test_benchmark_says_what_it_lacks(db: None, orders: int, message: str) -> None:
    seed(count=orders)
    with pytest.raises(CommandError, match=message) as refusal:
        call_command("bench_pages")
    assert refusal.value.returncode == 1


def test_command_line_tells_wrong_use_apart() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "seed_orders", "--count", "0"],
        cwd=PROJECT,
        env={**os.environ, **build_environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "--count takes a number from 1 to" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_many_short_waits_are_more_than_a_float_can_double(settings: Any) -> None:
    settings.SAGA_RETRY_MAXIMUM = 5.0
    assert count_seconds(2000) == pytest.approx(1 + 2 + 4 + 5 * 1996)
