"""The numbers of today: what they count, and what they leave out."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from inventory.catalogue import seed_catalogue
from orders import today
from orders.models import (
    OutboxMessage,
)
from payments import services as payments
from tests.desk import place
from tests.e2e.doors import set_status
from tests.trouble import charge, make_old

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def shop_without_saga(settings: Any) -> None:
    seed_catalogue()
    settings.OUTBOX_FAST_PATH = False


def test_numbers_of_today_leave_yesterday_out(settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    kept, undone, before = place(), place(), place()
    charge(kept)
    charge(undone)
    set_status(undone, "cancelled")
    payments.start_refund(order_id=undone.pk)
    payments.settle_refund_outside(order_id=undone.pk, reference="bank", note="by hand")
    set_status(before, "completed")
    make_old(before, accepted_at=30 * 3600)
    numbers = today.count_orders()
    assert (numbers.accepted.today, numbers.rollbacks.today) == (2, 1)
    assert (numbers.undone, numbers.undone_percent, numbers.in_progress) == (1, 50, 1)
    assert today.sum_money().today == Decimal("400.00")


def test_yesterday_counts_up_to_this_time_of_day() -> None:
    earlier, later = place(), place()
    make_old(earlier, accepted_at=86_400 + 1)
    make_old(later, accepted_at=86_400 - 60)
    now = timezone.localtime()
    numbers = today.count_orders()
    was_yesterday = (now - timedelta(days=1, seconds=1)).date() == (now - timedelta(days=1)).date()
    assert numbers.accepted.yesterday == (1 if was_yesterday else 0)


def test_backlog_is_what_temporal_has_to_be_told() -> None:
    assert today.measure_backlog() == today.Backlog(0, None)
    first, _ = place(), place()
    backlog = today.measure_backlog()
    assert backlog.count == 2
    assert backlog.oldest == OutboxMessage.objects.get(order=first).created_at
