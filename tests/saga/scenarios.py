"""The stories a saga can have, each run to its end. Their histories are kept and replayed."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.test import override_settings
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy

from config.temporal import run_in_db
from inventory.models import StockItem
from notifications.models import EmailMessage
from orders import desk, patrol
from orders.dispatch import read_policy
from orders.models import Order
from orders.sagas.policy import SagaInput
from orders.services import Item
from tests.conftest import until
from tests.desk import (
    LAPTOPS,
    aplace,
    call,
    fetch,
    hand_over,
    read_trail,
    resolve,
    run_to_the_end,
    saga_of,
    withdraw,
)
from tests.faults import pausing, refusing_mail_server, unwilling_mail_server
from tests.saga.losing import reach

Saga = WorkflowHandle[Any, str]


async def until_failed(order: Order, name: str) -> None:
    """Wait until an attempt of this step or undo has failed."""

    async def has_failed() -> bool:
        return (name, "failed") in read_trail(await fetch(order))

    await until(has_failed, what=f"{name} failed")


async def complete(client: Client) -> Saga:
    return saga_of(client, await run_to_the_end(client, await aplace()))


async def decline(client: Client) -> Saga:
    return saga_of(client, await run_to_the_end(client, await aplace(LAPTOPS)))


async def run_out_of_stock(client: Client) -> Saga:
    available = (await run_in_db(StockItem.objects.get, product__sku="TEE-M")).available
    return saga_of(client, await run_to_the_end(client, await aplace([Item("TEE-M", available + 1)])))


async def cancel_midway(client: Client) -> Saga:
    order = await aplace(token="tok_error_500")
    await hand_over(client)
    await until_failed(order, "process_payment")
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)
    await saga_of(client, order).result()
    return saga_of(client, order)


async def resolve_stuck_undo(client: Client) -> Saga:
    order = await run_to_the_end(client, await aplace(token="tok_ok__refund_refused"))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)
    await until_failed(order, "refund_payment")
    await resolve(order, "refund_payment", reason="test", reference="transfer 1")
    await hand_over(client)
    await saga_of(client, order, cancel=True).result()
    return saga_of(client, order, cancel=True)


async def resend_mail(client: Client) -> Saga:
    order = await run_to_the_end(client, await aplace())
    return await resend_confirmation(client, order)


async def give_up_mail(client: Client) -> Saga:
    order = await run_to_the_end(client, await aplace())
    with unwilling_mail_server() as port, override_settings(EMAIL_PORT=port, SAGA_STEP_DEADLINE=1.0):
        return await resend_confirmation(client, order)


async def resend_confirmation(client: Client, order: Order) -> Saga:
    """Have the order's confirmation sent again, and see it through."""

    def ask() -> str:
        email = EmailMessage.objects.get(order=order, copy=0)
        decision = desk.resend_email(order_id=order.pk, email_id=email.pk, actor="ada", reason="lost")
        assert decision.message is not None
        return decision.message.workflow_id

    workflow_id = await run_in_db(ask)
    await hand_over(client)
    handle: Saga = client.get_workflow_handle(workflow_id, result_type=str)
    await handle.result()
    return handle


async def refuse_copy(client: Client) -> Saga:
    order = await run_to_the_end(client, await aplace())
    with refusing_mail_server() as port, override_settings(EMAIL_PORT=port):
        return await resend_confirmation(client, order)


async def withdraw_product(client: Client) -> Saga:
    order = await aplace()
    await run_in_db(withdraw, sku="HEAD-ANC")
    return saga_of(client, await run_to_the_end(client, order))


async def cancel_at_once(client: Client) -> Saga:
    order = await aplace()
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)  # the start; the signal waits for it
    return saga_of(client, await run_to_the_end(client, order))


async def pay_late(client: Client) -> Saga:
    return saga_of(client, await run_to_the_end(client, await aplace(token="tok_error_500_x2")))


async def miss_the_deadline(client: Client) -> Saga:
    with override_settings(SAGA_STEP_DEADLINE=0.5):
        return saga_of(client, await run_to_the_end(client, await aplace(token="tok_error_500")))


async def close_late(client: Client) -> Saga:
    order = await aplace(token="tok_declined__close_error_500_x2")
    return saga_of(client, await run_to_the_end(client, order))


async def refuse_confirmation(client: Client) -> Saga:
    """The mail server refuses the address, and takes the cancellation mail later on."""
    order = await aplace()
    with (
        pausing("orders_order", "UPDATE", when="NEW.status = 'cancelling'") as pause,
        refusing_mail_server() as port,
        override_settings(EMAIL_PORT=port),
    ):
        await hand_over(client)
        await reach(pause)
    return saga_of(client, await run_to_the_end(client, order))


async def complete_without_mail(client: Client) -> Saga:
    with (
        refusing_mail_server() as port,
        override_settings(EMAIL_PORT=port, SAGA_EMAIL_REQUIRED=False),
    ):
        return saga_of(client, await run_to_the_end(client, await aplace()))


async def cancel_before_completion(client: Client) -> Saga:
    """The cancel is in the database and its signal is not there yet: `complete_order` refuses."""
    order = await aplace()
    with pausing("notifications_emailmessage", "UPDATE", when="NEW.state = 'sent'") as pause:
        await hand_over(client)
        await reach(pause)
        await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await saga_of(client, order).result()
    return saga_of(client, order)


async def cancel_by_temporal(client: Client) -> Saga:
    order = await aplace(token="tok_error_500")
    await hand_over(client)
    await until_failed(order, "process_payment")
    await saga_of(client, order).cancel()
    await saga_of(client, order).result()
    return saga_of(client, order)


