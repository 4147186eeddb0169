"""Lists of the API: pages that neither repeat nor hide a row, filters, and no query per row."""

import base64
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from inventory.models import Product
from orders.models import ApiClient as MachineClient
from orders.models import AttentionFlag, Order, OutboxMessage
from tests.e2e.api import ORDERS, PRODUCTS, client_of, make_client, make_order, read_problem
from tests.e2e.doors import set_status


@pytest.fixture
def shop_client(counter: None) -> MachineClient:
    return make_client()


@pytest.fixture
def api(shop_client: MachineClient) -> APIClient:
    return client_of(shop_client)


def make_rows(client: MachineClient, count: int) -> None:
    """Orders without lines: what a list reads."""
    Order.objects.bulk_create(
        Order(customer_email="ada@example.com", currency="EUR", total=29, payment_token="t", client=client)
        for _ in range(count)
    )


def list_numbers(http: APIClient, address: str) -> list[int]:
    return [row["number"] for row in http.get(address).json()["results"]]


def follow(http: APIClient, address: str, link: str = "next") -> list[list[int]]:
    """The numbers of each page, from `address` on."""
    pages = []
    while address:
        page = http.get(address).json()
        pages.append([row["number"] for row in page["results"]])
        address = page[link]
    return pages


# --- rows and pages --------------------------------------------------------------------------------------


def test_a_row_has_what_a_list_shows_and_links_to_the_rest(
    api: APIClient, shop_client: MachineClient
) -> None:
    order = make_order(shop_client)
    [row] = api.get(ORDERS).json()["results"]
    whole = api.get(row["links"]["self"]).json()
    assert row == {name: whole[name] for name in row}
    assert set(whole) - set(row) == {
        "is_settled", "failed_step", "failure", "lines", "payment", "mails", "trail",
    }  # fmt: skip
    assert row["id"] == str(order.pk)


def test_pages_go_through_all_orders_newest_first_and_back(
    api: APIClient, shop_client: MachineClient
) -> None:
    make_rows(shop_client, 10)
    newest_first = sorted(Order.objects.values_list("number", flat=True), reverse=True)
    pages = follow(api, f"{ORDERS}?page_size=4")
    assert pages == [newest_first[:4], newest_first[4:8], newest_first[8:]]
    last = api.get(api.get(api.get(f"{ORDERS}?page_size=4").json()["next"]).json()["next"]).json()
    assert last["next"] is None
    assert follow(api, last["previous"], "previous") == [newest_first[4:8], newest_first[:4]]


def test_orders_placed_meanwhile_neither_repeat_a_row_nor_hide_one(
    api: APIClient, shop_client: MachineClient
) -> None:
    make_rows(shop_client, 8)
    before = sorted(Order.objects.values_list("number", flat=True), reverse=True)
    first = api.get(f"{ORDERS}?page_size=3").json()
    make_rows(shop_client, 5)
    seen = [row["number"] for row in first["results"]]
    seen += [number for page in follow(api, first["next"]) for number in page]
    assert seen == before


def test_pages_keep_the_filters(api: APIClient, shop_client: MachineClient) -> None:
    make_rows(shop_client, 6)
    wanted = sorted(Order.objects.values_list("number", flat=True))[::2]
    Order.objects.filter(number__in=wanted).update(status="completed")
    pages = follow(api, f"{ORDERS}?page_size=2&status=completed")
    assert pages == [wanted[:0:-1], wanted[:1]]


def test_products_come_in_pages_too(counter: None) -> None:
    skus = sorted(Product.objects.filter(is_active=True).values_list("sku", flat=True))
    found: list[str] = []
    address = f"{PRODUCTS}?page_size=3"
    while address:
        page = APIClient().get(address).json()
        assert len(page["results"]) <= 3
        found += [product["sku"] for product in page["results"]]
        address = page["next"]
    assert found == skus


@pytest.mark.parametrize(
    "size", ["0", "-1", "101", "ten", "1.5", "", "\N{ARABIC-INDIC DIGIT TWO}", "9" * 5000]
)
def test_a_bad_page_size_is_refused(api: APIClient, size: str) -> None:
    for address in (PRODUCTS, ORDERS):
        problem = read_problem(api.get(f"{address}?page_size={size}"), 400)
        assert [error["parameter"] for error in problem["errors"]] == ["page_size"]


def encode(text: str) -> str:
    return quote(base64.b64encode(text.encode()))


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "%00", "%FF", "\N{SNOWMAN}", encode("p=abc"), encode("p=-1"), encode("p=1.5"),
        encode("p=9223372036854775808"), encode("p=" + "9" * 5000), encode("p=%00"), encode("p="),
        encode("o=5"), encode("o=5&p=1"), encode("o=1&r=1&p=1"), encode("r=1"),
        encode("o=x"), encode("r=x"), encode("p=%D9%A2"),
        quote(base64.b64encode(b"\xff")),
    ],
)  # fmt: skip
def test_a_made_up_cursor_is_refused(api: APIClient, cursor: str) -> None:
    problem = read_problem(api.get(f"{ORDERS}?cursor={cursor}"), 400)
    assert [error["parameter"] for error in problem["errors"]] == ["cursor"]
    if cursor in (encode("p=%00"), encode("p="), encode("o=5&p=1")):
        read_problem(api.get(f"{PRODUCTS}?cursor={cursor}"), 400)


