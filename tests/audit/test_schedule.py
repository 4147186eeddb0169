"""The scheduled audit: its schedule, what it keeps, and where staff see it."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.urls import reverse
from temporalio.client import Client, ScheduleDescription
from temporalio.service import RPCError

from config.temporal import run_in_db
from orders.audit.books import Report, audit_books
from orders.audit.rule import Scope
from orders.audit.runs import keep_report
from orders.models import AuditRun, Order
from orders.sagas.audit_books import AuditBooks
from orders.schedules import keep_schedule, name_schedule
from tests.desk import aplace, place
from tests.e2e.doors import log_in
from tests.processes import Crew, wait_until


@pytest.fixture
async def schedule(shop: None, temporal: Client, settings: Any) -> AsyncIterator[Client]:
    """Gives the client; the schedule that the test made goes with it."""
    settings.AUDIT_INTERVAL = 3600
    yield temporal
    settings.AUDIT_INTERVAL = 0
    await keep_schedule(temporal)


async def describe(client: Client) -> ScheduleDescription:
    return await client.get_schedule_handle(name_schedule()).describe()


def spoil(order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(total=order.total + 1)


async def test_schedule_is_made_once_and_follows_the_setting(schedule: Client, settings: Any) -> None:
    for _ in range(2):
        await keep_schedule(schedule)
    [interval] = (await describe(schedule)).schedule.spec.intervals
    assert interval.every == timedelta(hours=1)
    await schedule.get_schedule_handle(name_schedule()).pause(note="stocktaking")
    settings.AUDIT_INTERVAL = 600
    await keep_schedule(schedule)
    described = await describe(schedule)
    assert [each.every for each in described.schedule.spec.intervals] == [timedelta(minutes=10)]
    assert described.schedule.state.paused
    settings.AUDIT_INTERVAL = 0
    for _ in range(2):
        await keep_schedule(schedule)
    with pytest.raises(RPCError, match="not found"):
        await describe(schedule)


async def test_workflow_keeps_what_it_found(worker: Client, settings: Any) -> None:
    order = await aplace()
    await run_in_db(spoil, order=order)
    found = await worker.execute_workflow(
        AuditBooks.run, id=name_schedule(), task_queue=settings.SAGA_TASK_QUEUE
    )
    run = await run_in_db(AuditRun.objects.get)
    assert (found, run.violations, run.orders, run.left_out) == (1, 1, 1, {})
    assert run.rules["order_total"] == 1
    assert run.rules["stock_held"] == 0
    [violation] = await run_in_db(lambda: list(run.found.all()))
    assert (violation.rule, violation.order_id) == ("order_total", order.pk)
    assert "401.00" in violation.sentence


def test_workers_have_the_books_audited(start: Callable[..., Crew]) -> None:
    start(2, AUDIT_INTERVAL="3600").wait_ready(2)
    wait_until(AuditRun.objects.exists, "the first audit has been kept")
    assert AuditRun.objects.get().violations == 0
    crew = start(1, AUDIT_INTERVAL="0")  # takes the schedule away
    wait_until(lambda: bool(crew.find("(not audited any more)")), "the schedule is deleted")


def test_what_was_found_is_never_changed(shop: None) -> None:
    report = Report(scope=Scope())
    with transaction.atomic():
        run = keep_report(report=report)
    run.found.create(rule="order_total", sentence="x")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditRun.objects.update(violations=1)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        run.found.update(sentence="y")


def test_only_a_whole_audit_is_kept(shop: None) -> None:
    with pytest.raises(ValueError, match="all orders"):
        keep_report(report=Report(scope=Scope(order_id=place().pk)))


async def test_pages_show_what_was_found(shop: None) -> None:
    order = await aplace()
    await run_in_db(spoil, order=order)
    report = await audit_books(ask_temporal=False)
    report.left_out = {"gateway": "It did not answer."}
    run = await run_in_db(keep_report, report=report)
    await run_in_db(show_pages, run=run, order=order)


def show_pages(*, run: AuditRun, order: Order) -> None:
    address = reverse("admin:orders_auditrun_change", args=[run.pk])
    seer = log_in("ada", "view_order", "view_auditrun", "view_auditviolation")
    page = seer.get(address).content.decode()
    assert f"Order {order.number}: its total is 401.00 EUR" in page
    assert reverse("admin:orders_order_change", args=[order.pk]) in page
    assert "It did not answer." in page
    assert "An order&#x27;s total is the sum of its lines" in page
    listed = seer.get(reverse("admin:orders_auditrun_changelist")).content.decode()
    assert "1 violation<" in listed
    assert "order_total (1)" in listed
    front = seer.get(reverse("admin:index")).content.decode()
    assert f'<a href="{address}">1 violation</a>' in front
    # Somebody who may see that there are violations, and not which.
    hidden = log_in("bob", "view_auditrun").get(address).content.decode()
    assert "401.00" not in hidden