async def cancel_again_while_it_rolls_back(client: Client) -> Saga:
    order = await aplace(token="tok_declined")
    with pausing("orders_stepkey", "UPDATE", when="NEW.step = 'reserve_inventory'") as pause:
        await hand_over(client)
        await reach(pause)
        await saga_of(client, order).cancel()
        await saga_of(client, order).signal("cancel")
    await saga_of(client, order).result()
    return saga_of(client, order)


async def take_back(client: Client, token: str = "tok_ok") -> Saga:
    order = await run_to_the_end(client, await aplace(token=token))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)
    await saga_of(client, order, cancel=True).result()
    return saga_of(client, order, cancel=True)


async def release_before_the_refund(client: Client) -> Saga:
    with override_settings(SAGA_RELEASE_AFTER=0.2):
        return await take_back(client, "tok_ok__refund_error_500_x8")


async def retry_refused_refund(client: Client) -> Saga:
    order = await run_to_the_end(client, await aplace(token="tok_ok__refund_refused_x1"))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)
    await until_failed(order, "refund_payment")
    await call(desk.retry_undo, order_id=order.pk, undo="refund_payment", actor="ada")
    await hand_over(client)
    await saga_of(client, order, cancel=True).result()
    return saga_of(client, order, cancel=True)


async def retry_refund_in_flight(client: Client) -> Saga:
    """The person's word overtakes the answer of the attempt in flight, which is refused."""
    order = await run_to_the_end(client, await aplace(token="tok_ok__refund_refused_x1"))
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    refused = "NEW.name = 'refund_payment' AND NEW.state = 'failed'"
    with pausing("orders_trailentry", "UPDATE", when=refused) as pause:
        await hand_over(client)
        await reach(pause)
        await saga_of(client, order, cancel=True).signal("retry_undo", "refund_payment")
    await saga_of(client, order, cancel=True).result()
    return saga_of(client, order, cancel=True)


async def settle_cancellation_mail(client: Client) -> Saga:
    with refusing_mail_server() as port, override_settings(EMAIL_PORT=port):
        order = await aplace(LAPTOPS)
        await hand_over(client)
        await until_failed(order, "send_cancellation_email")
        await resolve(order, "send_cancellation_email", reason="by phone", reference="call 1")
    return saga_of(client, await run_to_the_end(client, order))


async def start_again(client: Client, saga: str) -> Saga:
    """As when Temporal has forgotten the first one, whose order has come to its end."""
    order = await run_to_the_end(client, await aplace(LAPTOPS))
    handle: Saga = await client.start_workflow(
        saga,
        SagaInput(order_id=str(order.pk), policy=read_policy()),
        id=f"order-{order.pk}" if saga == "PlaceOrderSaga" else f"order-{order.pk}-cancel",
        task_queue=settings.SAGA_TASK_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        result_type=str,
    )
    await handle.result()
    return handle


async def repair_a_lost_one(client: Client) -> Saga:
    order = await aplace(token="tok_error_500")
    await hand_over(client)
    await until_failed(order, "process_payment")
    await saga_of(client, order).terminate()

    async def is_repaired() -> bool:
        return await patrol.repair_lost_sagas(client, asyncio.Event()) > 0

    with override_settings(REPAIR_AFTER=0.3):
        await until(is_repaired, what="the loss was noticed")
    await saga_of(client, order, cancel=True).result()
    return saga_of(client, order, cancel=True)


# By the name of its saved history: the story, and how it ends.
SCENARIOS: dict[str, tuple[Callable[[Client], Awaitable[Saga]], str]] = {
    "completed": (complete, "completed"),
    "completed_after_outage": (pay_late, "completed"),
    "completed_without_mail": (complete_without_mail, "completed"),
    # Rolled back at each step, and for each kind of reason.
    "not_sellable": (withdraw_product, "cancelled"),
    "out_of_stock": (run_out_of_stock, "cancelled"),
    "declined": (decline, "cancelled"),
    "declined_and_closed_late": (close_late, "cancelled"),
    "deadline_missed": (miss_the_deadline, "cancelled"),
    "confirmation_refused": (refuse_confirmation, "cancelled"),
    "cancelled_before_completion": (cancel_before_completion, "cancelled"),
    "cancelled_at_once": (cancel_at_once, "cancelled"),
    "cancelled_midway": (cancel_midway, "cancelled"),
    "cancelled_by_temporal": (cancel_by_temporal, "cancelled"),
    "cancelled_again": (cancel_again_while_it_rolls_back, "cancelled"),
    "cancellation_mail_settled": (settle_cancellation_mail, "cancelled"),
    # Taken back once complete, or in the place of a lost saga.
    "taken_back": (take_back, "cancelled"),
    "released_before_refund": (release_before_the_refund, "cancelled"),
    "stuck_undo_resolved": (resolve_stuck_undo, "cancelled"),
    "stuck_undo_retried": (retry_refused_refund, "cancelled"),
    "undo_retried_in_flight": (retry_refund_in_flight, "cancelled"),
    "lost_and_repaired": (repair_a_lost_one, "cancelled"),
    "started_again": (partial(start_again, saga="PlaceOrderSaga"), "already_final"),
    "taken_back_again": (partial(start_again, saga="CancelOrderSaga"), "already_final"),
    # Mails sent again.
    "mail_resent": (resend_mail, "sent"),
    "mail_refused": (refuse_copy, "refused"),
    "mail_given_up": (give_up_mail, "given_up"),
}
