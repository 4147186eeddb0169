"""The stock services against PostgreSQL: holds, their ledger, and races for the last unit with a control."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import DatabaseError, connections, transaction

from inventory import services
from inventory.catalogue import CATALOGUE, seed_catalogue
from inventory.models import Hold, Product, StockItem, StockMovement
from orders.models import Order, StepState
from orders.refusals import OutOfStock, StateConflict
from orders.services import Item
from tests.desk import check_stock_sums, place

pytestmark = pytest.mark.usefixtures("shop")


def stock(sku: str) -> StockItem:
    return StockItem.objects.get(product__sku=sku)


def leave(sku: str, units: int) -> None:
    """Adjust the stock so that `units` are available."""
    item = stock(sku)
    services.adjust_stock(product_id=item.product_id, change=units - item.available, note="test")


def test_reserving_twice_holds_once() -> None:
    order = place([Item("TEE-M", 3), Item("MUG-STONE", 1)])
    services.reserve_inventory(order_id=order.pk)
    services.reserve_inventory(order_id=order.pk)
    assert (stock("TEE-M").reserved, stock("MUG-STONE").reserved) == (3, 1)
    check_stock_sums()


def test_all_lines_are_held_or_none() -> None:
    leave("TEE-M", 2)
    order = place([Item("MUG-STONE", 1), Item("TEE-M", 3)])
    with pytest.raises(OutOfStock, match="TEE-M: 3 ordered, 2 available"):
        services.reserve_inventory(order_id=order.pk)
    assert (stock("TEE-M").reserved, stock("MUG-STONE").reserved) == (0, 0)
    assert not Hold.objects.exists()
    check_stock_sums()


def test_release_gives_back_once_and_says_what_there_was() -> None:
    order = place([Item("TEE-M", 3)])
    services.reserve_inventory(order_id=order.pk)
    assert services.release_inventory(order_id=order.pk) == StepState.DONE
    assert services.release_inventory(order_id=order.pk) == StepState.DONE
    assert stock("TEE-M").reserved == 0
    other = place([Item("TEE-M", 3)])
    assert services.release_inventory(order_id=other.pk) == StepState.NOTHING_TO_UNDO
    check_stock_sums()


def test_stock_is_never_adjusted_below_what_is_held() -> None:
    order = place([Item("TEE-M", 3)])
    services.reserve_inventory(order_id=order.pk)
    item = stock("TEE-M")
    with pytest.raises(StateConflict, match="Fewer units would remain"):
        services.adjust_stock(product_id=item.product_id, change=-item.on_hand, note="lost")
    services.adjust_stock(product_id=item.product_id, change=-item.available, note="lost")
    assert stock("TEE-M").available == 0
    check_stock_sums()


def test_database_refuses_overselling_even_without_the_service() -> None:
    with pytest.raises(DatabaseError, match="stock_reserved_within_on_hand"), transaction.atomic():
        StockItem.objects.filter(product__sku="TEE-M").update(reserved=10_000)


def test_ledger_cannot_be_deleted() -> None:
    rows = StockMovement.objects.all()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        rows._raw_delete(rows.db)


def test_seeding_again_only_tops_up() -> None:
    assert seed_catalogue() == (0, 0)
    Product.objects.filter(sku="TEE-M").update(price=99)
    leave("TEE-M", 150)
    assert seed_catalogue() == (0, 50)
    assert Product.objects.get(sku="TEE-M").price == 99
    assert Product.objects.count() == len(CATALOGUE) == 12
    check_stock_sums()


def race(work: Callable[[UUID], object], orders: list[Order]) -> list[object]:
    """Run `work` for all orders at the same time; gives each one's result or exception."""

    def run(order: Order) -> object:
        try:
            return work(order.pk)
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(run, orders))


def reserve(order_id: UUID) -> str:
    services.reserve_inventory(order_id=order_id)
    return "held"


def reserve_without_the_guard(order_id: UUID) -> str:
    """What the conditional UPDATE replaces: look first, then write what was seen."""
    with transaction.atomic():
        item = stock("LAMP-DESK")
        if item.available < 1:
            raise OutOfStock("LAMP-DESK")
        StockMovement.objects.create(
            product_id=item.product_id, order_id=order_id, kind="reserved", reserved_change=1
        )
        StockItem.objects.filter(pk=item.pk).update(reserved=item.reserved + 1)
    return "held"


def test_fifty_orders_race_for_the_last_unit_and_one_gets_it() -> None:
    for _ in range(3):
        leave("LAMP-DESK", 1)
        results = race(reserve, [place([Item("LAMP-DESK", 1)]) for _ in range(50)])
        assert results.count("held") == 1
        assert sum(isinstance(result, OutOfStock) for result in results) == 49
        check_stock_sums()


def test_control_without_the_conditional_update_more_than_one_gets_it() -> None:
    oversold = 0
    for _ in range(10):
        leave("LAMP-DESK", 1)
        results = race(reserve_without_the_guard, [place([Item("LAMP-DESK", 1)]) for _ in range(50)])
        oversold += results.count("held") > 1
        if oversold:
            return
        StockItem.objects.filter(product__sku="LAMP-DESK").update(reserved=0)
    pytest.fail("the race never happened, so the test above proves nothing")


def test_orders_with_the_same_products_in_opposite_order_do_not_deadlock() -> None:
    leave("TEE-M", 20)
    leave("TEE-L", 20)
    orders = [
        place([Item("TEE-M", 1), Item("TEE-L", 1)] if n % 2 else [Item("TEE-L", 1), Item("TEE-M", 1)])
        for n in range(60)
    ]
    results = race(reserve, orders)
    assert results.count("held") == 20
    assert all(result == "held" or isinstance(result, OutOfStock) for result in results)
    check_stock_sums()
