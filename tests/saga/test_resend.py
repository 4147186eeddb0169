"""A mail that a person has sent again: a message of its own, durable, and honest when it is refused."""

from typing import Any

import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from notifications import services as notifications_services
from notifications.models import EmailMessage
from orders import desk
from orders.models import AttentionFlag, Order, OutboxMessage
from orders.refusals import StateConflict
from tests.conftest import until
from tests.desk import aplace, books_of, call, hand_over, mails_in_sink, run_to_the_end
from tests.faults import refusing_mail_server, silent_mail_server, unwilling_mail_server
from tests.saga.test_stuck_undo import begin_cancel, until_flagged, until_state


async def resend(order: Order, kind: str = "confirmation", reason: str = "lost") -> bool:
    """Ask for the order's mail again; whether a copy was made."""

    def find() -> int:
        return EmailMessage.objects.get(order=order, kind=kind, copy=0).pk

    email_id = await run_in_db(find)
    decision = await call(desk.resend_email, order_id=order.pk, email_id=email_id, actor="ada", reason=reason)
    return decision.changed


async def until_mails(order: Order, *mails: str) -> None:
    """Wait until the books show these mails."""

    async def have_come() -> bool:
        return (await books_of(order)).mails == sorted(mails)

    await until(have_come, what=f"the mails {mails}")


async def test_resent_mail_is_a_message_of_its_own(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    assert await resend(order)
    await hand_over(worker)
    await until_mails(order, "confirmation sent", "confirmation sent")
    sent = await mails_in_sink(order)
    assert len(sent) == 2
    assert any(f"confirmation.{order.pk}.1@" in message_id for message_id in sent)


async def test_second_click_sends_no_second_copy(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    assert await resend(order)
    assert not await resend(order)
    await hand_over(worker)
    await until_mails(order, "confirmation sent", "confirmation sent")
    assert await resend(order)  # the first has arrived: asking again is asking for another


async def test_mail_that_was_never_sent_is_made_good_by_its_copy(worker: Client, settings: Any) -> None:
    settings.SAGA_EMAIL_REQUIRED = False
    settings.SAGA_STEP_DEADLINE = 1.0
    settings.EMAIL_PORT, working = 1, settings.EMAIL_PORT
    order = await run_to_the_end(worker, await aplace())
    assert order.status == "completed"
    assert (await books_of(order)).attention
    settings.SAGA_STEP_DEADLINE = 60.0
    assert await resend(order)
    await hand_over(worker)
    # The copy is retried while the mail server is away, and flagged with what it says.
    await until_flagged(order, "resend_email")

    async def says_why() -> bool:
        return any("tried on: [Errno 111]" in reason for reason in (await books_of(order)).attention)

    await until(says_why, what="the flag quotes the error")
    settings.EMAIL_PORT = working
    await until_mails(order, "confirmation sent", "confirmation settled_by_hand")

    async def is_calm() -> bool:
        return (await books_of(order)).attention == []

    await until(is_calm, what="both flags are cleared")


async def test_copy_that_the_mail_server_refuses_for_good_is_flagged(worker: Client, settings: Any) -> None:
    order = await run_to_the_end(worker, await aplace())
    with refusing_mail_server() as settings.EMAIL_PORT:
        assert await resend(order)
        await hand_over(worker)
        reason = await until_flagged(order, "resend_email")
    assert "could not be sent again" in reason
    assert "confirmation refused" in (await books_of(order)).mails
    await call(desk.acknowledge, order_id=order.pk, subject="resend_email", actor="ada", reason="called her")
    assert await resend(order)


async def test_confirmation_of_a_cancelled_order_is_not_sent_again(worker: Client) -> None:
    order = await begin_cancel(worker, "tok_ok")
    await until_state(order, "send_cancellation_email", "done")
    with pytest.raises(StateConflict, match="confirmation is not sent again"):
        await resend(order)
    assert await resend(order, "cancellation")


async def test_mail_that_the_rollback_still_sends_is_not_sent_again(worker: Client, settings: Any) -> None:
    order = await run_to_the_end(worker, await aplace())
    with silent_mail_server() as (port, may_answer, _):
        settings.EMAIL_PORT = port
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
        await hand_over(worker)
        await until_state(order, "send_cancellation_email", "running")
        with pytest.raises(StateConflict, match="still sending"):
            await resend(order, "cancellation")
        may_answer.set()
        await until_state(order, "send_cancellation_email", "done")


async def test_resending_needs_a_reason(worker: Client) -> None:
    order = await run_to_the_end(worker, await aplace())
    with pytest.raises(StateConflict, match="reason"):
        await resend(order, reason=" ")
    assert not await run_in_db(AttentionFlag.objects.exists)


async def test_copy_of_a_confirmation_is_withdrawn_when_its_order_is_cancelled(
    worker: Client, settings: Any
) -> None:
    order = await run_to_the_end(worker, await aplace())
    settings.EMAIL_PORT, working = 1, settings.EMAIL_PORT
    assert await resend(order)
    await hand_over(worker)
    reason = await until_flagged(order, "resend_email")
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(worker)
    await until_state(order, "send_cancellation_email", "failed")
    settings.EMAIL_PORT = working
    await until_mails(order, "confirmation sent", "confirmation withdrawn", "cancellation sent")
    assert len(await mails_in_sink(order)) == 2

    async def is_calm() -> bool:
        return (await books_of(order)).attention == []

    await until(is_calm, what=f"the flag is cleared: {reason}")


async def test_copy_that_nobody_takes_before_its_deadline_is_given_up_and_says_why(
    worker: Client, settings: Any
) -> None:
    order = await run_to_the_end(worker, await aplace())
    settings.SAGA_STEP_DEADLINE = 2.0
    with unwilling_mail_server() as settings.EMAIL_PORT:
        assert await resend(order)
        await hand_over(worker)
        await until_mails(order, "confirmation sent", "confirmation refused")
    [reason] = (await books_of(order)).attention
    assert "before the deadline" in reason
    assert "554" in reason
    await call(desk.acknowledge, order_id=order.pk, subject="resend_email", actor="ada", reason="seen")
    assert await resend(order)


async def test_refused_copy_stays_refused_when_its_attempt_is_repeated(worker: Client) -> None:
    """The worker may die between the refusal's record and Temporal's hearing of it."""
    order = await run_to_the_end(worker, await aplace())
    assert await resend(order)

    def refuse_and_repeat() -> str:
        copy = EmailMessage.objects.get(order=order, copy=1)
        notifications_services.refuse_copy(email_id=copy.pk, error="no such mailbox.")
        notifications_services.close_copy(email_id=copy.pk)
        copy.refresh_from_db()
        return copy.state

    assert await run_in_db(refuse_and_repeat) == "refused"
    assert len((await books_of(order)).attention) == 1
    await hand_over(worker)
    await worker.get_workflow_handle(await run_in_db(find_resend, order=order)).result()
    assert len((await books_of(order)).attention) == 1


def find_resend(order: Order) -> str:
    """The id of the workflow that sends the order's copy."""
    return OutboxMessage.objects.get(order=order, name="ResendEmail").workflow_id
