"""The admin's order pages over HTTP on the real database, and one journey with a worker."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client as Browser
from django.utils import timezone
from temporalio.client import Client

from config.temporal import run_on_database_thread
from inventory.models import Product
from orders.admin.pages import MAX_SELECTED
from orders.dispatch import sweep
from orders.models import AttentionFlag, Order, OrderAction, OutboxMessage, StepKind, StepState, TrailEntry
from tests.conftest import until
from tests.desk import place
from tests.e2e.doors import ADD, CANCEL, LIST, ROLLED_BACK, log_in, order_form, page_of, set_status


def read_messages(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


# --- placing ---------------------------------------------------------------------------------------------


def test_placing_leads_to_the_orders_page(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 2), ("", 1), ("PEN-BRASS", 1), payment_token="tok_ok")
    response = boss.post(ADD, form, follow=True)
    order = Order.objects.get()
    assert response.redirect_chain == [(page_of(order), 302)]
    assert read_messages(response) == [f"{order} is accepted; its saga is on its way."]
    assert str(order.total) == "61.00"
    assert order.placed_by is not None
    assert order.placed_by.username == "boss"
    assert OrderAction.objects.get().actor == "boss"
    assert OutboxMessage.objects.get().workflow_id == f"order-{order.pk}"
    assert b"The saga is still at work" in response.content


def test_the_add_page_offers_what_is_sold_with_price_and_availability(boss: Browser) -> None:
    Product.objects.filter(sku="TEE-M").update(is_active=False)
    Product.objects.create(sku="NEW", name="Never booked in", price="1.00")
    page = boss.get(ADD).content.decode()
    assert "Stoneware mug (MUG-STONE): 14.50 EUR, 150 available" in page
    assert "Never booked in (NEW): 1.00 EUR, 0 available" in page
    assert "TEE-M" not in page
    assert "tok_declined" in page


@pytest.mark.parametrize(
    ("form", "where"),
    [
        (order_form(("MUG-STONE", 1), customer_email="nonsense"), "field-customer_email"),
        (order_form(("MUG-STONE", 1), payment_token="x" * 201), "field-payment_token"),
        (order_form(("MUG-STONE", 0)), "field-quantity"),
        (order_form(("MUG-STONE", "")), "field-quantity"),
        (order_form(("MUG-STONE", 10_001)), "field-quantity"),
        (order_form(("", 1), ("MUG-STONE", 10**30)), "field-quantity"),
        (order_form(("", 5)), "field-sku"),
        (order_form(("NO-SUCH", 1)), "field-sku"),
        (order_form(("", 1), ("", 1)), "inline-heading"),
        (order_form(), "inline-heading"),
        (order_form(("MUG-STONE", "1\x00")), "field-quantity"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_a_bad_order_is_refused_beside_the_field_and_keeps_what_was_typed(
    boss: Browser, form: dict[str, Any], where: str
) -> None:
    response = boss.post(ADD, form)
    assert response.status_code == 200
    assert not Order.objects.exists()
    page = response.content.decode()
    assert re.search(rf'{where}[^<]*">?[^\0]{{0,200}}errorlist', page), page
    assert f'value="{form["customer_email"]}"' in page
    assert f'value="{form["order_id"]}"' in page
    assert page.count('value="MUG-STONE" selected') == sum(value == "MUG-STONE" for value in form.values())


def test_sending_the_add_form_twice_places_one_order(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 1))
    first, second = boss.post(ADD, form), boss.post(ADD, form)
    assert first.headers["Location"] == second.headers["Location"] == page_of(Order.objects.get())
    assert OutboxMessage.objects.count() == 1


def test_form_sent_again_with_another_order_says_that_nothing_was_placed(boss: Browser) -> None:
    form = order_form(("MUG-STONE", 1))
    boss.post(ADD, form)
    again = boss.post(ADD, {**form, "lines-0-quantity": 9}, follow=True)
    assert read_messages(again)[-1] == (
        f"Nothing was placed: this form was already sent, as {Order.objects.get()}. Open a new form."
    )


# --- cancelling ------------------------------------------------------------------------------------------


def test_cancelling_asks_for_a_reason_first(boss: Browser) -> None:
    order = place()
    asked = boss.post(LIST, {"action": "cancel_selected", "_selected_action": [order.pk]})
    assert f'name="orders" value="{order.pk}"' in asked.content.decode()
    refused = boss.post(CANCEL, {"orders": [order.pk], "reason": "  "})
    assert b"This field is required" in refused.content
    order.refresh_from_db()
    assert order.cancel_requested_at is None

    done = boss.post(CANCEL, {"orders": [order.pk], "reason": "customer called"}, follow=True)
    assert done.redirect_chain == [(page_of(order), 302)]
    assert read_messages(done) == [f"{order}: the cancel is accepted."]
    action = OrderAction.objects.get(kind="cancel_order")
    assert (action.actor, action.reason) == ("boss", "customer called")
    assert "customer called" in done.content.decode()


def test_each_order_gets_the_answer_its_state_allows(boss: Browser) -> None:
    orders = {status: place() for status in ("created", "completed", "cancelling", "cancelled", "shipped")}
    for status, order in orders.items():
        set_status(order, status)
    selected = {"orders": [order.pk for order in orders.values()], "reason": "recall"}
    messages = set(read_messages(boss.post(CANCEL, selected, follow=True)))
    number = {status: order.number for status, order in orders.items()}
    assert messages == {
        f"Order {number['created']}: the cancel is accepted.",
        f"Order {number['completed']}: the cancel is accepted.",
        f"Order {number['cancelling']}: it was already being cancelled.",
        f"Order {number['cancelled']}: it was already being cancelled.",
        f"Order {number['shipped']} has been shipped and can no longer be cancelled.",
    }
    orders["shipped"].refresh_from_db()
    assert orders["shipped"].status == "shipped"


def test_cancelling_twice_cancels_once(boss: Browser) -> None:
    order = place()
    for _ in range(2):
        boss.post(CANCEL, {"orders": [order.pk], "reason": "double click"})
    assert OrderAction.objects.filter(kind="cancel_order").count() == 1
    assert OutboxMessage.objects.filter(name="cancel").count() == 1


@pytest.mark.parametrize("orders", [[], ["nonsense"], [str(uuid4())]])
def test_cancelling_nothing_leads_back_to_the_list(boss: Browser, orders: list[str]) -> None:
    response = boss.post(CANCEL, {"orders": orders, "reason": "x"}, follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert boss.get(CANCEL).status_code == 302


def test_too_many_orders_at_once_are_refused(boss: Browser) -> None:
    for _ in range(MAX_SELECTED + 1):
        place()
    selection = {
        "action": "cancel_selected",
        "select_across": 1,
        "_selected_action": [Order.objects.all()[0].pk],
    }
    assert read_messages(boss.post(LIST, selection, follow=True)) == [
        f"Cancel at most {MAX_SELECTED} orders at a time."
    ]


# --- shipping and repairing ------------------------------------------------------------------------------


def test_shipping_tells_which_orders_cannot_be_shipped(boss: Browser) -> None:
    ready, early = place(), place()
    set_status(ready, "completed")
    selection = {"action": "ship_selected", "_selected_action": [ready.pk, early.pk]}
    messages = set(read_messages(boss.post(LIST, selection, follow=True)))
    assert messages == {
        f"Order {ready.number}: marked as shipped.",
        f"Order {early.number} is pending; only a completed order can be shipped.",
    }
    again = boss.post(f"{LIST}{ready.pk}/ship/", follow=True)
    assert read_messages(again) == [f"Order {ready.number}: it was already shipped."]


def test_a_stuck_undo_is_shown_and_retried(boss: Browser) -> None:
    order = place()
    set_status(order, "cancelling")
    now = timezone.now()
    TrailEntry.objects.create(
        order=order,
        name="refund_payment",
        kind=StepKind.UNDO,
        state=StepState.FAILED,
        started_at=now,
        finished_at=now,
        error_type="RefundRefused",
        error="the bank says no",
    )
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "refund_payment was refused for good")
    page = boss.get(page_of(order)).content.decode()
    assert "This order needs attention." in page
    assert "refund_payment was refused for good" in page
    assert "Retry now" in page

    retried = boss.post(f"{LIST}{order.pk}/retry/", {"undo": "refund_payment"}, follow=True)
    assert read_messages(retried) == [f"{order}: refund_payment is tried again now."]
    assert OutboxMessage.objects.get(name="retry_undo").argument == "refund_payment"

    resolve = f"{LIST}{order.pk}/resolve/"
    assert boss.get(f"{resolve}?undo=refund_payment").status_code == 200
    incomplete = boss.post(resolve, {"undo": "refund_payment", "reason": "paid by hand"})
    assert b"This field is required" in incomplete.content
    refused = boss.post(
        resolve, {"undo": "refund_payment", "reason": "paid by hand", "reference": "T-1"}, follow=True
    )
    assert "nothing to settle" in read_messages(refused)[0]
    assert OrderAction.objects.filter(kind="resolve_undo").count() == 0


# --- the whole way ---------------------------------------------------------------------------------------


async def test_an_order_goes_through_is_cancelled_and_tells_its_story(worker: Client) -> None:
    browser = await run_on_database_thread(lambda: log_in("boss", superuser=True))

    async def read(address: str) -> str:
        response = await run_on_database_thread(lambda: browser.get(address))
        page: str = response.content.decode()
        return page

    async def settled() -> str | None:
        page = await read(address)
        return page if "The saga is still at work" not in page else None

    placed = await run_on_database_thread(lambda: browser.post(ADD, order_form(("MUG-STONE", 2))))
    address = placed.headers["Location"]
    await sweep(worker)
    page = await until(settled, what="the order is settled")
    assert page.count("od-badge od-done") == 5
    assert "od-badge od-completed" in page

    order_id = address.split("/")[-3]
    await run_on_database_thread(
        lambda: browser.post(CANCEL, {"orders": [order_id], "reason": "customer called"})
    )
    await sweep(worker)
    page = await until(settled, what="the order is rolled back")
    assert "od-badge od-cancelled" in page
    assert page.count("od-badge od-done") == 9
    assert "-29.00" in page
    assert f"order-{order_id}-cancel" in page
    assert "customer called" in page

    page = await read(ROLLED_BACK)
    assert "29.00 EUR" in page
    assert "boss: customer called" in page
