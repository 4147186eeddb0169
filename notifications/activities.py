"""The saga's mail activities."""

import asyncio
import smtplib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from django.conf import settings
from temporalio import activity

from config.temporal import run_in_db
from notifications import services
from notifications.models import EmailState
from orders.models import StepState
from orders.refusals import EmailRefused


@lru_cache(maxsize=1)
def mail_threads() -> ThreadPoolExecutor:
    """Threads that wait for the mail server, so that no database thread does."""
    return ThreadPoolExecutor(settings.WORKER_MAIL_THREADS, thread_name_prefix="mail")


@activity.defn
async def send_confirmation_email(order_id: str) -> None:
    """Step: tell the customer that the order is placed."""
    prepared = await run_in_db(services.prepare_confirmation, order_id=order_id, last=False)
    await deliver(prepared)


@activity.defn
async def send_cancellation_email(order_id: str) -> str:
    """Undo of the confirmation: tell the customer that the order is cancelled."""
    prepared = await run_in_db(services.prepare_cancellation, order_id=order_id, last=False)
    if prepared.email.state == EmailState.SETTLED_BY_HAND:
        return StepState.RESOLVED
    await deliver(prepared)
    return StepState.DONE


async def deliver(prepared: services.PreparedEmail) -> None:
    """Send the mail unless it was sent, and record it. Raises EmailRefused for a permanent SMTP refusal."""
    if prepared.is_due:
        message = services.build_message(prepared.email)
        try:
            await asyncio.get_running_loop().run_in_executor(mail_threads(), message.send)
        except smtplib.SMTPRecipientsRefused as error:
            if all(500 <= code < 600 for code, _ in error.recipients.values()):
                # The address stays out of the message: it would enter Temporal's history.
                raise EmailRefused("the mail server refuses the recipient for good") from error
            raise
    await run_in_db(services.record_sent, email_id=prepared.email.pk)
