"""What an action's page says before it acts: the preview, and the reason it asks for."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser

from orders.admin.actions import ACTIONS
from orders.models import (
    OrderAction,
    OutboxMessage,
)
from tests.desk import place
from tests.e2e.acting import complete, finish, read_page, stick
from tests.e2e.doors import LIST, act_on, confirmation, count_queries, set_status

# --- the preview ----------------------------------------------------------------------------------------


def test_cancel_previews_refund_release_and_mail(boss: Browser) -> None:
    page = read_page(boss.get(act_on("cancel"), {"order": str(complete().pk)}))
    assert "<li>refund 61.20 EUR</li><li>release 3 units of TEE-M</li><li>send 1 mail</li>" in page
    assert "second person" not in page


def test_cancel_of_an_order_that_has_done_nothing_says_so(boss: Browser) -> None:
    page = read_page(boss.get(act_on("cancel"), {"order": str(place().pk)}))
    assert "Nothing was charged: nothing to refund." in page
    assert "No stock is held so far." in page
    assert "<li>send 1 mail</li>" in page


def test_cancel_above_the_limit_previews_that_somebody_has_to_approve(boss: Browser) -> None:
    page = read_page(boss.get(act_on("cancel"), {"order": str(complete(amount="900.00").pk)}))
    assert "A second person has to approve it first: the refund is above 500.00 EUR." in page


def test_retry_previews_what_is_undone_already_and_what_follows(boss: Browser) -> None:
    order = stick(complete())
    finish(order, "release_inventory")
    page = read_page(boss.get(act_on("retry"), {"order": str(order.pk), "undo": "refund_payment"}))
    assert "<li>try the refund of 61.20 EUR again now</li>" in page
    assert "Step 2 (reserve_inventory) is already undone." in page
    assert "After it: the cancelling, the cancellation mail." in page


def test_several_orders_are_summed_up_and_obstacles_are_named(boss: Browser) -> None:
    first, second, shipped = complete(), complete(amount="38.80", held=1), complete()
    set_status(shipped, "shipped")
    selection = {"action": "cancel_selected", "_selected_action": [o.pk for o in (first, second, shipped)]}
    page = read_page(boss.post(LIST, selection))
    assert "2 of 3 rows can be done, 100.00 EUR refunded, 4 units moved, 2 mails sent" in page
    assert "It has been shipped and can no longer be cancelled." in page
    assert 'value="Cancel order (2)"' in page


def test_preview_changes_nothing(boss: Browser) -> None:
    order = stick(complete())
    before = (OrderAction.objects.count(), OutboxMessage.objects.count())
    for slug in ACTIONS:
        boss.get(act_on(slug), {"order": str(order.pk)})
    order.refresh_from_db()
    assert order.status == "cancelling"
    assert (OrderAction.objects.count(), OutboxMessage.objects.count()) == before


def test_preview_takes_the_same_number_of_queries_for_any_number_of_orders(boss: Browser) -> None:
    def count(number: int) -> int:
        orders = [str(complete().pk) for _ in range(number)]
        return count_queries(boss, act_on("cancel"), {"order": orders})

    assert count(2) == count(20)


def test_nothing_can_be_confirmed_where_nothing_can_be_done(boss: Browser) -> None:
    page = read_page(boss.get(act_on("ship"), {"order": str(place().pk)}))
    assert "It is pending; only a completed order can be shipped." in page
    assert 'type="submit"' not in page.partition('id="act_form"')[2]


# --- the reason -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"choice": "Ordered twice"}, "Ordered twice"),
        ({"reason": "she called"}, "she called"),
        ({"choice": "Ordered twice", "reason": "see ticket 12"}, "Ordered twice: see ticket 12"),
    ],
)
def test_reason_is_chosen_or_written_or_both(boss: Browser, given: dict[str, str], kept: str) -> None:
    order = complete()
    boss.post(act_on("cancel"), {"target": str(order.pk), **given})
    action = OrderAction.objects.get(kind="cancel_order")
    assert (action.actor, action.reason) == ("boss", kept)
    assert LogEntry.objects.get(object_id=str(order.pk)).change_message == f"Cancel: {kept}"


@pytest.mark.parametrize("slug", ACTIONS)
def test_every_action_asks_for_a_reason(boss: Browser, slug: str) -> None:
    order = stick(complete())
    before = OrderAction.objects.count()
    answer = boss.post(act_on(slug), confirmation(order, part="refund_payment", reason="  "))
    assert answer.status_code == 200
    assert OrderAction.objects.count() == before
    impossible = boss.post(act_on(slug), {"target": str(order.pk), "choice": "made up"})
    assert impossible.status_code == 200
    assert OrderAction.objects.count() == before
