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
from orders.models import StepState
from orders.refusals import EmailRefused

logger = logging.getLogger("notifications")


@lru_cache(maxsize=1)
def mail_threads() -> ThreadPoolExecutor:
    """Threads that wait for the mail server, so that no database thread does."""
    return ThreadPoolExecutor(settings.WORKER_MAIL_THREADS, thread_name_prefix="mail")


# Mails that this process is sending, by order and kind: a thread goes on when its attempt was given up.
_sending: dict[tuple[str, str], asyncio.Task[None]] = {}


@activity.defn
async def send_confirmation_email(order_id: str) -> None:
    """Step: tell the customer that the order is placed."""
    earlier = _sending.get((order_id, EmailKind.CONFIRMATION))
    prepared = await run_in_db(services.prepare_confirmation, order_id=order_id, last=False)
    await deliver(prepared, earlier)


@activity.defn
async def send_cancellation_email(order_id: str) -> str:
    """Undo of the confirmation: tell the customer that the order is cancelled."""
    earlier = _sending.get((order_id, EmailKind.CANCELLATION))
    prepared = await run_in_db(services.prepare_cancellation, order_id=order_id, last=False)
    if prepared.email.state == EmailState.SETTLED_BY_HAND:
        await run_in_db(services.prepare_cancellation, order_id=order_id)
        return StepState.RESOLVED
    await deliver(prepared, earlier)
    return StepState.DONE


async def deliver(prepared: services.PreparedEmail, earlier: asyncio.Task[None] | None) -> None:
    """Send the mail unless it was sent, and record it. Raises EmailRefused for a permanent SMTP refusal.

    A slow mail server can outlast an attempt. Its answer counts all the same, and the next attempt in this
    process waits for it instead of sending the mail again. `earlier` is what was being sent before the mail
    was read: reading first could miss the answer that comes in between.
    """
    email = prepared.email
    key = (str(email.order_id), email.kind)
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
        await asyncio.get_running_loop().run_in_executor(mail_threads(), message.send)
    except smtplib.SMTPRecipientsRefused as error:
        if all(500 <= code < 600 for code, _ in error.recipients.values()):
            # The address stays out of the message: it would enter Temporal's history.
            raise EmailRefused("the mail server refuses the recipient for good") from error
        raise
    await run_in_db(services.record_sent, email_id=email.pk)


def _forget(key: tuple[str, str], task: asyncio.Task[None]) -> None:
    """Drop a finished task; a permanent refusal stays for the attempt that follows, if its own has gone."""
    error = None if task.cancelled() else task.exception()
    if not isinstance(error, EmailRefused):
        _sending.pop(key, None)
    if error is not None:
        logger.warning("%s mail of order %s was not sent: %s", key[1], key[0], type(error).__name__)
