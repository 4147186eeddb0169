"""Places many orders at once on a stack of its own: how fast, at what cost, and do the books balance?"""

import asyncio
import json
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from orders.audit.books import audit_books
from orders.audit.rule import Scope
from orders.management.load.course import Course
from orders.management.load.doors import ApiDoor, DeskDoor, Door
from orders.management.load.goods import count_units, stocked
from orders.management.load.outcome import read_outcome
from orders.management.load.plan import MAX_LINES, Plan
from orders.management.load.processes import MemoryLog
from orders.management.load.report import Measured, build_report, render_report
from orders.management.load.rig import Rig, api_key, raised, refuse_company, slowed_gateway
from orders.management.real_books import refuse_real_books
from orders.management.stack import StackError
from orders.management.storms.progress import Progress

# The memory of a worker is compared with what it was when so many orders had ended.
SAMPLE_AT, SAMPLE_FROM, SAMPLE_SHARE = 2000, 10_000, 0.2
TOLD = 20
# Seconds: a terminal that is written to all the time would be part of what is measured.
SHOW_EVERY = 0.25


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers in that range, for argparse."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise ArgumentTypeError(f"a {whole}number from {low} to {high}, not {text!r}")
        return value

    return parse


class Command(BaseCommand):
    help = (
        "Place many orders at once through the desk or the REST API, on workers (and a web process) of its "
        "own and this machine's local services, and report orders a second, times, processor time and "
        "memory; then audit the books. For a developer's machine only. Exit 0 only if every order has ended "
        "and the books balance. docs/performance.md says what is measured and how."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--orders", type=number(int, 1, 1_000_000), default=1000, help="default 1000")
        pace = parser.add_mutually_exclusive_group()
        pace.add_argument(
            "--concurrency",
            type=number(int, 1, 5000),
            default=50,
            help="orders unfinished at once: a new one is placed when one has ended (default 50)",
        )
        pace.add_argument(
            "--rate",
            type=number(float, 0.1, 1000),
            help="place so many orders a second instead, however many are unfinished",
        )
        parser.add_argument(
            "--decline-rate",
            type=number(float, 0, 1),
            default=0.0,
            help="the share of orders whose payment is declined, spread evenly (default 0)",
        )
        parser.add_argument(
            "--through",
            choices=("service", "api"),
            default="service",
            help="the desk in this process (default), or the REST API of a web process",
        )
        parser.add_argument(
            "--gateway-latency",
            type=number(float, 0, settings.PAYMENT_GATEWAY_TIMEOUT * 900),
            default=0.0,
            metavar="MS",
            help="milliseconds by which every answer of the payment sandbox is late",
        )
        parser.add_argument(
            "--workers", type=number(int, 1, 64), default=settings.WORKER_COUNT, help="worker processes"
        )
        parser.add_argument(
            "--worker-slots",
            type=number(int, 1, 10_000),
            default=settings.WORKER_ACTIVITY_SLOTS,
            help="activities each worker runs at once (default: WORKER_ACTIVITY_SLOTS); 1: one at a time",
        )
        parser.add_argument(
            "--lines", type=number(int, 1, MAX_LINES), default=1, help="lines of each order (default 1)"
        )
        parser.add_argument(
            "--sku-mode",
            choices=("spread", "hot"),
            default="spread",
            help=f"spread the orders over {MAX_LINES} products (default), or have each ask for the same one",
        )
        parser.add_argument(
            "--hot-sku", dest="sku_mode", action="store_const", const="hot", help="--sku-mode hot"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_real_books("places, charges and mails orders that nobody wants")
        refuse_company()
        plan = Plan(
            orders=options["orders"],
            concurrency=options["concurrency"],
            rate=options["rate"],
            decline_rate=options["decline_rate"],
            lines=options["lines"],
            is_hot=options["sku_mode"] == "hot",
        )
        rig = Rig(workers=options["workers"], slots=options["worker_slots"])
        try:
            report = self.run(
                plan, rig, through=options["through"], gateway_latency=options["gateway_latency"]
            )
        except StackError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise CommandError(rig.stack.find_dead() or f"The database does not answer: {error}") from error
        self.stdout.write(json.dumps(report) if options["json"] else render_report(report))
        if report["violations"] or report["unfinished"] or not report["orders"]:
            raise CommandError(
                f"{report['unfinished']} of {report['orders']} orders are unfinished, "
                f"{report['violations']} violations of the books; logs are in {rig.log_dir}",
                returncode=1,
            )

    def run(self, plan: Plan, rig: Rig, *, through: str, gateway_latency: float) -> dict[str, Any]:
        """Bring the rig up, place the orders, wait, and audit. Raises StackError when a process ends."""
        progress = Progress("load_test")
        progress.say(f"{plan.orders} orders through the {through}, {rig.workers} workers")
        is_api = through == "api"
        with ExitStack() as open_things:
            open_things.enter_context(raised(rig, with_web=is_api))
            open_things.enter_context(stocked(count_units(plan)))
            open_things.enter_context(slowed_gateway(gateway_latency))
            open_door: Callable[[], Door] = DeskDoor
            if is_api:
                secret = open_things.enter_context(api_key())

                def open_api() -> Door:
                    return ApiDoor(rig.address, secret)

                open_door = open_api
            return self.measure(Course(plan, open_door), rig, progress)

    def measure(self, course: Course, rig: Rig, progress: Progress) -> dict[str, Any]:
        """Run the course and report what it took."""
        total = course.plan.orders
        sample_at = SAMPLE_AT if total >= SAMPLE_FROM else max(round(total * SAMPLE_SHARE), 1)
        memory = MemoryLog(rig.worker_root, sample_at=sample_at)
        meter = rig.start_meter()
        shown = 0.0

        def watch(ended: int, in_flight: int, rate: float) -> None:
            nonlocal shown
            memory.note_progress(ended)
            if (now := time.monotonic()) - shown >= SHOW_EVERY:
                shown = now
                rig.check_alive()
                progress.show(ended, total, f"{rate:.1f} a second, {in_flight} in flight")

        course.run(watch)
        processor, used = meter.measure(), memory.describe()
        progress.say("auditing")
        outcome = read_outcome(course.plan, since=course.began_at, accepted_at=course.accepted_at)
        # All have ended, or are a finding themselves: nothing is under way that the auditor should spare.
        audit = asyncio.run(
            audit_books(Scope(since=course.began_at, quiet_for=0.0), ask_gateway=True, told=TOLD)
        )
        return build_report(
            Measured(
                course=course,
                outcome=outcome,
                processor=processor,
                memory=used,
                sampled_at=sample_at,
                findings=[
                    *(violation.sentence for violation in audit.violations),
                    *(f"The auditor left out {whom}: {why}" for whom, why in audit.left_out.items()),
                ],
                violations=audit.total + len(audit.left_out),
            )
        )
