"""The saga's mail activities."""

import asyncio
import logging
import smtplib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

from django.conf import settings
from temporalio import activity

from config.temporal import run_in_db
from notifications import services
from notifications.models import EmailKind, EmailMessage, EmailState
from notifications.outgoing import send_message
from orders.models import StepState
from orders.refusals import EmailRefused

logger = logging.getLogger("notifications")


@lru_cache(maxsize=1)
def mail_threads() -> ThreadPoolExecutor:
    """Threads that wait for the mail server, so that no database thread does."""
    return ThreadPoolExecutor(settings.WORKER_MAIL_THREADS, thread_name_prefix="mail")


# Mails that this process is sending, by order and kind or copy: a thread goes on when its attempt was given
# up.
_sending: dict[tuple[str, str], asyncio.Task[None]] = {}


@activity.defn
async def send_confirmation_email(order_id: str) -> None:
    """Step: tell the customer that the order is placed."""
    key = (order_id, EmailKind.CONFIRMATION)
    earlier = _sending.get(key)
    prepared = await run_in_db(services.prepare_confirmation, order_id=order_id, last=False)
    await deliver(prepared, key, earlier)


@activity.defn
async def send_cancellation_email(order_id: str) -> str:
    """Undo of the confirmation: tell the customer that the order is cancelled."""
    key = (order_id, EmailKind.CANCELLATION)
    earlier = _sending.get(key)
    prepared = await run_in_db(services.prepare_cancellation, order_id=order_id, last=False)
    if prepared.email.state == EmailState.SETTLED_BY_HAND:
        await run_in_db(services.prepare_cancellation, order_id=order_id)
        return StepState.RESOLVED
    await deliver(prepared, key, earlier)
    return StepState.DONE


@activity.defn
async def resend_email(order_id: str, email_id: int) -> str:
    """Send a copy that a person asked for. Neither a step nor an undo: not in the trail. Returns its state.

    A permanent refusal by the mail server ends it with a flag: the copy is not tried again.
    """
    key = (order_id, f"copy {email_id}")
    earlier = _sending.get(key)
    prepared = await run_in_db(services.prepare_copy, email_id=email_id)
    if prepared.email.state in (EmailState.REFUSED, EmailState.WITHDRAWN):
        return prepared.email.state
    try:
        await deliver(prepared, key, earlier)
    except EmailRefused as refused:
        await run_in_db(services.refuse_copy, email_id=email_id, error=f"{refused}.")
        return EmailState.REFUSED
    except (OSError, smtplib.SMTPException) as error:
        await run_in_db(services.explain_copy, email_id=email_id, error=str(error))
        raise
    await run_in_db(services.close_copy, email_id=email_id)
    return EmailState.SENT


@activity.defn
async def give_up_copy(order_id: str, email_id: int, last_error: str) -> None:
    """The copy was not sent before its deadline: flag it. Not in the trail, as `resend_email`."""
    error = f"the mail server has not taken it before the deadline: {last_error}"
    await run_in_db(services.refuse_copy, email_id=email_id, error=error)


async def deliver(
    prepared: services.PreparedEmail, key: tuple[str, str], earlier: asyncio.Task[None] | None
) -> None:
    """Send the mail unless it was sent, and record it. Raises EmailRefused for a permanent SMTP refusal.

    A slow mail server can outlast an attempt. Its answer counts all the same, and the next attempt in this
    process waits for it instead of sending the mail again. `earlier` is what was being sent before the mail
    was read: reading first could miss the answer that comes in between.
    """
    email = prepared.email
    task = earlier or _sending.get(key)
    is_ours = task is None and prepared.is_due
    if is_ours:
        task = _sending[key] = asyncio.create_task(send(email))
        task.add_done_callback(partial(_forget, key))
    if task is not None:
        try:
            await asyncio.shield(task)
        except EmailRefused:
            _sending.pop(key, None)
            raise
    if not is_ours:
        await run_in_db(services.record_sent, email_id=email.pk)


async def send(email: EmailMessage) -> None:
    """Send the mail on a mail thread, and record it. Raises EmailRefused for a permanent SMTP refusal."""
    message = services.build_message(email)
    try:
        await asyncio.get_running_loop().run_in_executor(mail_threads(), send_message, message)
    except smtplib.SMTPRecipientsRefused as error:
        if all(500 <= code < 600 for code, _ in error.recipients.values()):
            # The address stays out of the message: it would enter Temporal's history.
            raise EmailRefused("the mail server refuses the recipient for good") from error
        codes = ", ".join(str(code) for code, _ in error.recipients.values())
        raise ConnectionRefusedError(f"the mail server refuses the recipient for now ({codes})") from None
    await run_in_db(services.record_sent, email_id=email.pk)


def _forget(key: tuple[str, str], task: asyncio.Task[None]) -> None:
    """Drop a finished task; a permanent refusal stays for the attempt that follows, if its own has gone."""
    error = None if task.cancelled() else task.exception()
    if not isinstance(error, EmailRefused):
        _sending.pop(key, None)
    if error is not None:
        logger.warning("%s mail of order %s was not sent: %s", key[1], key[0], type(error).__name__)
