"""The product in one command: an order that completes and one that is rolled back, live, on real services."""

import json
import os
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from config.embedded import find_data_dir
from inventory.catalogue import seed_catalogue
from orders import desk, selectors
from orders.management.stack import (
    DEMO_PASSWORD,
    DEMO_ROLES,
    DEMO_USER,
    Stack,
    StackError,
    prepare_database,
)
from orders.models import Order, OrderStatus, StepKind, StepState
from orders.selectors import TrailStep
from orders.services import Item

CREATE_KEY = '.venv/bin/python manage.py create_api_key "web shop"'
PATIENCE = 90.0  # seconds for one order, a cold start of the workers included


@dataclass(frozen=True)
class Case:
    """An order, and how it should end."""

    title: str
    items: list[Item]
    status: OrderStatus
    undos: list[tuple[str, str]]


CASES = [
    Case(
        title="an order of 400.00, which completes",
        items=[Item("HEAD-ANC", 2)],
        status=OrderStatus.COMPLETED,
        undos=[],
    ),
    Case(
        title="an order of 2700.00, which the bank declines",
        items=[Item("LAPTOP-14", 2)],
        status=OrderStatus.CANCELLED,
        undos=[
            ("refund_payment", StepState.NOTHING_TO_UNDO),
            ("release_inventory", StepState.DONE),
            ("cancel_order", StepState.DONE),
            ("send_cancellation_email", StepState.DONE),
        ],
    ),
]

COLOURS = {
    StepState.DONE: "32",
    StepState.NOTHING_TO_UNDO: "36",
    StepState.FAILED: "31",
    StepState.LOST: "31",
    StepState.RESOLVED: "33",
}


class Command(BaseCommand):
    help = (
        "Start everything, place an order of 400.00 (completes) and one of 2700.00 (declined, rolled back), "
        "and stay up until Ctrl-C."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--exit", action="store_true", help="stop after the two cases; 0 if both ended well"
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object on stdout, everything else on stderr"
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=settings.WORKER_COUNT,
            help="worker processes to start; 0 uses those of a running stack and only places the two cases",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 <= options["workers"] <= 64:
            raise CommandError("--workers takes a number from 0 to 64.", returncode=2)
        self.as_json = options["json"]
        stays = not options["exit"] and options["workers"] > 0
        stack = Stack(log_dir=find_data_dir(settings.BASE_DIR) / "logs", quiet=True)
        try:
            self.run(stack, workers=options["workers"], stays=stays)
        except StackError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            if dead := stack.find_dead():
                raise CommandError(dead) from error
            raise
        finally:
            stack.stop()

    def run(self, stack: Stack, *, workers: int, stays: bool) -> None:
        """Bring up what is needed, carry out both cases, report."""
        if workers:
            prepare_database()
        # First, so that the workers know where the mails' links lead.
        address = stack.start_web() if stays else ""
        if workers:
            stack.start_workers(workers, shop_url=address)
        seed_catalogue()
        ended = [self.carry_out(case, number, stack) for number, case in enumerate(CASES, start=1)]
        if self.as_json:
            self.stdout.write(json.dumps({"cases": [describe(order) for order, _ in ended]}))
        if not all(went_well for _, went_well in ended):
            raise CommandError("A case did not end as it should; the trails above say where.")
        if stays:
            self.stay(address, stack)

    def carry_out(self, case: Case, number: int, stack: Stack) -> tuple[Order, bool]:
        """Place the case's order, print its trail as it happens, and compare its end with the case."""
        order = desk.place_order(
            customer_email="ada@example.com",
            items=case.items,
            actor="demo",
            payment_token="tok_ok",  # noqa: S106
        ).order
        self.say(f"\nCase {number}: {case.title} (order {order.number})")
        printed: set[str] = set()
        deadline = time.monotonic() + PATIENCE
        while True:
            order = selectors.get_order(order.pk)
            steps = selectors.summarise_trail(order.trail.all())
            for step in steps:
                if step.name not in printed and step.status != StepState.RUNNING:
                    printed.add(step.name)
                    self.show_step(step)
            if selectors.is_settled(order, steps):
                break
            if time.monotonic() > deadline:
                raise CommandError(
                    f"Order {order.number} is still {order.status} after {PATIENCE:.0f} s. "
                    f"Is a worker running? Their log: {stack.log_dir}/workers.log"
                )
            if dead := stack.find_dead():
                raise StackError(dead)
            time.sleep(0.05)
        undos = [(step.name, step.status) for step in steps if step.kind == StepKind.UNDO]
        went_well = order.status == case.status and undos == case.undos
        self.say(f"  -> {self.paint(order.status, '32' if went_well else '31')}")
        return order, went_well

    def show_step(self, step: TrailStep) -> None:
        """One line: kind, name, outcome, duration, and the error of a failure."""
        outcome = self.paint(f"{step.status:<16}", COLOURS.get(StepState(step.status), "0"))
        arrow = "<-" if step.kind == StepKind.UNDO else "->"
        error = f"  {step.error}" if step.status == StepState.FAILED else ""
        self.say(f"  {arrow} {step.name:<26}{outcome}{step.ms or 0:>6} ms{error}")

    def show_addresses(self, address: str) -> None:
        """Where to look, and how to log in."""
        self.say(f"\n  Shop         {address}/")
        self.say(f"  Admin        {address}/admin/   log in as {DEMO_USER} / {DEMO_PASSWORD}")
        self.say(f"               one user of each role, the password is the name: {', '.join(DEMO_ROLES)}")
        self.say(f"  API          {address}/api/v1/orders/   a key: {CREATE_KEY}")
        if settings.TEMPORAL_UI_URL:
            self.say(f"  Temporal UI  {settings.TEMPORAL_UI_URL}   server {settings.TEMPORAL_ADDRESS}")
        if settings.MAIL_SINK_URL:
            self.say(f"  Mail         {settings.MAIL_SINK_URL}")
        self.say("\nCtrl-C stops everything; the data stays for the next run.")

    def stay(self, address: str, stack: Stack) -> None:
        """Stay up until Ctrl-C, SIGTERM, or the death of a child or the local services."""
        try:
            self.show_addresses(address)
            while not (dead := stack.find_dead()):
                time.sleep(0.5)
        except KeyboardInterrupt:  # the expected end; an earlier Ctrl-C is an abort, and exits with 130
            self.say("")
            return
        raise StackError(dead)

    def say(self, line: str) -> None:
        """A line for a person: on stdout, or on stderr when stdout is for JSON."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def paint(self, text: str, colour: str) -> str:
        """Coloured on a terminal, unless NO_COLOR is set (no-color.org)."""
        stream = sys.stderr if self.as_json else sys.stdout
        return f"\033[{colour}m{text}\033[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def describe(order: Order) -> dict[str, Any]:
    """An order as `--json` prints it."""
    return {
        "order": str(order.pk),
        "total": str(order.total),
        "status": order.status,
        "needs_attention": bool(selectors.list_attention_reasons(order)),
        "trail": [
            {
                "name": step.name,
                "kind": step.kind,
                "status": step.status,
                "attempts": step.attempts,
                "ms": step.ms,
            }
            for step in selectors.summarise_trail(order.trail.all())
        ],
    }
