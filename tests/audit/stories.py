"""Orders of every kind there can be, made by real sagas: what an audit must find nothing wrong with."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.contrib.auth.models import User
from django.test import override_settings
from temporalio.client import Client

from config.temporal import run_in_db
from orders import desk
from orders.models import AttentionFlag, Order, OutboxMessage
from orders.refusals import StateConflict
from orders.services import Item
from tests.conftest import until
from tests.desk import HEADPHONES, LAPTOPS, aplace, call, fetch, hand_over, resolve, run_to_the_end, saga_of
from tests.faults import failing, unwilling_mail_server
from tests.saga.scenarios import resend_confirmation, until_failed
from tests.webhooks import make_client, make_endpoint, place_for

# An attempt that has failed waits so long that what happens next is up to the test.
PATIENT = {"SAGA_RETRY_INITIAL": 600.0, "SAGA_RETRY_MAXIMUM": 600.0, "SAGA_STEP_DEADLINE": 3600.0}
TWO_LINES = [*HEADPHONES, Item("PEN-BRASS", 3)]


async def until_flagged(order: Order, subject: str) -> None:
    flags = AttentionFlag.objects.filter(order=order, subject=subject, cleared_at=None)
    await until(lambda: run_in_db(flags.exists), what=f"a flag about {subject}")


async def cancel(client: Client, order: Order) -> None:
    """Cancel it and hand that over."""
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)


async def settle(order: Order, undo: str, *, reason: str, reference: str) -> None:
    """Resolve an undo that fails again and again: between two attempts, as the desk asks for."""

    async def has_settled() -> bool:
        try:
            await resolve(order, undo, reason=reason, reference=reference)
        except StateConflict as conflict:
            if "in flight" not in str(conflict):
                raise
            return False
        return True

    await until(has_settled, what=f"{undo} settled by hand")


async def accepted(client: Client) -> Order:
    """Nothing of it has run yet."""
    return await aplace()


async def wait_to_pay(client: Client, *, token: str) -> Order:
    """In flight: its payment has failed and waits for the next attempt."""
    with override_settings(**PATIENT):
        order = await aplace(token=token)
        await hand_over(client)
    await until_failed(order, "process_payment")
    return order


async def paying(client: Client) -> Order:
    """The gateway keeps failing."""
    return await wait_to_pay(client, token="tok_error_500")


async def answer_lost(client: Client) -> Order:
    """The gateway has charged, and we have not heard of it."""
    return await wait_to_pay(client, token="tok_answer_lost")


async def completed(client: Client) -> Order:
    return await run_to_the_end(client, await aplace(TWO_LINES))


async def of_a_client(client: Client) -> Order:
    """Placed by a machine client, who was told by a webhook."""

    def ask() -> Order:
        make_endpoint("https://shop.example/hook")
        return place_for(make_client())

    return await run_to_the_end(client, await run_in_db(ask))


async def shipped(client: Client) -> Order:
    order = await run_to_the_end(client, await aplace(TWO_LINES))
    await call(desk.ship_order, order_id=order.pk, actor="ada")
    return order


async def retried(client: Client) -> Order:
    """Completed after failures that were flagged."""
    return await run_to_the_end(client, await aplace(token="tok_error_500_x5"))


async def not_sold(client: Client) -> Order:
    """Fails at step 1."""
    order = await aplace([Item("LAMP-DESK", 1)])
    with failing("orders_order", "UPDATE", when="NEW.status = 'cancelling'", times=1):
        await run_in_db(take_off_sale, sku="LAMP-DESK")
        return await run_to_the_end(client, order)


def take_off_sale(*, sku: str) -> None:
    from inventory.models import Product

    Product.objects.filter(sku=sku).update(is_active=False)


async def out_of_stock(client: Client) -> Order:
    """Fails at step 2."""
    return await run_to_the_end(client, await aplace([Item("BAG-ROLL", 5000)]))


async def declined(client: Client) -> Order:
    """Fails at step 3: the 2700.00 case."""
    return await run_to_the_end(client, await aplace(LAPTOPS))


async def decline_lost(client: Client) -> Order:
    """Declined, which we never heard, and then cancelled."""
    with override_settings(**PATIENT):
        order = await aplace(LAPTOPS, token="tok_answer_lost")
        await hand_over(client)
    await until_failed(order, "process_payment")
    await cancel(client, order)
    await saga_of(client, order).result()
    return order


async def unconfirmed(client: Client) -> Order:
    """Fails at step 4: the confirmation cannot be delivered."""
    with unwilling_mail_server() as port, override_settings(EMAIL_PORT=port, SAGA_STEP_DEADLINE=1.0):
        order = await aplace()
        await hand_over(client)
        await until_failed(order, "send_cancellation_email")
    await saga_of(client, order).result()
    return order


async def completed_unconfirmed(client: Client) -> Order:
    """Completed although its confirmation could not be delivered, and flagged."""
    optional = {"SAGA_STEP_DEADLINE": 1.0, "SAGA_EMAIL_REQUIRED": False}
    with unwilling_mail_server() as port, override_settings(EMAIL_PORT=port, **optional):
        return await run_to_the_end(client, await aplace())


async def acknowledged(client: Client) -> Order:
    """As `completed_unconfirmed`, and a person has seen to it."""
    order = await completed_unconfirmed(client)
    subject = "send_confirmation_email"
    await call(desk.acknowledge, order_id=order.pk, subject=subject, actor="ada", reason="rang up")
    return order


async def resent(client: Client) -> Order:
    """Its confirmation was sent again."""
    order = await run_to_the_end(client, await aplace())
    await resend_confirmation(client, order)
    return order


async def cancelled_at_once(client: Client) -> Order:
    """Cancelled before its saga began."""
    order = await aplace()
    await call(desk.cancel_order, order_id=order.pk, actor="ada", reason="test")
    await hand_over(client)
    await hand_over(client)
    await saga_of(client, order).result()
    return order


async def cancelled_paying(client: Client) -> Order:
    """Cancelled while its payment failed."""
    order = await paying(client)
    await cancel(client, order)
    await saga_of(client, order).result()
    return order


async def cancelled_after_lost_answer(client: Client) -> Order:
    """Cancelled while only the gateway knew of its charge."""
    order = await answer_lost(client)
    await cancel(client, order)
    await saga_of(client, order).result()
    return order


async def taken_back(client: Client) -> Order:
    """Completed, and then cancelled by staff."""
    order = await run_to_the_end(client, await aplace(TWO_LINES))
    await cancel(client, order)
    await saga_of(client, order, cancel=True).result()
    return order


async def awaiting_approval(client: Client) -> Order:
    """Completed; its cancel waits for a second person."""
    order = await run_to_the_end(client, await aplace([Item("HEAD-ANC", 3)]))

    def ask() -> None:
        boss = User.objects.create(username="boss", is_superuser=True)
        desk.cancel_order_as_staff(order_id=order.pk, staff=boss, reason="test")

    await run_in_db(ask)
    return order


async def refund_stuck(client: Client) -> Order:
    """Being cancelled: its refund keeps failing, and is flagged."""
    order = await run_to_the_end(client, await aplace(token="tok_ok__refund_error_500"))
    await cancel(client, order)
    await until_flagged(order, "refund_payment")
    return order


async def settled_outside(client: Client) -> Order:
    """Its refund was refused, and a person has transferred the money."""
    order = await run_to_the_end(client, await aplace(token="tok_ok__refund_refused"))
    await cancel(client, order)
    await until_flagged(order, "refund_payment")
    await resolve(order, "refund_payment", reason="card expired", reference="transfer 1")
    await hand_over(client)
    await saga_of(client, order, cancel=True).result()
    return order


async def refunded_twice(
    client: Client, *, token: str = "tok_ok__refund_answer_lost", reference: str = "transfer 2"
) -> Order:
    """Settled outside, although the gateway had refunded: its answer was lost. Flagged."""
    with override_settings(**PATIENT):
        order = await run_to_the_end(client, await aplace(token=token))
        await cancel(client, order)
        await until_failed(order, "refund_payment")
        await resolve(order, "refund_payment", reason="no answer", reference=reference)
        await hand_over(client)
    await saga_of(client, order, cancel=True).result()
    return order


async def refund_unchecked(client: Client) -> Order:
    """As `refunded_twice`, but the gateway could not be asked: only a flag says that it might be so."""
    token = "tok_ok__refund_answer_lost__find_error_500"
    return await refunded_twice(client, token=token, reference="transfer 3")


async def released_by_hand(client: Client) -> Order:
    """Its release kept failing, and a person has settled it."""
    order = await run_to_the_end(client, await aplace([Item("TEE-M", 1)]))
    with failing("inventory_hold", "UPDATE", when="NEW.state = 'released'", times=1_000_000):
        await cancel(client, order)
        await until_flagged(order, "release_inventory")
        await settle(order, "release_inventory", reason="counted", reference="stocktake 1")
        await hand_over(client)
        await saga_of(client, order, cancel=True).result()
    return order


async def told_by_hand(client: Client) -> Order:
    """Its cancellation mail could not be delivered, and a person has rung the customer up."""
    order = await run_to_the_end(client, await aplace())
    with unwilling_mail_server() as port, override_settings(EMAIL_PORT=port):
        await cancel(client, order)
        await until_flagged(order, "send_cancellation_email")
        await settle(order, "send_cancellation_email", reason="rang up", reference="call 1")
        await hand_over(client)
        await saga_of(client, order, cancel=True).result()
    return order


Story = Callable[[Client], Awaitable[Order]]
STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        *(paying, answer_lost, completed, of_a_client, shipped, retried, not_sold, out_of_stock),
        *(declined, decline_lost, unconfirmed, completed_unconfirmed, acknowledged, resent),
        *(cancelled_at_once, cancelled_paying, cancelled_after_lost_answer, taken_back, awaiting_approval),
        *(refund_stuck, settled_outside, refunded_twice, refund_unchecked, released_by_hand, told_by_hand),
        accepted,  # the last one: each hand-over takes all that waits for one
    )
}


async def tell_stories(client: Client) -> dict[str, Order]:
    """An order of each kind. A worker must be at work."""
    return {name: await fetch(await story(client)) for name, story in STORIES.items()}


async def stop_sagas(client: Client) -> None:
    """End what would go on for ever."""
    ids: list[Any] = await run_in_db(
        lambda: list(OutboxMessage.objects.values_list("workflow_id", flat=True))
    )
    for workflow_id in set(ids):
        handle = client.get_workflow_handle(workflow_id)
        try:
            if (await handle.describe()).close_time is None:
                await handle.terminate("the test has ended")
        except Exception as error:
            if "not found" not in str(error):
                raise
