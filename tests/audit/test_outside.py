"""What only Temporal and the gateway know: lost sagas, and their ledger against our books."""

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from config.temporal import run_in_db
from orders.audit.books import Report, audit_books
from orders.audit.rule import Scope
from payments.gateways.sandbox import SandboxGateway
from payments.models import PaymentEvent
from payments.services import charge_key
from tests.audit.conftest import Past
from tests.conftest import until
from tests.desk import saga_of
from tests.faults import connect
from tests.gateway import Server, pay, run_server

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def at_once(settings: Any, past: Past) -> None:
    """Orders are compared however short a time ago they moved."""
    settings.AUDIT_QUIET_FOR = 0.0


@contextmanager
def changed(statement: str, back: str, **parameters: object) -> Iterator[None]:
    """A row changed and changed back, committed, past every trigger."""
    with connect() as db:
        db.execute("SET session_replication_role = replica")
        assert db.execute(statement.encode(), parameters).rowcount == 1
        try:
            yield
        finally:
            db.execute(back.encode(), parameters)


def tell(report: Report) -> list[tuple[str, int | None]]:
    return sorted((found.rule, found.number) for found in report.violations)


async def test_orders_of_every_kind_are_in_order_until_a_saga_is_terminated(
    past: Past, temporal: Client
) -> None:
    """One test, and the module's only one that asks Temporal: a saga that was terminated stays so."""
    report = await audit_books(ask_gateway=True)
    assert (report.total, report.left_out, report.violations) == (0, {}, [])
    assert report.orders == len(past.orders)
    assert {"stock_held", "saga_missing", "gateway_line_unknown"} <= set(report.counts)
    lost, flagged = past.orders["answer_lost"], past.orders["refund_stuck"]
    await saga_of(temporal, lost).terminate("by hand")
    await saga_of(temporal, flagged, cancel=True).terminate("by hand")  # a person knows already
    report = await audit_books()
    assert tell(report) == [("saga_missing", lost.number)]
    [found] = report.violations
    assert f"order-{lost.pk} is terminated" in found.sentence
    assert "400.00 EUR" in found.sentence


async def test_order_that_has_just_moved_is_left_alone(past: Past, settings: Any) -> None:
    settings.AUDIT_QUIET_FOR = 3600.0
    settings.TEMPORAL_ADDRESS = "127.0.0.1:1"  # nobody to ask, so nobody must be asked
    report = await audit_books()
    assert (report.total, report.left_out) == (0, {})


async def test_temporal_that_does_not_answer_is_left_out(past: Past, settings: Any) -> None:
    settings.TEMPORAL_ADDRESS = "127.0.0.1:1"
    settings.TEMPORAL_RPC_TIMEOUT = 1.0
    report = await audit_books()
    assert report.total == 0
    assert "127.0.0.1:1" in report.left_out["temporal"]
    assert "saga_missing" not in report.counts
    assert report.to_json()["balanced"] is False


async def test_gateway_that_does_not_answer_is_left_out(past: Past, settings: Any) -> None:
    settings.PAYMENT_GATEWAY_URL = "http://127.0.0.1:1"
    report = await audit_books(ask_temporal=False, ask_gateway=True)
    assert "ledger cannot be read" in report.left_out["gateway"]


async def test_another_gateway_has_none_of_our_lines(past: Past, settings: Any, tmp_path: Path) -> None:
    events = await run_in_db(PaymentEvent.objects.exclude(kind="settled_outside").count)
    with run_server(tmp_path / "ledger.sqlite") as empty:
        settings.PAYMENT_GATEWAY_URL = empty.url

        async def are_all_missing() -> bool:
            """An order with an attempt in flight at that moment is left alone."""
            report = await audit_books(ask_temporal=False, ask_gateway=True, told=1000)
            assert report.counts["gateway_line_missing"] == report.total <= events
            return report.total == events

        await until(are_all_missing, what="every line missed")


async def test_changed_charge_differs_from_the_gateway(past: Past) -> None:
    order = past.orders["completed"]
    where = (
        "WHERE kind = 'charged' AND payment_id IN (SELECT id FROM payments_payment WHERE order_id = %(id)s)"
    )
    with changed(
        f"UPDATE payments_paymentevent SET amount = amount - 1 {where}",
        f"UPDATE payments_paymentevent SET amount = amount + 1 {where}",
        id=order.pk,
    ):
        report = await audit_books(Scope(order_id=order.pk), ask_temporal=False, ask_gateway=True)
    found = next(found for found in report.violations if found.rule == "gateway_line_differs")
    assert found.number == order.number
    assert str(order.total) in found.sentence
    assert str(order.total - 1) in found.sentence


@pytest.fixture
def second_gateway(past: Past, settings: Any, tmp_path: Path) -> Iterator[Server]:
    """A gateway with a copy of the ledger: what is paid there is not of the module's past."""
    copy = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(past.gateway.ledger)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with run_server(copy) as server:
        settings.PAYMENT_GATEWAY_URL = server.url
        yield server


async def test_money_that_only_the_gateway_knows_is_found(past: Past, second_gateway: Server) -> None:
    cancelled, in_flight, nobody = past.orders["not_sold"], past.orders["paying"], uuid.uuid4()
    client = SandboxGateway(second_gateway.url)
    try:
        for order_id in (cancelled.pk, in_flight.pk, nobody):
            await pay(client, charge_key(order_id))
    finally:
        await client.aclose()
    report = await audit_books(Scope(order_id=cancelled.pk), ask_temporal=False, ask_gateway=True)
    assert tell(report) == [("gateway_line_unknown", cancelled.number)]
    assert "25.00 EUR" in report.violations[0].sentence
    # One whose payment is still being tried may have been charged without our knowing yet.
    report = await audit_books(Scope(order_id=in_flight.pk), ask_temporal=False, ask_gateway=True)
    assert tell(report) == []
    report = await audit_books(ask_temporal=False, ask_gateway=True)
    orphan = next(found for found in report.violations if found.rule == "gateway_line_without_order")
    assert str(nobody) in orphan.sentence
