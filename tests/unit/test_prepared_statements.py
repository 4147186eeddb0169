"""A connection that has its statements prepared, as the workers' do, carries an order through its steps."""

from collections.abc import Iterator

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from config.environment import read_database
from inventory import services as inventory
from notifications import services as notifications
from orders import services
from orders.models import OrderStatus
from payments import services as payments
from payments.gateways.protocol import Charge
from tests.desk import place

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%INTO orders_stepkey%%'"


@pytest.fixture
def preparing(shop: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This thread's connection has a statement prepared when it is carried out a second time."""
    monkeypatch.setenv("DATABASE_PREPARE_AFTER", "1")
    added = read_database("postgresql:///orders")["OPTIONS"]
    options = {**connection.settings_dict["OPTIONS"], **added}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    connection.close()
    yield
    connection.close()


def test_orders_go_through_their_steps(preparing: None) -> None:
    for _ in range(2):
        go_through_steps()
    with connection.cursor() as cursor:
        cursor.execute(PREPARED, [])
        assert cursor.fetchone() != (0,)


def go_through_steps() -> None:
    order = place()
    services.create_order(order_id=order.pk)
    inventory.reserve_inventory(order_id=order.pk)
    request = payments.start_charge(order_id=order.pk)
    charge = Charge("ch_1", request.key, request.amount_minor, request.currency, refunded_minor=0)
    payments.record_charge(order_id=order.pk, charge=charge)
    prepared = notifications.prepare_confirmation(order_id=order.pk)
    notifications.record_sent(email_id=prepared.email.pk)
    services.complete_order(order_id=order.pk)
    order.refresh_from_db()
    assert order.status == OrderStatus.COMPLETED


def test_nothing_is_prepared_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_PREPARE_AFTER", raising=False)
    assert "prepare_threshold" not in read_database("postgresql:///orders")["OPTIONS"]
    monkeypatch.setenv("DATABASE_PREPARE_AFTER", "often")
    with pytest.raises(ImproperlyConfigured, match="DATABASE_PREPARE_AFTER"):
        read_database("postgresql:///orders")
