"""Staff who retry or settle a refund while it is under way: the money goes back once, whoever is faster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from inventory.models import Product
from inventory.services import top_up_stock
from orders import desk
from orders.models import AttentionFlag, Order, OrderStatus
from orders.refusals import StateConflict
from tests.auditing import audit
from tests.desk import HEADPHONES, place, read_books
from tests.gateway import Server, run_server
from tests.processes import SWITCHED, Crew, wait_until
from tests.races.buying import PATIENCE
from tests.switches.guards import IN_FLIGHT, REFUND_KEY, without
from tests.switches.points import Places, Plan

pytestmark = pytest.mark.timeout(600)

ORDERS = 6
FULL_ORDERS = 60
STAFF = 3
REFUND = "refund_payment"


@pytest.fixture
def gateway(shop: None, settings: Any, tmp_path: Path) -> Iterator[Server]:
    """A gateway that takes its time: what is in flight stays so for a while."""
    with run_server(tmp_path / "ledger.db", "--latency-ms", "500") as server:
        settings.PAYMENT_GATEWAY_URL = server.url
        yield server


def complete(crew: Crew, *, orders: int, tokens: Sequence[str]) -> list[UUID]:
    """So many completed orders, paid for with these tokens in turn."""
    product = Product.objects.get(sku=HEADPHONES[0].sku)
    top_up_stock(targets=[(product.pk, orders * HEADPHONES[0].quantity)], note="race")
    placed = [place(token=tokens[number % len(tokens)]).pk for number in range(orders)]

    def are_completed() -> bool:
        return Order.objects.filter(pk__in=placed, status=OrderStatus.COMPLETED).count() == orders

    wait_until(are_completed, "all are completed", within=PATIENCE)
    return placed


def cancel(orders: list[UUID]) -> None:
    for order_id in orders:
        desk.cancel_order(order_id=order_id, actor="ada", reason="race")


@contextmanager
def pressing(orders: list[UUID], press: Callable[[UUID], object]) -> Iterator[list[str]]:
    """Several people who do it to every order again and again until the block ends; gives who succeeded."""
    done = threading.Event()
    successes: list[str] = []
    surprises: list[Exception] = []

    def keep_pressing() -> None:
        try:
            while not done.is_set():
                for order_id in orders:
                    try:
                        press(order_id)
                        successes.append(str(order_id))
                    except StateConflict:
                        continue
        except Exception as error:
            surprises.append(error)
        finally:
            connection.close()

    people = [threading.Thread(target=keep_pressing) for _ in range(STAFF)]
    for person in people:
        person.start()
    try:
        yield successes
    finally:
        done.set()
        for person in people:
            person.join(30)
    assert surprises == []


def retry(order_id: UUID) -> None:
    desk.retry_undo(order_id=order_id, undo=REFUND, actor="ada", reason="now")


def resolve(order_id: UUID) -> None:
    desk.resolve_undo(
        order_id=order_id, undo=REFUND, actor="ada", reason="paid by transfer", reference="transfer 4711"
    )


def are_cancelled(orders: list[UUID]) -> bool:
    return Order.objects.filter(pk__in=orders, status=OrderStatus.CANCELLED).count() == len(orders)


def wait_until_cancelled(crew: Crew, orders: list[UUID]) -> None:
    said = "all are cancelled"
    wait_until(lambda: are_cancelled(orders), said, within=PATIENCE)


def read_kinds(gateway: Server, order_id: UUID) -> list[str]:
    return gateway.kinds(f"order-{order_id}:")


def test_retries_by_hand_beside_those_of_the_saga_refund_once(
    start: Callable[..., Crew], gateway: Server, is_full: bool
) -> None:
    """The first two refunds are made and their answers lost; everybody tries again."""
    crew = start(2, PAYMENT_GATEWAY_URL=gateway.url)
    number = FULL_ORDERS if is_full else ORDERS
    orders = complete(crew, orders=number, tokens=["tok_ok__refund_answer_lost_x2"])
    cancel(orders)
    with pressing(orders, retry) as retried:
        wait_until(lambda: are_cancelled(orders), "all are cancelled", within=60 + number)
    assert retried  # somebody did get in between
    for order_id in orders:
        assert read_kinds(gateway, order_id) == ["charge", "refund"]
        books = read_books(order_id)
        assert (books.events, books.net, books.attention) == (["charged", "refunded"], 0, [])
    assert audit() == {}


def test_without_the_refunds_key_the_retry_is_another_refund(
    start: Callable[..., Crew], gateway: Server
) -> None:
    """The control. The gateway gives no more back than it took, and so our books never hear of the refund."""
    crew = start(1, PAYMENT_GATEWAY_URL=gateway.url, DJANGO_SETTINGS_MODULE=SWITCHED, UNGUARDED=REFUND_KEY)
    gateway.set_fault(operation="refund", fault="answer_lost", times=1)
    [order_id] = complete(crew, orders=1, tokens=["tok_ok"])
    cancel([order_id])
    flags = AttentionFlag.objects.filter(order_id=order_id, subject=REFUND, cleared_at=None)
    wait_until(flags.exists, "it is stuck", within=PATIENCE)
    assert "refused for good" in flags.get().reason
    assert read_kinds(gateway, order_id) == ["charge", "refund"]
    assert read_books(order_id).events == ["charged"]
    assert not are_cancelled([order_id])


def test_settling_by_hand_beside_a_refund_under_way(
    start: Callable[..., Crew], gateway: Server, is_full: bool
) -> None:
    """Somebody pays the customer by transfer while the saga tries: the money goes back one way."""
    crew = start(2, PAYMENT_GATEWAY_URL=gateway.url)
    number = FULL_ORDERS if is_full else ORDERS
    # Half of the refunds work at once, the others fail first: then there is something to settle.
    orders = complete(crew, orders=number, tokens=("tok_ok", "tok_ok__refund_error_500_x1"))
    with pressing(orders, resolve) as settled:
        cancel(orders)
        wait_until_cancelled(crew, orders)
    assert settled
    for order_id in orders:
        book = read_books(order_id)
        is_refunded = read_kinds(gateway, order_id) == ["charge", "refund"]
        assert book.events == ["charged", "refunded" if is_refunded else "settled_outside"]
        assert (book.net, book.attention) == (0, [])
    assert audit() == {}


def test_control_without_a_look_at_attempts_in_flight_the_money_goes_back_twice(
    start: Callable[..., Crew], gateway: Server, settings: Any, tmp_path: Path
) -> None:
    """The control, on an attempt that is held between the gateway's answer and its record."""
    settings.SAGA_ATTEMPT_TIMEOUT = 25.0  # below REPAIR_AFTER
    places = Places(tmp_path)
    crew = start(
        1,
        PAYMENT_GATEWAY_URL=gateway.url,
        DJANGO_SETTINGS_MODULE=SWITCHED,
        CRASH_POINTS=str(tmp_path),
    )
    [order_id] = complete(crew, orders=1, tokens=["tok_ok"])
    places.write_plan(order_id, Plan(REFUND, "request refund after"))
    cancel([order_id])
    wait_until(lambda: places.find_reached(order_id) is not None, "it is in flight", within=PATIENCE)
    with pytest.raises(StateConflict, match="in flight"):
        resolve(order_id)
    with without(IN_FLIGHT):
        resolve(order_id)
    places.let_go(order_id)
    wait_until_cancelled(crew, [order_id])
    assert read_books(order_id).net < 0
    assert read_kinds(gateway, order_id) == ["charge", "refund"]
