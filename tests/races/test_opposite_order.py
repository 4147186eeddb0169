"""Many people want the same two products, half of them the other way round: no deadlock, no oversale."""

import random
from collections.abc import Callable
from uuid import UUID

import pytest
from django.db.models import Sum

from inventory.models import Hold
from orders.services import Item
from tests.auditing import audit
from tests.faults import Pause, count_blocked, pausing
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
from tests.switches.guards import ORDER_OF_LOCKS
from tests.web import serving

pytestmark = pytest.mark.timeout(900)

BUYERS = 40
FULL_BUYERS = 200
CONTROL_BUYERS = 16
UNITS = 30
SKUS = ("PAIR-A", "PAIR-B")
MOST = 5


def play(crew: Crew, secret: str, *, buyers: int, have_met: Callable[[Pause], bool]) -> list[UUID]:
    """Everybody at once; gives the accepted orders, all of them final.

    Whoever has taken a first product is held before the second until `have_met`.
    """
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for sku in SKUS:
        stock(sku, UNITS)
    baskets = [
        [Item(sku, dice.randint(1, MOST)) for sku in (SKUS if number % 2 else SKUS[::-1])]
        for number in range(buyers)
    ]
    with serving() as address, pausing("inventory_stockitem", "UPDATE", timing="AFTER") as pause:
        accepted = buy_at_once(address, secret, baskets)
        wait_until(lambda: have_met(pause), "they have met", within=PATIENCE)
    wait_for_all(crew)
    return accepted


def find_deadlocks(crew: Crew) -> list[str]:
    """What the workers said of them: in the trail the next attempt's error takes the place of the last."""
    return crew.find(r"(.*deadlock detected.*)")


def test_buyers_of_two_products_in_opposite_order(
    start: Callable[..., Crew],
    secret: str,
    is_full: bool,
    record_property: Callable[[str, object], None],
) -> None:
    crew = start(2)
    accepted = play(
        crew,
        secret,
        buyers=FULL_BUYERS if is_full else BUYERS,
        have_met=lambda pause: pause.is_reached() and count_blocked("inventory_stockitem") > 3,
    )
    assert find_deadlocks(crew) == []
    completed = find_completed(accepted)
    for sku in SKUS:
        held = Hold.objects.filter(order__in=completed, product__sku=sku).aggregate(Sum("quantity"))
        assert 0 < read_reserved(sku) <= UNITS
        assert held["quantity__sum"] == read_reserved(sku)
    check_bought(completed)
    check_refused([order for order in accepted if order not in completed])
    assert len(completed) < len(accepted)
    record_property("proof_n", FULL_BUYERS if is_full else BUYERS)
    assert audit(ask_gateway=False) == {}


def test_without_one_order_of_locks_they_deadlock(start: Callable[..., Crew], secret: str) -> None:
    """The control: each takes its locks in the order in which its buyer named the products."""
    # An attempt may wait for the meeting; one that runs out of time meanwhile would not deadlock.
    crew = start(2, DJANGO_SETTINGS_MODULE=SWITCHED, UNGUARDED=ORDER_OF_LOCKS, SAGA_ATTEMPT_TIMEOUT="25")
    play(crew, secret, buyers=CONTROL_BUYERS, have_met=lambda pause: pause.count_waiting() > 1)
    assert find_deadlocks(crew)
