"""What the admin shows to whom, its lists, and its product pages."""

import re
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from rest_framework.authtoken.models import Token

from inventory.models import Product, StockItem, StockMovement
from inventory.selectors import sum_movements
from orders.models import AttentionFlag, OrderAction
from tests.desk import LAPTOPS, place
from tests.e2e.doors import ADD, CANCEL, LIST, ROLLED_BACK, log_in, order_form, page_of, set_status

# --- who may do what -------------------------------------------------------------------------------------


def test_viewers_see_everything_and_can_do_nothing(counter: None) -> None:
    order = place()
    set_status(order, "completed")
    viewer = log_in("viewer", "view_order")
    assert viewer.get(LIST).status_code == 200
    assert viewer.get(ROLLED_BACK).status_code == 200
    page = viewer.get(page_of(order)).content.decode()
    assert "Cancel this order" not in page
    assert "Mark as shipped" not in page
    assert viewer.get(ADD).status_code == 403
    assert viewer.post(ADD, order_form(("MUG-STONE", 1))).status_code == 403
    assert viewer.post(CANCEL, {"orders": [order.pk], "reason": "x"}).status_code == 403
    for door in ("ship", "retry", "resolve"):
        assert viewer.post(f"{LIST}{order.pk}/{door}/", {"undo": "refund_payment"}).status_code == 403
    viewer.post(LIST, {"action": "cancel_selected", "_selected_action": [order.pk]})
    viewer.post(LIST, {"action": "ship_selected", "_selected_action": [order.pk]})
    order.refresh_from_db()
    assert (order.status, order.cancel_requested_at) == ("completed", None)
    assert OrderAction.objects.count() == 1


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [("cancel_order", {"cancel"}), ("ship_order", {"ship"}), ("repair_order", {"retry", "resolve"})],
)
def test_each_permission_opens_its_own_door(counter: None, permission: str, allowed: set[str]) -> None:
    order = place()
    staff = log_in("staff", "view_order", permission)
    answers = {"cancel": staff.post(CANCEL, {"orders": [order.pk], "reason": "x"}).status_code}
    for door in ("ship", "retry", "resolve"):
        form = {"undo": "refund_payment", "reason": "x", "reference": "x"}
        answers[door] = staff.post(f"{LIST}{order.pk}/{door}/", form).status_code
    assert {door for door, status in answers.items() if status == 302} == allowed
    assert {status for door, status in answers.items() if door not in allowed} == {403}


@pytest.mark.parametrize("permissions", [(), ("add_order",)])
def test_without_the_view_permission_nothing_is_shown(counter: None, permissions: tuple[str, ...]) -> None:
    order = place()
    staff = log_in("staff", *permissions)
    for address in (LIST, ROLLED_BACK, page_of(order)):
        assert staff.get(address).status_code == 403
    assert b"Rolled-back orders" not in staff.get("/admin/").content


def test_nothing_that_happened_can_be_changed_or_deleted(boss: Browser) -> None:
    order = place()
    for model in (
        "orders/order",
        "orders/trailentry",
        "orders/orderaction",
        "orders/outboxmessage",
        "payments/payment",
        "payments/paymentevent",
        "inventory/hold",
        "inventory/stockmovement",
        "notifications/emailmessage",
    ):
        response = boss.get(f"/admin/{model}/")
        assert response.status_code == 200
        assert b"delete_selected" not in response.content
        if model != "orders/order":
            assert boss.get(f"/admin/{model}/add/").status_code == 403
    action = OrderAction.objects.get()
    assert boss.get(f"/admin/orders/orderaction/{action.pk}/change/").status_code == 200
    for address in (f"/admin/orders/orderaction/{action.pk}", f"{LIST}{order.pk}"):
        assert boss.post(f"{address}/change/", {"status": "shipped"}).status_code == 403
        assert boss.post(f"{address}/delete/", {"post": "yes"}).status_code == 403
    boss.post(LIST, {"action": "delete_selected", "_selected_action": [order.pk], "post": "yes"})
    order.refresh_from_db()
    assert order.status == "pending"


# --- lists -----------------------------------------------------------------------------------------------


