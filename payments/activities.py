"""The saga's payment activities: the network calls, between two transactions each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import lru_cache

from django.conf import settings
from temporalio import activity
from temporalio.exceptions import ApplicationError

from config.temporal import run_in_db
from orders.models import StepState
from orders.refusals import AlreadyUndone, PaymentRefused, RefundRefused
from payments import services
from payments.gateways import protocol
from payments.gateways.sandbox import SandboxGateway


@lru_cache(maxsize=1)
def open_gateway() -> protocol.Gateway:
    """This process's gateway client, with its kept-alive connections."""
    return SandboxGateway(settings.PAYMENT_GATEWAY_URL, timeout=settings.PAYMENT_GATEWAY_TIMEOUT)


def limit_wait(seconds: float) -> timedelta:
    """The gateway's wish for a pause, within what the sagas promise between two attempts."""
    return timedelta(seconds=min(seconds, settings.SAGA_RETRY_MAXIMUM))


@asynccontextmanager
async def asking_the_gateway() -> AsyncIterator[protocol.Gateway]:
    """The gateway, with its wait for a retry (Retry-After) passed on to Temporal."""
    try:
        yield open_gateway()
    except protocol.GatewayUnavailable as error:
        raise ApplicationError(
            str(error),
            type="GatewayUnavailable",
            next_retry_delay=None if error.retry_after is None else limit_wait(error.retry_after),
        ) from error


@activity.defn
async def process_payment(order_id: str) -> None:
    """Step: charge the order's total. Refuses with PaymentRefused when the gateway declines."""
    request = await run_in_db(services.start_charge, order_id=order_id, last=False)
    try:
        async with asking_the_gateway() as gateway:
            charge = await gateway.charge(
                key=request.key,
                amount_minor=request.amount_minor,
                currency=request.currency,
                token=request.token,
            )
    except protocol.PaymentDeclined as declined:
        refusal = await run_in_db(
            services.record_decline, order_id=order_id, code=declined.code, message=str(declined)
        )
        raise refusal from declined
    except protocol.GatewayMisuse as misuse:
        # The gateway will never take this charge as it is; the rollback's `close` makes sure of it.
        raise PaymentRefused(str(misuse)) from misuse
    except protocol.ChargeClosed as closed:
        raise AlreadyUndone(str(closed)) from closed
    await run_in_db(services.record_charge, order_id=order_id, charge=charge)


@activity.defn
async def refund_payment(order_id: str) -> str:
    """Undo: close the charge's key at the gateway and give back what was taken, if anything was."""
    if await run_in_db(services.start_refund, order_id=order_id, last=False) == StepState.RESOLVED:
        await look_for_late_refund(order_id)
        return await run_in_db(services.start_refund, order_id=order_id)
    try:
        async with asking_the_gateway() as gateway:
            charge = await gateway.close(key=services.charge_key(order_id))
            if charge is None:
                return await run_in_db(services.record_nothing_charged, order_id=order_id)
            await run_in_db(services.record_found_charge, order_id=order_id, charge=charge, last=False)
            refund = await gateway.refund(
                key=services.refund_key(order_id), charge_id=charge.id, amount_minor=charge.amount_minor
            )
    except protocol.RefundRefused as refused:
        raise RefundRefused(str(refused)) from refused
    return await run_in_db(services.record_refund, order_id=order_id, charge=charge, refund=refund)


async def look_for_late_refund(order_id: str) -> None:
    """Ask once whether the gateway has given the money back although a person has settled it outside.

    An answer that was lost hides such a refund. The person's word lets the saga go on either way; a gateway
    that cannot be asked leaves a flag.
    """
    gateway = open_gateway()
    try:
        charge = await gateway.find(key=services.charge_key(order_id))
    except (protocol.GatewayUnavailable, protocol.GatewayMisuse) as error:
        await run_in_db(services.flag_unchecked_refund, order_id=order_id, error=str(error), last=False)
        return
    if charge is not None and charge.refunded_minor:
        refund = protocol.Refund(
            id="", key=services.refund_key(order_id), charge_id=charge.id, amount_minor=charge.refunded_minor
        )
        await run_in_db(services.record_refund, order_id=order_id, charge=charge, refund=refund, last=False)
