"""The stories a saga can have, each run to its end. Their histories are kept and replayed."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.test import override_settings
from temporalio.client import Client, WorkflowHandle

from config.temporal import run_in_db
from inventory.models import StockItem
from notifications.models import EmailMessage
from orders import desk
from orders.models import Order
from orders.services import Item
from tests.conftest import until
from tests.desk import LAPTOPS, aplace, call, fetch, hand_over, read_trail, resolve, run_to_the_end, saga_of
from tests.faults import unwilling_mail_server

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


# By the name of its saved history: the story, and how it ends.
SCENARIOS: dict[str, tuple[Callable[[Client], Awaitable[Saga]], str]] = {
    "completed": (complete, "completed"),
    "declined": (decline, "cancelled"),
    "out_of_stock": (run_out_of_stock, "cancelled"),
    "cancelled_midway": (cancel_midway, "cancelled"),
    "stuck_undo_resolved": (resolve_stuck_undo, "cancelled"),
    "mail_resent": (resend_mail, "sent"),
    "mail_given_up": (give_up_mail, "given_up"),
}
