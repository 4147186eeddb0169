"""The order services against PostgreSQL: what is accepted, what is frozen, which moves are allowed."""

import itertools
from decimal import Decimal

import pytest
from django.db import DatabaseError, transaction

from inventory.models import Product
from orders import services
from orders.models import ALLOWED_MOVES, ActionKind, Order, OrderAction, OrderStatus
from orders.services import InvalidOrder, Item
from tests.desk import EMAIL, place

pytestmark = pytest.mark.usefixtures("shop")


def accept(items: list[Item], email: str = EMAIL, token: str = "") -> Order:
    return services.accept_order(customer_email=email, items=items, actor="test", payment_token=token).order


def test_prices_and_total_are_frozen_when_the_order_is_accepted() -> None:
    order = accept([Item("TEE-M", 3), Item("MUG-STONE", 2)])
    Product.objects.update(price=1)
    order.refresh_from_db()
    assert order.total == Decimal("90.20")
    assert [(line.sku, line.amount) for line in order.lines.all()] == [
        ("MUG-STONE", Decimal("29.00")),
        ("TEE-M", Decimal("61.20")),
    ]


def test_items_of_one_sku_are_added_up() -> None:
    [line] = accept([Item("TEE-M", 3), Item("TEE-M", 2)]).lines.all()
    assert line.quantity == 5


def test_numbers_are_given_in_order() -> None:
    first, second = accept([Item("TEE-M", 1)]), accept([Item("TEE-M", 1)])
    assert second.number > first.number


@pytest.mark.parametrize(
    ("email", "items", "token", "fields"),
    [
        ("nobody", [Item("TEE-M", 1)], "", ["customer_email"]),
        (EMAIL, [], "", ["items"]),
        (EMAIL, [Item("NOPE", 1)], "", ["items.0.sku"]),
        (EMAIL, [Item("TEE-M", 0)], "", ["items.0.quantity"]),
        (EMAIL, [Item("TEE-M", 1), Item("TEE-L", -1)], "", ["items.1.quantity"]),
        (EMAIL, [Item("TEE-M", 9_000), Item("TEE-M", 9_000)], "", ["items.1.quantity"]),
        (EMAIL, [Item("TEE-M", 1)], "x" * 201, ["payment_token"]),
        (EMAIL, [Item("TEE-M", 1)], "tok_ok\n", ["payment_token"]),
        (EMAIL, [Item("TEE-M", 1)], "tok_\u200bok", ["payment_token"]),
        (EMAIL, [Item("TEE\0M", 1)], "", ["items.0.sku"]),
        (EMAIL, [Item("TEE-M", True)], "", ["items.0.quantity"]),
        (EMAIL, [Item("TEE-M", 1.5)], "", ["items.0.quantity"]),  # type: ignore[arg-type]
        ("\u212a@example.com", [Item("TEE-M", 1)], "", ["customer_email"]),
        ("nobody", [Item("NOPE", 0)], "", ["customer_email", "items.0.sku", "items.0.quantity"]),
    ],
)
def test_bad_orders_are_refused_naming_every_bad_field(
    email: str, items: list[Item], token: str, fields: list[str]
) -> None:
    with pytest.raises(InvalidOrder) as refused:
        accept(items, email, token)
    assert list(refused.value.errors) == fields
    assert not Order.objects.exists()


def test_only_allowed_moves_are_made() -> None:
    order = place()
    for source, target in itertools.product(OrderStatus, OrderStatus):
        Order.objects.filter(pk=order.pk).update(
            status=source, rollback_started_at=order.accepted_at, rolled_back_at=order.accepted_at
        )
        assert services.move_order(order.pk, target) == (target in ALLOWED_MOVES[source])


def test_database_refuses_an_unknown_status() -> None:
    place()
    with pytest.raises(DatabaseError, match="order_status_known"), transaction.atomic():
        Order.objects.update(status="half-done")


def test_history_of_what_people_did_cannot_be_changed() -> None:
    order = place()
    assert order.actions.get().kind == ActionKind.PLACE
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        OrderAction.objects.update(actor="somebody else")


def test_database_refuses_a_resolve_without_reason_and_reference() -> None:
    order = place()
    with pytest.raises(DatabaseError, match="action_resolve_is_explained"), transaction.atomic():
        OrderAction.objects.create(order=order, kind=ActionKind.RESOLVE_UNDO, actor="ada")


def test_an_order_of_nothing_is_refused() -> None:
    Product.objects.filter(sku="TEE-M").update(price=0)
    with pytest.raises(InvalidOrder, match="a payment takes at least"):
        accept([Item("TEE-M", 1)])
