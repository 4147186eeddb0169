"""Undos that are stuck: what goes on without them, and how a person sets them going or settles them."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from orders import desk
from orders.models import AttentionFlag, Order, OrderStatus
from orders.refusals import StateConflict
from tests.conftest import until
from tests.desk import (
    LAPTOPS,
    acheck_stock_sums,
    aplace,
    books_of,
    call,
    fetch,
    gateway_ledger,
    hand_over,
    read_trail,
    resolve,
    run_to_the_end,
    saga_of,
    undos_of,
)
from tests.faults import failing, pausing, silent_mail_server


async def begin_cancel(client: Client, token: str) -> Order:
    """A completed order whose cancel has been handed over."""
    order = await run_to_the_end(client, await aplace(token=token))
    assert order.status == OrderStatus.COMPLETED
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="wrong colour")
    await hand_over(client)
    return order


async def until_state(order: Order, undo: str, state: str) -> None:
    """Wait until the trail shows the undo in this state."""

    async def has_come() -> bool:
        return (undo, state) in read_trail(await fetch(order))

    await until(has_come, what=f"{undo} {state}")


async def until_flagged(order: Order, subject: str, *, within: float = 20.0) -> str:
    """Wait until the order is flagged for a person, and return the reason."""

    def find() -> str:
        flag = AttentionFlag.objects.filter(order=order, subject=subject, cleared_at=None).first()
        return flag.reason if flag else ""

    reason: str = await until(lambda: run_in_db(find), within=within, what=f"flag about {subject}")
    return reason


async def test_stuck_refund_holds_back_the_close_but_not_the_release(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok__refund_error_500")
    await until_state(order, "release_inventory", "done")
    reason = await until_flagged(order, "refund_payment")
    assert "refund_payment" in reason
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLING
    assert "cancel_order" not in dict(read_trail(order))
    await saga_of(worker, order, cancel=True).terminate()


async def test_retrying_goes_on_by_itself_and_success_clears_the_flag(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok__refund_error_500_x5")
    await until_flagged(order, "refund_payment")
    await saga_of(worker, order, cancel=True).result()
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    books = await books_of(order)
    assert (books.attention, books.net) == ([], 0)
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_retry_undo_cuts_the_wait(worker: Client, settings: Any) -> None:
    settings.SAGA_RETRY_INITIAL = 300.0
    settings.SAGA_RETRY_MAXIMUM = 300.0
    order = await begin_cancel(worker, "tok_ok__refund_error_500_x1")
    await until_state(order, "refund_payment", "failed")
    await call(desk.retry_undo, order_id=order.pk, undo="refund_payment", actor="ada", reason="bank is back")
    await hand_over(worker)
    await asyncio.wait_for(saga_of(worker, order, cancel=True).result(), 20)
    assert (await fetch(order)).status == OrderStatus.CANCELLED


async def test_permanent_refusal_waits_for_a_person_and_retry_sets_it_going(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok__refund_refused_x1")
    assert "refused for good" in await until_flagged(order, "refund_payment")
    await until_state(order, "release_inventory", "done")
    await call(desk.retry_undo, order_id=order.pk, undo="refund_payment", actor="ada", reason="bank says yes")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    order = await fetch(order)
    assert ("refund_payment", "done") in undos_of(order)
    assert (await books_of(order)).attention == []


async def test_rollback_that_waits_for_a_person_is_not_ended_by_temporals_cancel(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok__refund_refused_x1")
    await until_flagged(order, "refund_payment")
    await until_state(order, "release_inventory", "done")
    # Nothing is in flight now that would be awaited: only the shield keeps the rollback going.
    await saga_of(worker, order, cancel=True).cancel()
    await call(desk.retry_undo, order_id=order.pk, undo="refund_payment", actor="ada", reason="bank says yes")
    await hand_over(worker)
    assert await asyncio.wait_for(saga_of(worker, order, cancel=True).result(), 20) == "cancelled"
    assert (await fetch(order)).status == OrderStatus.CANCELLED
    assert await gateway_ledger(order) == ["charge", "refund"]


async def test_resolved_refund_counts_in_the_sums_and_lets_the_saga_go_on(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok__refund_refused")
    await until_flagged(order, "refund_payment")
    await resolve(order, "refund_payment", reason="card expired", reference="transfer 4711")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    order = await fetch(order)
    assert order.status == OrderStatus.CANCELLED
    assert ("refund_payment", "resolved") in undos_of(order)
    books = await books_of(order)
    assert (books.events, books.net) == (["charged", "settled_outside"], 0)
    assert books.attention == []
    assert await gateway_ledger(order) == ["charge"]
    assert books.mails == ["cancellation sent", "confirmation sent"]


async def resolve_between_attempts(order: Order) -> bool:
    """The saga goes on trying: a person who meets an attempt in flight presses again."""
    try:
        await resolve(order, "release_inventory", reason="counted by hand", reference="stocktake 12")
    except StateConflict:
        return False
    return True


async def test_resolved_release_frees_the_stock(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    with failing("inventory_hold", "UPDATE", when="NEW.state = 'released'", times=1_000_000):
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
        await hand_over(worker)
        await until_flagged(order, "release_inventory")
        await until(lambda: resolve_between_attempts(order), what="an end of the attempt in flight")
        await hand_over(worker)
        await saga_of(worker, order, cancel=True).result()
    assert ("release_inventory", "resolved") in undos_of(await fetch(order))
    books = await books_of(order)
    assert (books.held, books.holds) == (0, ["settled_by_hand"])
    await acheck_stock_sums()


async def test_resolve_is_refused_while_an_attempt_is_in_flight(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    with pausing("payments_paymentevent", "INSERT", when="NEW.kind = 'refunded'") as pause:
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
        await hand_over(worker)
        await until(lambda: asyncio.to_thread(pause.is_reached), what="the refund being recorded")
        resolving = asyncio.create_task(
            resolve(order, "refund_payment", reason="impatient", reference="none")
        )
        with pytest.raises(StateConflict, match="in flight"):
            await resolving
        pause.release()
    await saga_of(worker, order, cancel=True).result()
    books = await books_of(order)
    assert (books.events, books.net) == (["charged", "refunded"], 0)


@pytest.mark.parametrize(
    ("undo", "reason", "reference", "says"),
    [
        ("refund_payment", "because", "x1", "is not stuck"),
        ("refund_payment", " ", "x1", "Give a reason"),
        ("refund_payment", "because", "", "Give a reason"),
        ("cancel_order", "because", "x1", "not stuck"),
        ("no_such_undo", "because", "x1", "There is no undo"),
    ],
)
async def test_resolve_is_checked_before_it_is_recorded(
    worker: Client, undo: str, reason: str, reference: str, says: str
) -> None:
    order = await run_to_the_end(worker, await aplace())
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    with pytest.raises(StateConflict, match=says):
        await resolve(order, undo, reason=reason, reference=reference)
    actions = await run_in_db(lambda: list(order.actions.values_list("kind", flat=True)))
    assert actions == ["place_order", "cancel_order"]


async def test_refund_of_a_charge_we_never_heard_of_can_be_settled(worker: Client, settings: Any) -> None:
    """The charge's answer was lost and the refund is refused: the books know the charge all the same."""
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 60.0
    order = await aplace(token="tok_answer_lost__refund_refused")
    await hand_over(worker)
    await until_state(order, "process_payment", "failed")
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await until_flagged(order, "refund_payment")
    assert (await books_of(order)).net == order.total
    await resolve(order, "refund_payment", reason="card expired", reference="transfer 4711")
    await hand_over(worker)
    await saga_of(worker, order).result()
    books = await books_of(order)
    assert (books.events, books.net) == (["charged", "settled_outside"], 0)


