"""Fifty people want the last unit, at the same moment: one gets it, thanks to the conditional UPDATE."""

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from django.db import connection

from orders.services import Item
from tests.auditing import audit
from tests.faults import count_blocked, pausing
from tests.processes import SWITCHED, Crew, wait_until
from tests.races.buying import (
    PATIENCE,
    buy_at_once,
    check_bought,
    check_refused,
    find_completed,
    read_reserved,
    stock,
    wait_for_all,
)
from tests.switches.guards import CONDITIONAL_UPDATE
from tests.web import serving

pytestmark = pytest.mark.timeout(1200)

BUYERS = 50
ROUNDS = 1
FULL_ROUNDS = 20
# The control needs some that meet, not a crowd.
CONTROL_BUYERS = 8


def play(crew: Crew, secret: str, *, buyers: int, rounds: int) -> dict[str, list[UUID]]:
    """Rounds of so many buyers on one unit each; gives each round's accepted orders, all of them final.

    The first at the shelf is held there until another waits behind it, so that they meet on every machine.
    """
    accepted: dict[str, list[UUID]] = {}
    with serving() as address:
        for number in range(rounds):
            sku = f"LAST-{number:02}"
            unit = stock(sku, 1)
            with pausing("inventory_stockitem", "UPDATE", when=f"NEW.product_id = {unit}") as pause:
                accepted[sku] = buy_at_once(address, secret, [[Item(sku, 1)]] * buyers)
                wait_until(
                    lambda: pause.is_reached() and count_blocked("inventory_stockitem") > 1,
                    "two are at the shelf",
                    within=PATIENCE,
                )
    wait_for_all(crew)
    return accepted


def test_fifty_buyers_of_the_last_unit_are_one_customer(
    start: Callable[..., Crew],
    secret: str,
    is_full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    rounds = FULL_ROUNDS if is_full else ROUNDS
    accepted = play(start(2), secret, buyers=BUYERS, rounds=rounds)
    assert len(accepted) == rounds
    for sku, orders in accepted.items():
        completed = find_completed(orders)
        assert len(completed) == 1
        assert read_reserved(sku) == 1
        check_bought(completed)
        check_refused([order for order in orders if order not in completed])
    record_property("proof_n", BUYERS * rounds)
    assert audit(ask_gateway=False) == {}


@pytest.fixture
def without_stock_check(shop: None) -> Iterator[None]:
    """The stock's table without its CHECK, for the time of a test."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inventory_stockitem DROP CONSTRAINT stock_reserved_within_on_hand")
        try:
            yield
        finally:
            cursor.execute("UPDATE inventory_stockitem SET reserved = on_hand WHERE reserved > on_hand")
            cursor.execute(
                "ALTER TABLE inventory_stockitem ADD CONSTRAINT stock_reserved_within_on_hand"
                " CHECK (reserved >= 0 AND reserved <= on_hand)"
            )


def test_without_the_conditional_update_it_is_sold_more_than_once(
    without_stock_check: None, start: Callable[..., Crew], secret: str
) -> None:
    """The control: look first and take then, and no CHECK behind it."""
    crew = start(2, DJANGO_SETTINGS_MODULE=SWITCHED, UNGUARDED=CONDITIONAL_UPDATE)
    accepted = play(crew, secret, buyers=CONTROL_BUYERS, rounds=1)
    assert max(len(find_completed(orders)) for orders in accepted.values()) > 1
    assert max(read_reserved(sku) for sku in accepted) > 1