def count_queries(browser: Browser, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert browser.get(address).status_code == 200
    return len(queries)


@pytest.mark.parametrize("address", [LIST, ROLLED_BACK])
def test_a_list_takes_the_same_number_of_queries_at_any_length(boss: Browser, address: str) -> None:
    def add_orders(count: int) -> None:
        for _ in range(count):
            set_status(place(), "cancelled")

    add_orders(3)
    short = count_queries(boss, address)
    add_orders(27)
    assert count_queries(boss, address) == short


def test_orders_are_found_by_number_email_sku_and_id(boss: Browser) -> None:
    mine, other = place(email="grace@example.com"), place(LAPTOPS)
    for query, found in [
        (str(mine.number), mine),
        ("grace", mine),
        ("head-anc", mine),
        (str(mine.pk), mine),
        ("LAPTOP", other),
    ]:
        response = boss.get(LIST, {"q": query})
        assert [order.pk for order in response.context["cl"].result_list] == [found.pk], query
    assert b"No order matches" in boss.get(LIST, {"q": "nobody"}).content


def test_orders_are_filtered_by_status_and_attention(boss: Browser) -> None:
    stuck, fine = place(), place()
    set_status(fine, "completed")
    AttentionFlag.objects.raise_flag(stuck.pk, "refund_payment", "refund_payment has failed 10 times")
    for query, found in [("attention=1", stuck), ("attention=0", fine), ("status__exact=completed", fine)]:
        response = boss.get(f"{LIST}?{query}")
        assert [order.pk for order in response.context["cl"].result_list] == [found.pk], query
    assert "needs attention" in boss.get(f"{LIST}?attention=1").content.decode()


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


# --- products --------------------------------------------------------------------------------------------


def test_a_new_product_gets_its_stock_and_units_are_booked_in(boss: Browser) -> None:
    form = {"sku": "VASE", "name": "Vase", "description": "", "price": "12.00", "is_active": "on"}
    boss.post("/admin/inventory/product/add/", form)
    product = Product.objects.get(sku="VASE")
    stock = f"/admin/inventory/product/{product.pk}/stock/"
    assert StockItem.objects.get(product=product).on_hand == 0
    boss.post(stock, {"change": "7", "note": "delivery 4711"})
    boss.post(stock, {"change": "-2", "note": "broken"})
    refused = boss.post(stock, {"change": "-6", "note": "gone"})
    assert b"Fewer units would remain than orders hold" in refused.content
    assert b"Zero units change nothing" in boss.post(stock, {"change": "0", "note": "x"}).content
    assert StockItem.objects.get(product=product).on_hand == 5
    assert sum_movements(product.pk) == (5, 0)
    assert list(StockMovement.objects.filter(product=product).values_list("kind", flat=True)) == [
        "received",
        "adjusted",
    ]


def test_a_product_is_edited_and_withdrawn_but_keeps_its_sku_and_cannot_be_deleted(boss: Browser) -> None:
    product = Product.objects.get(sku="MUG-STONE")
    address = f"/admin/inventory/product/{product.pk}"
    boss.post(f"{address}/change/", {"sku": "OTHER", "name": "Mug", "description": "", "price": "9.00"})
    product.refresh_from_db()
    assert (product.sku, product.name, str(product.price), product.is_active) == (
        "MUG-STONE",
        "Mug",
        "9.00",
        False,
    )
    assert boss.post(f"{address}/delete/", {"post": "yes"}).status_code == 403
    viewer = log_in("viewer", "view_product")
    assert viewer.post(f"{address}/stock/", {"change": "7", "note": "x"}).status_code == 403


def test_an_api_token_is_made_in_the_admin(boss: Browser) -> None:
    boss.post("/admin/authtoken/tokenproxy/add/", {"user": User.objects.get().pk})
    assert Token.objects.get().user.username == "boss"


@pytest.mark.parametrize(
    "address",
    [
        f"{LIST}?status__exact=%00",
        f"{ROLLED_BACK}?failed_step=%00",
        f"{ROLLED_BACK}?rollback_started_at__year=99999",
        "/admin/inventory/stockmovement/?kind__exact=%00",
        "/admin/orders/orderaction/?at__year=99999999999999",
    ],
)
def test_senseless_parameters_lead_back_to_the_whole_list(boss: Browser, address: str) -> None:
    answer = boss.get(address, follow=True)
    assert answer.status_code == 200
    assert answer.redirect_chain


@pytest.mark.parametrize("action", ["cancel_selected", "ship_selected"])
def test_garbled_selection_is_refused(boss: Browser, action: str) -> None:
    answer = boss.post(LIST, {"action": action, "_selected_action": ["garbage"]}, follow=True)
    assert b"Select the orders first" in answer.content
