"""The crash matrix: workers killed with -9, and answers lost or late, at every moment of every activity."""

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings

from config.temporal import connect_temporal
from orders.worker import ACTIVITIES
from tests.auditing import Findings, audit
from tests.crash.cases import Case, Glance
from tests.crash.cells import CELLS, CONTROLS, LATE, LOST, MOMENTS
from tests.faults import relaying
from tests.gateway import run_server
from tests.processes import SWITCHED, Crew, wait_until
from tests.switches.points import Places

ATTEMPT_TIMEOUT = 12.0
# Of an attempt's time-out: then those that are held are killed, and the rest in the next generation.
PATIENCE = 0.6 * ATTEMPT_TIMEOUT


def test_every_activity_has_cells_at_every_moment() -> None:
    # Auditing reads; it has no effect that could be half done.
    names = {activity.__name__ for activity in ACTIVITIES} - {"audit_books"}
    wanted = {(name, moment) for name in names for moment in MOMENTS}
    assert {(cell.activity, cell.moment) for cell in CELLS} == wanted
    assert len({str(cell) for cell in CELLS}) == len(CELLS)


@pytest.mark.timeout(600)
def test_every_cell_ends_correct(
    start: Callable[..., Crew],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    subtests: pytest.Subtests,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
    is_full: bool,
) -> None:
    settings.SAGA_ATTEMPT_TIMEOUT = ATTEMPT_TIMEOUT
    caplog.set_level(logging.WARNING, "mail.log")  # the relay's own: a page for each mail
    workers = [2, 1, 3, 4, 2] if is_full else [2]
    number = 0
    with run_server(tmp_path / "ledger.db") as gateway, relaying() as (port, relay):
        # Of its own, so that the auditor finds there what these orders have done and nothing else.
        settings.PAYMENT_GATEWAY_URL = gateway.url
        monkeypatch.setenv("PAYMENT_GATEWAY_URL", gateway.url)
        for count in workers:
            cells = [*CELLS, *CONTROLS]
            random.shuffle(cells)
            began = time.monotonic()
            relay.may_deliver.clear()
            crew = start(
                count,
                DJANGO_SETTINGS_MODULE=SWITCHED,
                CRASH_POINTS=str(tmp_path),
                EMAIL_PORT=str(port),
                WORKER_DB_THREADS="40",
                WORKER_MAIL_THREADS="40",
            )
            crew.wait_ready(count)
            places = Places(tmp_path)
            cases = [Case(number + index, cell, places, relay) for index, cell in enumerate(cells)]
            number += len(cells)
            kills = play(crew, cases)
            crew.clean_up()
            report(cases, audit(), kills, time.monotonic() - began, subtests)
    # For the table of `make proof`: each cell is one fault.
    record_property("proof_n", number)
    record_property("proof_faults", number)


def play(crew: Crew, cases: list[Case]) -> int:
    """Drive every case to its end; gives the number of processes killed on the way.

    What is held to be let go again is not begun before the killing is over.
    """
    late = [case for case in cases if case.cell.moment == LATE]
    first = [case for case in cases if case.cell.moment != LATE]
    for case in first:
        case.place()
    kills = kill_at_points(crew, first)
    for case in late:
        case.place()
    drive(crew, cases, lambda glance: all(case.is_done(glance) for case in cases))
    wait_until(lambda: asyncio.run(count_running()) == 0, "no saga runs any more")
    return kills


def kill_at_points(crew: Crew, cases: list[Case]) -> int:
    """Kill the workers once every attempt is held at its point, or before the first is given up for lost."""
    waiting = [case for case in cases if case.cell.is_killed]
    others = [case for case in cases if case.cell.moment == LOST]
    kills = 0
    while waiting:
        since: list[float] = []

        def is_time(glance: Glance, waiting: list[Case] = waiting, since: list[float] = since) -> bool:
            reached = [case.places.find_reached(case.order_id) is not None for case in waiting]
            if not any(reached):
                return False
            since.append(time.monotonic())
            is_complete = all(reached) and all(case.is_over(glance) for case in others)
            return is_complete or time.monotonic() - since[0] > PATIENCE

        drive(crew, cases, is_time)
        victims = [pid for pid in crew.pids_of() if psutil.pid_exists(pid)]
        reached = {case.number: case.places.find_reached(case.order_id) for case in waiting}
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(psutil.pid_exists, victims)), "they are dead")  # noqa: B023
        assert {pid for pid in reached.values() if pid} <= set(victims)
        kills += len(victims)
        waiting = [case for case in waiting if reached[case.number] is None]
    return kills


def drive(crew: Crew, cases: list[Case], is_there: Callable[[Glance], bool]) -> None:
    """Do what each case needs next, until it is there."""
    deadline = time.monotonic() + 120
    while not is_there(glance := Glance()):
        for case in cases:
            if case.is_placed:
                case.advance(glance)
        if time.monotonic() > deadline:
            stuck = [f"{case.cell} ({case.order_id})" for case in cases if not case.is_done(glance)]
            pytest.fail("\n".join(["these do not get on:", *stuck, *crew.lines[-40:]]))
        time.sleep(0.1)


async def count_running() -> int:
    client = await connect_temporal()
    query = f"TaskQueue = '{settings.SAGA_TASK_QUEUE}' AND ExecutionStatus = 'Running'"
    return (await client.count_workflows(query)).count


def report(
    cases: list[Case], findings: Findings, kills: int, seconds: float, subtests: pytest.Subtests
) -> None:
    """Print the table; every cell is a result of its own: the table's word, and the auditor's."""
    failed = again = 0
    for case in sorted(cases, key=lambda case: str(case.cell)):
        violations = findings.get(case.order_id, [])
        wrongs = [*case.find_wrongs(), *violations]
        deliveries = case.read_deliveries()
        again += len(deliveries) - len(set(deliveries))
        is_right, expected = not wrongs, not case.cell.without
        failed += is_right is not expected
        print(f"{'right' if is_right else 'WRONG'}  {case.cell}  {'; '.join(wrongs)}")
        with subtests.test(msg=str(case.cell)):
            if expected:
                assert wrongs == [], case.order_id
            else:
                assert violations, "without its guard this cell must end wrong, or the auditor sees nothing"
                assert len(wrongs) > len(violations), "nor does the table"
    with subtests.test(msg="rules about no order"):
        assert findings.get(None, []) == []
    print(
        f"crash matrix: {len(cases)} cells, {kills} processes killed, {failed} failed, "
        f"{again} mails delivered twice under one Message-ID, {seconds:.1f} s"
    )
