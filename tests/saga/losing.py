"""What the tests of lost sagas share: holding a saga at a point, searching, and how its order must end."""

import asyncio
from contextlib import AbstractContextManager

from temporalio.client import Client

from config.temporal import run_in_db
from orders import patrol
from orders.audit.books import audit_books
from orders.audit.rule import Scope
from orders.models import SAGA_LOST, AttentionFlag, Order, OrderStatus, OutboxMessage
from orders.selectors import is_settled, summarise_trail
from tests.conftest import until
from tests.desk import (
    UNDOS,
    acheck_stock_sums,
    books_of,
    fetch,
    gateway_ledger,
    hand_over,
    mails_in_sink,
    read_trail,
)
from tests.faults import Pause, pausing

# The round is not broken off.
NEVER = asyncio.Event()
# Where an attempt of each can be held: its first statement that changes something.
HELD_AT: dict[str, tuple[str, str, str]] = {
    "create_order": ("orders_stepkey", "INSERT", "NEW.step = 'create_order'"),
    "reserve_inventory": ("orders_stepkey", "INSERT", "NEW.step = 'reserve_inventory'"),
    "process_payment": ("orders_stepkey", "INSERT", "NEW.step = 'process_payment'"),
    "charge taken, not recorded": ("payments_paymentevent", "INSERT", "NEW.kind = 'charged'"),
    "send_confirmation_email": ("orders_stepkey", "INSERT", "NEW.step = 'send_confirmation_email'"),
    "mail sent, not recorded": ("notifications_emailmessage", "UPDATE", "NEW.kind = 'confirmation'"),
    "complete_order": ("orders_order", "UPDATE", "NEW.status = 'completed'"),
    "refund_payment": (
        "orders_stepkey",
        "UPDATE",
        "NEW.step = 'process_payment' AND NEW.undone_at IS NOT NULL",
    ),
    "release_inventory": (
        "orders_stepkey",
        "UPDATE",
        "NEW.step = 'reserve_inventory' AND NEW.undone_at IS NOT NULL",
    ),
    "cancel_order": ("orders_order", "UPDATE", "NEW.status = 'cancelled'"),
    "send_cancellation_email": ("notifications_emailmessage", "INSERT", "NEW.kind = 'cancellation'"),
}


def holding(name: str) -> AbstractContextManager[Pause]:
    table, event, when = HELD_AT[name]
    return pausing(table, event, when=when)


async def reach(pause: Pause) -> None:
    await until(lambda: asyncio.to_thread(pause.is_reached), what="the breakpoint")


async def repair_until_settled(client: Client, order: Order, *, within: float = 30.0) -> Order:
    """Rounds of the search, and deliveries, as workers make them, until the order has come to an end."""

    async def is_over() -> bool:
        await patrol.repair_lost_sagas(client, NEVER)
        await hand_over(client)
        found = await fetch(order)
        return is_settled(found, summarise_trail(found.trail.all()))

    await until(is_over, within=within, what="the order has come to its end")
    return await fetch(order)


async def check_rolled_back(order: Order, *, losses: int = 1) -> None:
    """Nothing is held, nothing charged, the customer told once; trail and queue say what was lost."""
    found, books = await fetch(order), await books_of(order)
    assert found.status == OrderStatus.CANCELLED
    assert (books.held, books.net) == (0, 0)
    ledger = await gateway_ledger(order)
    assert ledger.count("charge") == ledger.count("refund") <= 1
    assert [mail for mail in books.mails if "cancellation" in mail] == ["cancellation sent"]
    assert len([mail for mail in await mails_in_sink(order) if "cancellation" in mail]) == 1
    assert {name for name, state in read_trail(found) if name in UNDOS} == set(UNDOS)
    assert {state for name, state in read_trail(found) if name in UNDOS} <= {"done", "nothing_to_undo"}
    lines = [entry for entry in found.trail.all() if entry.name == SAGA_LOST]
    assert [(entry.kind, entry.state) for entry in lines] == [("saga", "lost")] * losses
    assert await run_in_db(read_open_flags, order=order) == [SAGA_LOST] * bool(losses)
    await check_audit(order)


async def check_audit(order: Order) -> None:
    """The books of the order balance."""
    await acheck_stock_sums()
    report = await audit_books(Scope(order_id=order.pk), ask_temporal=False)
    assert [violation.sentence for violation in report.violations] == []


def read_open_flags(order: Order) -> list[str]:
    return list(AttentionFlag.objects.filter(order=order, cleared_at=None).values_list("subject", flat=True))


def read_messages(order: Order) -> list[tuple[str, str]]:
    return list(OutboxMessage.objects.filter(order=order).order_by("pk").values_list("kind", "name"))
