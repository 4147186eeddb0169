"""An attempt's row in the trail and its effect are one transaction."""

from functools import partial

import pytest
from django.db import DatabaseError

from config.temporal import current_attempt, run_in_db
from inventory import services
from inventory.models import Hold
from orders.models import Order, StepState, TrailEntry
from orders.refusals import PaymentRefused
from orders.trail import StepAttempt
from payments import services as payments
from payments.models import PaymentEvent
from tests.desk import aplace
from tests.faults import failing


async def test_effect_and_its_row_in_the_trail_commit_together_or_not_at_all(shop: None) -> None:
    order = await aplace()
    with failing("orders_trailentry", "INSERT", times=1):
        with pytest.raises(DatabaseError, match="injected"):
            await attempt_to_reserve(order)
        assert not await run_in_db(Hold.objects.filter(order=order).exists)
    await attempt_to_reserve(order)
    assert await run_in_db(Hold.objects.filter(order=order).exists)
    assert (await run_in_db(TrailEntry.objects.get, order=order)).state == StepState.DONE


async def test_attempt_after_the_rollback_began_does_not_hide_why_the_step_had_failed(shop: None) -> None:
    order = await aplace()
    attempt = StepAttempt(str(order.pk), "create_order", 1, "worker")
    for error_type, message in [("OrderNotSellable", "not on sale"), ("AlreadyUndone", "cancelled")]:
        await run_in_db(
            attempt.write_failure, error_type=error_type, message=message, final=True, retry_at=None
        )
    entry = await run_in_db(TrailEntry.objects.get, order=order)
    assert (entry.error_type, entry.error) == ("OrderNotSellable", "not on sale")


async def test_decline_and_its_row_in_the_trail_commit_together_or_not_at_all(shop: None) -> None:
    order = await aplace()
    token = current_attempt.set(StepAttempt(str(order.pk), "process_payment", 1, "worker"))
    try:
        await run_in_db(payments.start_charge, order_id=order.pk, last=False)
        decline = partial(payments.record_decline, order_id=order.pk, code="no_funds", message="No funds.")
        with failing("orders_trailentry", "UPDATE", times=1):
            with pytest.raises(DatabaseError, match="injected"):
                await run_in_db(decline)
            assert not await run_in_db(PaymentEvent.objects.filter(payment__order=order).exists, last=False)
        refusal = await run_in_db(decline)
    finally:
        current_attempt.reset(token)
    assert isinstance(refusal, PaymentRefused)
    assert await run_in_db(PaymentEvent.objects.filter(payment__order=order).exists)
    entry = await run_in_db(TrailEntry.objects.get, order=order)
    assert (entry.state, entry.error_type, entry.error) == ("failed", "PaymentRefused", "No funds.")


async def attempt_to_reserve(order: Order) -> None:
    """As the interceptor does it: an attempt is open while the effect is carried out."""
    token = current_attempt.set(StepAttempt(str(order.pk), "reserve_inventory", 1, "worker"))
    try:
        await run_in_db(services.reserve_inventory, order_id=order.pk)
    finally:
        current_attempt.reset(token)
