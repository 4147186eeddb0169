"""How many orders a second this machine carries through, completed and rolled back, in interleaved rounds."""

import json
import statistics
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.embedded import find_data_dir
from inventory.models import Product
from inventory.services import top_up_stock
from orders import desk
from orders.management.stack import Stack, StackError, prepare_database
from orders.models import Order, OrderStatus
from orders.services import Item

ITEM = Item("NOTE-A5", 1)
TOKENS = {"order": "tok_ok", "rollback": "tok_declined"}
ENDED = {
    "order": ("completed_at", OrderStatus.COMPLETED),
    "rollback": ("rolled_back_at", OrderStatus.CANCELLED),
}
PATIENCE = 300.0


@dataclass
class Figures:
    """What the rounds of one kind of order measured."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Command(BaseCommand):
    help = "Measure completed and rolled-back orders a second, in rounds that take turns."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--orders", type=int, default=100, help="orders a round")
        parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind")
        parser.add_argument("--workers", type=int, default=settings.WORKER_COUNT, help="worker processes")
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["orders"], options["rounds"], options["workers"]) < 1:
            raise CommandError("--orders, --rounds and --workers take numbers from 1.", returncode=2)
        stack = Stack(log_dir=find_data_dir(settings.BASE_DIR) / "logs", quiet=True)
        figures = {kind: Figures() for kind in TOKENS}
        try:
            prepare_database()
            stack.start_workers(options["workers"])
            self.run_round("order", 10, Figures())  # a warm-up: not counted
            for number in range(1, options["rounds"] + 1):
                for kind, measured in figures.items():
                    self.run_round(kind, options["orders"], measured)
                    print(f"round {number}: {measured.rates[-1]:.1f} {kind}s/s", file=sys.stderr)
        except StackError as error:
            raise CommandError(str(error)) from error
        finally:
            stack.stop()
        report = {
            "rounds": options["rounds"],
            "rate": {kind: round(statistics.median(found.rates), 1) for kind, found in figures.items()},
            "spread": {kind: [round(min(f.rates), 1), round(max(f.rates), 1)] for kind, f in figures.items()},
            "p50_ms": {kind: round(statistics.median(f.latencies)) for kind, f in figures.items()},
        }
        if options["json"]:
            self.stdout.write(json.dumps(report))
            return
        for kind in TOKENS:
            low, high = report["spread"][kind]
            self.stdout.write(
                f"{kind:<9} {report['rate'][kind]:>6} a second (rounds {low} to {high}), "
                f"p50 {report['p50_ms'][kind]} ms from accepted to the end"
            )

    def run_round(self, kind: str, count: int, figures: Figures) -> None:
        """Place `count` orders as fast as the desk takes them, and wait until the last has ended."""
        product = Product.objects.get(sku=ITEM.sku)
        top_up_stock(targets=[(product.pk, count)], note="bench")
        began = time.monotonic()
        orders = [
            desk.place_order(
                customer_email="bench@example.com", items=[ITEM], actor="bench", payment_token=TOKENS[kind]
            ).order.pk
            for _ in range(count)
        ]
        ended_at, status = ENDED[kind]
        while (done := Order.objects.filter(pk__in=orders, status=status).count()) < count:
            if time.monotonic() - began > PATIENCE:
                raise CommandError(
                    f"Only {done} of {count} orders ended as {status} within {PATIENCE:.0f} s."
                )
            time.sleep(0.02)
        figures.rates.append(count / (time.monotonic() - began))
        figures.latencies += [
            (end - accepted).total_seconds() * 1000
            for end, accepted in Order.objects.filter(pk__in=orders).values_list(ended_at, "accepted_at")
        ]
