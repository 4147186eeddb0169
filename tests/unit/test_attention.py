"""The work queue: every kind of trouble becomes one sentence with the actions a person may take."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inventory.catalogue import seed_catalogue
from inventory.models import Product
from inventory.services import adjust_stock
from notifications.services import prepare_confirmation
from orders import repairs
from orders.attention import LIMIT, list_work
from orders.models import (
    AttentionFlag,
    CancelRequest,
    Order,
    OutboxMessage,
    TrailEntry,
)
from orders.sentences import WorkKind
from orders.trail import flag_repeated
from payments import services as payments
from tests.desk import place
from tests.e2e.doors import make_user, set_status
from tests.trouble import VIEWS, ask_to_cancel, charge, fail, make_old, only, slugs

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def shop_without_saga(settings: Any) -> None:
    seed_catalogue()
    settings.OUTBOX_FAST_PATH = False


@pytest.fixture
def boss() -> User:
    return make_user("boss", superuser=True)


# --- each kind ---------------------------------------------------------------------------------------------


def test_shop_without_trouble_needs_nobody(boss: User) -> None:
    place()
    queue = list_work(boss)
    assert (queue.items, queue.totals, queue.total) == ([], {}, 0)


def test_stuck_refund_names_amount_reason_and_attempts(boss: User) -> None:
    order = place()
    charge(order)
    set_status(order, "cancelling")
    fail(order, "refund_payment", "the gateway answered\n with an error.")
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"The refund of 400.00 EUR for order {order.number} is stuck: "
        "the gateway answered with an error (12 attempts)."
    )
    assert (item.kind, item.order_id, slugs(item)) == (WorkKind.UNDO, order.pk, ["retry", "resolve"])
    assert item.actions[0].arguments == {"undo": "refund_payment"}
    assert item.since == AttentionFlag.objects.get().raised_at


def test_stuck_undo_says_when_it_is_tried_again(boss: User) -> None:
    order = place()
    set_status(order, "cancelling")
    retry_at = timezone.now() + timedelta(minutes=1)
    fail(order, "release_inventory", "locked", retry_at=retry_at)
    item = only(list_work(boss).items)
    assert item.sentence.startswith(f"The release of stock for order {order.number} is stuck: locked")
    assert f"(12 attempts, next at {timezone.localtime(retry_at):%H:%M})" in item.sentence


def test_refund_refused_for_good_says_so(boss: User) -> None:
    order = place()
    charge(order)
    set_status(order, "cancelling")
    retry_at = timezone.now() + timedelta(minutes=1)
    fail(
        order,
        "refund_payment",
        "the card is closed",
        attempts=1,
        error_type="RefundRefused",
        retry_at=retry_at,
    )
    item = only(list_work(boss).items)
    assert item.after == " is stuck and refused for good: the card is closed (1 attempt)."


def test_undo_that_only_timed_out_is_listed(boss: User) -> None:
    order = place()
    set_status(order, "cancelling")
    flag_repeated(order_id=str(order.pk), activity="refund_payment", number=11)
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"The refund for order {order.number} is stuck: refund_payment has failed 10 times and is retried."
    )
    assert slugs(item) == ["retry", "resolve"]


def test_cancel_order_can_only_be_retried(boss: User) -> None:
    order = place()
    set_status(order, "cancelling")
    fail(order, "cancel_order", "the database was away")
    assert slugs(only(list_work(boss).items)) == ["retry"]


def test_failing_step_offers_the_cancel(boss: User) -> None:
    order = place()
    fail(order, "process_payment", "no answer")
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"The payment of 400.00 EUR for order {order.number} keeps failing: no answer (12 attempts)."
    )
    assert (item.kind, slugs(item)) == (WorkKind.STEP, ["cancel"])


def test_cancel_that_refunds_takes_the_permission_to_refund() -> None:
    order = place()
    charge(order)
    fail(order, "send_confirmation_email", "no answer")
    clerk = make_user("clerk", *VIEWS, "cancel_order")
    teller = make_user("teller", *VIEWS, "cancel_order", "refund_order")
    assert slugs(only(list_work(clerk).items)) == []
    assert [action.label for action in only(list_work(teller).items).actions] == ["Cancel and refund"]


def test_step_whose_cancel_was_asked_for_is_not_cancelled_twice(boss: User) -> None:
    order = place()
    fail(order, "process_payment", "no answer")
    Order.objects.filter(pk=order.pk).update(cancel_requested_at=timezone.now())
    assert slugs(only(list_work(boss).items)) == []


def test_completed_order_without_its_confirmation_is_offered_the_mail(boss: User) -> None:
    order = place()
    email = prepare_confirmation(order_id=order.pk).email
    set_status(order, "completed")
    AttentionFlag.objects.raise_flag(order.pk, "send_confirmation_email", "it was not sent")
    item = only(list_work(boss).items)
    assert item.sentence.startswith(f"The confirmation mail for order {order.number} was not sent.")
    assert (item.kind, slugs(item)) == (WorkKind.MAIL, ["resend", "acknowledge"])
    assert item.actions[0].arguments == {"email": str(email.pk)}


def test_stuck_cancellation_mail_can_be_retried_and_resolved(boss: User) -> None:
    order = place()
    set_status(order, "cancelled")
    fail(order, "send_cancellation_email", "mailbox unavailable")
    item = only(list_work(boss).items)
    assert item.sentence.startswith(f"The cancellation mail for order {order.number} is stuck: mailbox")
    assert (item.kind, slugs(item)) == (WorkKind.MAIL, ["retry", "resolve"])


def test_finding_is_acknowledged_once_the_saga_has_ended(boss: User) -> None:
    order = place()
    set_status(order, "cancelling")
    AttentionFlag.objects.raise_flag(order.pk, payments.REFUNDED_TWICE, "400.00 EUR went back twice")
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"Order {order.number}: 400.00 EUR went back twice. It can be acknowledged once the saga has ended."
    )
    assert (item.kind, slugs(item)) == (WorkKind.FINDING, [])
    set_status(order, "cancelled")
    item = only(list_work(boss).items)
    assert [(action.slug, action.arguments) for action in item.actions] == [
        ("acknowledge", {"subject": payments.REFUNDED_TWICE})
    ]
    repairs.acknowledge(order_id=order.pk, subject=payments.REFUNDED_TWICE, actor="ada", reason="seen")
    assert list_work(boss).items == []


def test_order_that_does_not_move_is_listed_with_its_last_sign(boss: User) -> None:
    order = place()
    make_old(order, accepted_at=3600)
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"Order {order.number} over 400.00 EUR does not move: it is pending, and no step has run yet."
    )
    assert (item.kind, slugs(item)) == (WorkKind.WAITING, ["cancel"])
    began = timezone.now() - timedelta(seconds=900)
    entry = TrailEntry.objects.create(
        order=order, name="process_payment", kind="step", state="running", started_at=began
    )
    item = only(list_work(boss).items)
    assert "its last sign was the payment (running)." in item.sentence
    assert item.since == began
    TrailEntry.objects.filter(pk=entry.pk).update(started_at=timezone.now())
    assert list_work(boss).items == []


@pytest.mark.parametrize("status", ["completed", "shipped", "cancelled"])
def test_ended_orders_do_not_wait(boss: User, status: str) -> None:
    order = place()
    set_status(order, status)
    make_old(order, accepted_at=3600)
    assert list_work(boss).items == []


def test_rollback_that_has_just_begun_counts_as_progress(boss: User) -> None:
    order = place()
    set_status(order, "cancelling")
    make_old(order, accepted_at=3600)
    assert list_work(boss).items == []
    make_old(order, rollback_started_at=1800)
    assert slugs(only(list_work(boss).items)) == []


def test_flagged_order_is_not_listed_as_waiting_too(boss: User) -> None:
    order = place()
    make_old(order, accepted_at=3600)
    AttentionFlag.objects.raise_flag(order.pk, "process_payment", "it keeps failing")
    assert only(list_work(boss).items).kind == WorkKind.STEP


def test_order_temporal_was_not_told_of_is_listed_once(boss: User) -> None:
    order = place()
    make_old(order, accepted_at=3600)
    OutboxMessage.objects.filter(order=order).update(
        created_at=timezone.now() - timedelta(hours=1),
        delivered_at=None,
        attempts=7,
        last_error="RPCError: no route.",
    )
    item = only(list_work(boss).items)
    assert item.sentence == (
        f"Temporal has not been told to start order {order.number}: RPCError: no route (7 attempts)."
    )
    assert (item.kind, slugs(item)) == (WorkKind.UNTOLD, [])


def test_cancelled_order_whose_customer_was_never_told_is_waiting(boss: User) -> None:
    told, forgotten, old = place(), place(), place()
    for order in (told, forgotten, old):
        set_status(order, "cancelled")
    long_ago = timezone.now() - timedelta(hours=1)
    Order.objects.update(accepted_at=long_ago, rollback_started_at=long_ago, rolled_back_at=long_ago)
    Order.objects.filter(pk=old.pk).update(rollback_started_at=long_ago - timedelta(days=8))
    TrailEntry.objects.create(
        order=told,
        name="send_cancellation_email",
        kind="undo",
        state="done",
        started_at=long_ago,
        finished_at=long_ago,
    )
    assert [item.order_id for item in list_work(boss).items] == [forgotten.pk]


def test_cancel_awaits_a_second_person() -> None:
    order = place()
    set_status(order, "completed")
    sees = ("view_order", "view_cancelrequest")
    ada = make_user("ada", *sees, "cancel_order", "approve_refund")
    bob = make_user("bob", *sees, "approve_refund")
    clerk, blind = make_user("clerk", *sees), make_user("blind", "view_order")
    ask_to_cancel(order, ada, "damaged in transit.")
    item = only(list_work(bob).items)
    assert item.sentence == (
        f"ada asks to cancel order {order.number} and refund 900.00 EUR: damaged in transit."
    )
    assert (item.kind, slugs(item)) == (WorkKind.APPROVAL, ["approve", "reject"])
    assert item.actions[0].arguments == {"request": str(CancelRequest.objects.get().pk)}
    assert slugs(only(list_work(ada).items)) == ["withdraw"]
    assert slugs(only(list_work(clerk).items)) == []
    assert list_work(blind).items == []


def test_low_stock_is_listed_by_what_is_left(boss: User) -> None:
    for sku, left in (("TEE-M", 5), ("MUG-STONE", 0)):
        product = Product.objects.select_related("stock").get(sku=sku)
        adjust_stock(product_id=product.pk, change=left - product.stock.on_hand, note="count")
    withdrawn = Product.objects.create(sku="OLD", name="Old", price=1, is_active=False)
    unbooked = Product.objects.create(sku="NEW", name="New", price=1)
    items = list_work(boss).items
    assert [item.sentence for item in items] == [
        "Stoneware mug (MUG-STONE): none left. Low stock is 5 or fewer.",
        "New (NEW): none left. Low stock is 5 or fewer.",
        "Organic T-shirt, M (TEE-M): 5 left. Low stock is 5 or fewer.",
    ]
    assert items[1].product_id == unbooked.pk
    assert withdrawn.pk not in {item.product_id for item in items}
    assert [slugs(item) for item in items] == [["stock"]] * 3


# --- the queue as a whole -----------------------------------------------------------------------------------


def make_trouble(boss: User, count: int) -> None:
    """`count` of each kind."""
    for index in range(count):
        stuck, failing, waiting, found, asked, untold, mail = (place() for _ in range(7))
        charge(stuck)
        set_status(stuck, "cancelling")
        fail(stuck, "refund_payment", "no answer")
        fail(failing, "process_payment", "no answer")
        make_old(waiting, accepted_at=3600 + index)
        set_status(found, "cancelled")
        AttentionFlag.objects.raise_flag(found.pk, payments.REFUNDED_TWICE, "twice")
        set_status(asked, "completed")
        ask_to_cancel(asked, boss, "damaged")
        OutboxMessage.objects.filter(order=untold).update(created_at=timezone.now() - timedelta(hours=1))
        set_status(mail, "completed")
        AttentionFlag.objects.raise_flag(mail.pk, "send_confirmation_email", "not sent")
        Product.objects.create(sku=f"LOW-{stuck.number}", name="Low", price=1)


def test_queries_do_not_grow_with_the_queue(boss: User) -> None:
    queries = []
    for _ in range(2):
        make_trouble(boss, 2)
        user = User.objects.get(pk=boss.pk)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            list_work(user)
        queries.append(len(captured))
    assert queries[0] == queries[1] <= 10


def test_each_kind_is_limited_and_counted(boss: User) -> None:
    make_trouble(boss, LIMIT + 1)
    queue = list_work(boss)
    kinds = [kind for kind in WorkKind if kind != WorkKind.AUDIT]
    assert queue.totals == dict.fromkeys(kinds, LIMIT + 1)
    assert queue.left_out == dict.fromkeys(kinds, 1)
    assert len(queue.items) == LIMIT * len(kinds)


def test_what_stands_still_comes_first_and_the_oldest_of_it(boss: User) -> None:
    make_trouble(boss, 2)
    items = list_work(boss).items
    kinds = [item.kind for item in items]
    assert set(kinds[:8]) == {WorkKind.UNDO, WorkKind.STEP, WorkKind.UNTOLD, WorkKind.WAITING}
    assert kinds[-2:] == [WorkKind.STOCK] * 2
    since = [item.since for item in items[:8] if item.since]
    assert len(since) == 8
    assert since == sorted(since)


def test_everybody_sees_what_they_may_see(boss: User) -> None:
    make_trouble(boss, 1)
    seen = {
        name: set(list_work(make_user(name, *permissions)).totals)
        for name, permissions in {
            "nobody": (),
            "warehouse": ("view_order",),
            "viewer": VIEWS,
            "stockkeeper": ("view_product", "adjust_stock"),
        }.items()
    }
    assert seen == {
        "nobody": set(),
        "warehouse": {WorkKind.WAITING},
        "viewer": set(WorkKind) - {WorkKind.STOCK, WorkKind.AUDIT},
        "stockkeeper": {WorkKind.STOCK},
    }


def test_viewers_are_offered_nothing_to_do(boss: User) -> None:
    make_trouble(boss, 1)
    viewer = make_user("viewer", *VIEWS, "view_product")
    assert {slug for item in list_work(viewer).items for slug in slugs(item)} == set()


@pytest.mark.parametrize(
    ("permission", "slug"),
    [
        ("cancel_order", {"cancel"}),
        ("retry_undo", {"retry", "acknowledge"}),
        ("resolve_undo", {"resolve"}),
        ("approve_refund", {"approve", "reject"}),
        ("adjust_stock", {"stock"}),
    ],
)
def test_each_permission_offers_its_own_actions(boss: User, permission: str, slug: set[str]) -> None:
    make_trouble(boss, 1)
    staff = make_user("staff", *VIEWS, "view_product", permission)
    assert {slug for item in list_work(staff).items for slug in slugs(item)} == slug


def test_long_reasons_are_cut(boss: User) -> None:
    order = place()
    set_status(order, "completed")
    ask_to_cancel(order, boss, "damaged " * 200)
    assert len(only(list_work(boss).items).sentence) < 300