# --- filters ---------------------------------------------------------------------------------------------


@pytest.fixture
def assorted(shop_client: MachineClient) -> dict[str, int]:
    """An order of each status, and another client's; their numbers."""
    numbers = {}
    for status in ("pending", "created", "completed", "shipped", "cancelling", "cancelled"):
        order = make_order(shop_client)
        set_status(order, status)
        numbers[status] = order.number
    make_order(make_client("other"))
    return numbers


@pytest.mark.parametrize(
    ("query", "statuses"),
    [
        ("status=pending", {"pending"}),
        ("status=pending&status=shipped", {"pending", "shipped"}),
        ("status=pending,shipped&status=cancelled", {"pending", "shipped", "cancelled"}),
        ("status=pending&customer_email=ada@example.com", {"pending"}),
        ("status=pending&customer_email=bob@example.com", set()),
    ],
)
def test_orders_are_filtered_by_status(
    api: APIClient, assorted: dict[str, int], query: str, statuses: set[str]
) -> None:
    assert set(list_numbers(api, f"{ORDERS}?{query}")) == {assorted[status] for status in statuses}


def test_orders_are_filtered_by_when_they_were_accepted(api: APIClient, assorted: dict[str, int]) -> None:
    moment = timezone.now().replace(microsecond=0) - timedelta(days=3)
    Order.objects.filter(number=assorted["pending"]).update(accepted_at=moment)
    Order.objects.filter(number=assorted["created"]).update(accepted_at=moment - timedelta(seconds=1))
    zulu = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    own = set(assorted.values())
    assert set(list_numbers(api, f"{ORDERS}?accepted_after={zulu}")) == own - {assorted["created"]}
    assert set(list_numbers(api, f"{ORDERS}?accepted_before={zulu}")) == {assorted["created"]}
    offset = quote(f"{moment + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}+02:00")
    assert set(list_numbers(api, f"{ORDERS}?accepted_before={offset}")) == {assorted["created"]}


def test_orders_are_filtered_by_whether_they_need_attention(
    api: APIClient, assorted: dict[str, int], settings: Any
) -> None:
    flagged = Order.objects.get(number=assorted["cancelling"])
    AttentionFlag.objects.raise_flag(flagged.pk, "refund_payment", "stuck")
    overdue = OutboxMessage.objects.filter(order__number=assorted["created"])
    overdue.update(created_at=timezone.now() - timedelta(seconds=settings.OUTBOX_ATTENTION_AFTER + 1))
    needing = {assorted["cancelling"], assorted["created"]}
    assert set(list_numbers(api, f"{ORDERS}?needs_attention=true")) == needing
    assert set(list_numbers(api, f"{ORDERS}?needs_attention=false")) == set(assorted.values()) - needing


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("state=pending", {"state"}),
        ("status=Pending", {"status"}),
        ("status=pending,", {"status"}),
        ("status=", {"status"}),
        ("status=pending%00", {"status"}),
        ("customer_email=ada", {"customer_email"}),
        ("customer_email=ada%00@example.com", {"customer_email"}),
        ("customer_email=%FF%FE@example.com", {"customer_email"}),
        ("accepted_after=yesterday", {"accepted_after"}),
        ("accepted_after=2026-11-23", {"accepted_after"}),
        ("accepted_after=2026-11-23T08:00:00", {"accepted_after"}),
        ("accepted_after=2026-11-23T08:00:00+00:00", {"accepted_after"}),
        ("accepted_after=2026-02-30T08:00:00Z", {"accepted_after"}),
        ("accepted_before=0001-01-01T00:00:00%2B14:00", {"accepted_before"}),
        ("accepted_before=9999-12-31T23:59:59-14:00", {"accepted_before"}),
        ("needs_attention=yes", {"needs_attention"}),
        ("needs_attention=true&needs_attention=false", {"needs_attention"}),
        ("page_size=5&page_size=6", {"page_size"}),
        ("a=1&b=2&needs_attention=1", {"a", "b"}),
        ("needs_attention=1&customer_email=x", {"needs_attention", "customer_email"}),
        ("%00=1", {"\x00"}),
        ("%FF=%FF", {"\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_name(
    api: APIClient, query: str, parameters: set[str]
) -> None:
    problem = read_problem(api.get(f"{ORDERS}?{query}"), 400)
    assert {error["parameter"] for error in problem["errors"]} == parameters
    assert problem["detail"]


# --- cost ------------------------------------------------------------------------------------------------


def test_a_list_takes_the_same_queries_for_10_orders_as_for_1000(
    api: APIClient, shop_client: MachineClient
) -> None:
    api.get(ORDERS)  # the key's first use is written down once a minute
    counts = []
    for more in (10, 990):
        make_rows(shop_client, more)
        for address in (f"{ORDERS}?page_size=100", f"{ORDERS}?page_size=100&needs_attention=false"):
            with CaptureQueriesContext(connection) as queries:
                rows = api.get(address).json()["results"]
            counts.append((len(rows), len(queries)))
    (few, small), (_, small_filtered), (many, large), (_, large_filtered) = counts
    assert (few, many) == (10, 100)
    assert small == large == small_filtered == large_filtered <= 4