async def test_refund_whose_answer_was_lost_before_it_was_settled_is_flagged(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 60.0
    order = await begin_cancel(worker, "tok_ok__refund_answer_lost")
    await until_state(order, "refund_payment", "failed")
    await resolve(order, "refund_payment", reason="no answer", reference="transfer 4711")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    books = await books_of(order)
    assert books.events == ["charged", "settled_outside", "refunded"]
    assert books.net == -order.total
    assert any("after it had been settled outside" in reason for reason in books.attention)


async def test_begin_rollback_that_keeps_failing_is_flagged(worker: Client) -> None:
    order = await aplace(LAPTOPS)
    with failing("orders_order", "UPDATE", when="NEW.status = 'cancelling'", times=6):
        await hand_over(worker)
        assert "begin_rollback" in await until_flagged(order, "begin_rollback")
        await saga_of(worker, order).result()
    assert (await books_of(order)).attention == []


async def test_attempts_that_only_time_out_are_flagged_and_can_be_retried(
    worker: Client, settings: Any
) -> None:
    """The mail server does not answer in time: no attempt ever reports back."""
    settings.SAGA_ATTEMPT_TIMEOUT = 0.5
    settings.EMAIL_TIMEOUT = 60
    order = await run_to_the_end(worker, await aplace())
    with silent_mail_server() as (port, may_answer, received):
        settings.EMAIL_PORT = port
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
        await hand_over(worker)
        assert "has failed" in await until_flagged(order, "send_cancellation_email", within=60)
        may_answer.set()
        await saga_of(worker, order, cancel=True).result()
    books = await books_of(order)
    assert (books.mails, books.attention) == (["cancellation sent", "confirmation sent"], [])
    assert len(received) == 1  # the attempts that followed waited for the first one's answer


async def test_settled_refund_that_the_gateway_cannot_be_asked_about_is_flagged(
    worker: Client, settings: Any
) -> None:
    settings.SAGA_RETRY_INITIAL = settings.SAGA_RETRY_MAXIMUM = 60.0
    order = await begin_cancel(worker, "tok_ok__refund_answer_lost__find_error_500")
    await until_state(order, "refund_payment", "failed")
    await resolve(order, "refund_payment", reason="no answer", reference="transfer 4711")
    await hand_over(worker)
    await saga_of(worker, order, cancel=True).result()
    books = await books_of(order)
    assert books.events == ["charged", "settled_outside"]
    assert any("could not be asked" in reason for reason in books.attention)
