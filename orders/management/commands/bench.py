"""How many orders a second this machine carries through, measured against sagas that do nothing."""

import json
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from orders.management.load.figures import estimate_interval
from orders.management.load.goods import stocked
from orders.management.load.rig import Rig, raised, refuse_company
from orders.management.load.rounds import ALONE, CONCURRENCY, KINDS, Bench, Round, start_empty_worker
from orders.management.real_books import refuse_real_books
from orders.management.stack import StackError
from orders.management.storms.progress import Progress

# What is compared: of each round, so that what disturbs one round disturbs both sides of its ratio.
RATIOS: dict[str, Callable[[Round], float]] = {
    "order": lambda one: one.rate["order"] / one.rate["empty"],
    "rollback": lambda one: one.rate["rollback"] / one.rate["empty"],
    "alone": lambda one: one.alone["order"] / one.alone["empty"],
}
MEANING = {
    "order": "orders a second, to empty sagas a second",
    "rollback": "rollbacks a second, to empty sagas a second",
    "alone": "time of an order alone, to an empty saga's",
}


class Command(BaseCommand):
    help = (
        "Measure orders that complete and orders that are rolled back against empty sagas of four "
        f"activities, on the same Temporal server, in rounds that take turns: at most {CONCURRENCY} in "
        "flight, and one at a time. For a developer's machine only. docs/performance.md says how."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--orders", type=int, default=100, help="of each kind in a round (default 100)")
        parser.add_argument("--rounds", type=int, default=7, help="default 7")
        parser.add_argument(
            "--workers", type=int, default=1, help="worker processes (default 1, as the empty sagas have)"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["orders"], options["rounds"], options["workers"]) < 1:
            raise CommandError("--orders, --rounds and --workers take numbers from 1.", returncode=2)
        refuse_real_books("places, charges and mails orders that nobody wants")
        refuse_company()
        rig = Rig(workers=options["workers"])
        try:
            rounds = self.run(rig, orders=options["orders"], rounds=options["rounds"])
        except StackError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise CommandError(rig.stack.find_dead() or f"The database does not answer: {error}") from error
        report = build_report(rounds)
        self.stdout.write(json.dumps(report) if options["json"] else render_report(report))

    def run(self, rig: Rig, *, orders: int, rounds: int) -> list[Round]:
        """Bring the rig up and measure. Raises StackError."""
        progress = Progress("bench")
        progress.say(f"{rounds} rounds of {orders} of each kind, {rig.workers} workers")
        with raised(rig), stocked(orders):
            bench = Bench(rig, orders=orders, empty_queue=start_empty_worker(rig), say=progress.say)
            bench.warm_up()
            measured: list[Round] = []
            for number in range(rounds):
                progress.show(number, rounds, "")
                measured.append(bench.run_round(number))
            return measured


def build_report(rounds: Sequence[Round]) -> dict[str, Any]:
    """The report of `--json`: medians of the rounds, their least and most, 95% intervals of the ratios."""
    rates = {kind: [one.rate[kind] for one in rounds] for kind in KINDS}
    alone = {kind: [one.alone[kind] for one in rounds] for kind in KINDS}
    ratios = {name: [find(one) for one in rounds] for name, find in RATIOS.items()}
    return {
        "rounds": len(rounds),
        "rate": {kind: round(statistics.median(found), 1) for kind, found in rates.items()},
        "p50_ms": {kind: round(statistics.median(found), 1) for kind, found in alone.items()},
        "ratio": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "interval": {
            name: [round(bound, 3) for bound in estimate_interval(found)] for name, found in ratios.items()
        },
        "spread": {
            "rate": {kind: span(found, 1) for kind, found in rates.items()},
            "p50_ms": {kind: span(found, 1) for kind, found in alone.items()},
            "ratio": {name: span(found, 3) for name, found in ratios.items()},
        },
    }


def span(values: Sequence[float], digits: int) -> list[float]:
    """The least and the most."""
    return [round(min(values), digits), round(max(values), digits)]


def render_report(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    spread = report["spread"]
    lines = [f"{'':<10}{'a second':>10}{'rounds':>18}{'alone, ms':>12}{'rounds':>18}"]
    lines += [
        f"{kind:<10}{report['rate'][kind]:>10}{_show(spread['rate'][kind]):>18}"
        f"{report['p50_ms'][kind]:>12}{_show(spread['p50_ms'][kind]):>18}"
        for kind in KINDS
    ]
    lines += ["", f"{'ratio':<46}{'median':>8}{'95% interval':>18}{'rounds':>18}"]
    lines += [
        f"{MEANING[name]:<46}{report['ratio'][name]:>8}{_show(report['interval'][name]):>18}"
        f"{_show(spread['ratio'][name]):>18}"
        for name in RATIOS
    ]
    lines.append(f"{report['rounds']} rounds; alone: the median of {ALONE} at most, one after the other")
    return "\n".join(lines)


def _show(bounds: Sequence[float]) -> str:
    return f"{bounds[0]} to {bounds[1]}"
