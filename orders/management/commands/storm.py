"""Kills everything that can die while orders are placed, on a stack of its own, and judges what is left."""

import json
import os
import secrets
import sys
from argparse import SUPPRESS, ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.embedded import find_data_dir
from orders.management.real_books import refuse_real_books
from orders.management.stack import StackError
from orders.management.storms.company import Company
from orders.management.storms.plans import FULL, SHORT, Storm
from orders.management.storms.results import Kept, Result, name_commit
from orders.management.storms.servers import find_obstacles
from orders.management.storms.supplying import supply


class Command(BaseCommand):
    help = (
        "Place orders while workers, PostgreSQL or Temporal are killed with -9, while the gateway fails, or "
        "while three actors race for each order; then wait a minute and compare orders, stock, money and "
        "mails with the auditor, the gateway's ledger and the mail server. It starts a stack of its own and "
        "touches no other. Exit 0 only if nothing is wrong."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FULL)} (default: each)")
        parser.add_argument("--short", action="store_true", help="a few orders and kills, as CI runs it")
        parser.add_argument("--seed", type=int, help="the number everything random comes from")
        parser.add_argument("--orders", type=int, help="how many orders, instead of the storm's own number")
        parser.add_argument("--json", metavar="FILE", help="write the report there; - is stdout")
        parser.add_argument(
            "--resume", action="store_true", help="leave out what has ended well on this very code"
        )
        parser.add_argument("--prepare", type=int, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["prepare"] is not None:  # how a storm calls itself, on its own stack
            refuse_real_books("stocks up for a storm")
            self.stdout.write(json.dumps(supply(scarce=options["prepare"])))
            return
        storms = choose_storms(options["names"], is_short=options["short"], orders=options["orders"])
        if obstacles := find_obstacles(os.environ):
            raise CommandError("\n".join(obstacles), returncode=2)
        seed = secrets.randbelow(2**32) if options["seed"] is None else options["seed"]
        place = find_data_dir(settings.BASE_DIR) / "storms"
        commit = name_commit(settings.BASE_DIR)
        results = self.run(
            storms, Company(place), Kept(place / "kept", commit), seed=seed, resume=options["resume"]
        )
        report = {
            "commit": commit,
            "seed": seed,
            "violations": sum(len(result.violations) for result in results),
            "tests": [result.describe() for result in results],
        }
        if options["json"] == "-":
            self.stdout.write(json.dumps(report, indent=2))
        elif options["json"]:
            Path(options["json"]).write_text(json.dumps(report, indent=2))
        if report["violations"]:
            raise CommandError(
                f"{report['violations']} violations (--seed {seed}); logs and data are kept in {place}"
            )

    def run(
        self, storms: list[Storm], company: Company, kept: Kept, *, seed: int, resume: bool
    ) -> list[Result]:
        """One storm after the other; each is written down before the next begins."""
        print(f"seed {seed}, commit {kept.commit}", file=sys.stderr)
        results: list[Result] = []
        with company:
            for storm in storms:
                key = f"storm {storm.name}{' short' if storm.is_short else ''} {storm.orders}"
                result = kept.find(key) if resume else None
                if result:
                    print(f"{storm.name:<10} has ended well before ({result.ended_at})", file=sys.stderr)
                else:
                    try:
                        result = company.run(storm, seed=seed, commit=kept.commit)
                    except StackError as error:
                        raise CommandError(f"{error}\n(--seed {seed})") from error
                    kept.keep(key, result)
                results.append(result)
                for violation in result.violations:
                    print(f"VIOLATION  {storm.name}: {violation}", file=sys.stderr)
        return results


def choose_storms(names: list[str], *, is_short: bool, orders: int | None) -> list[Storm]:
    """The storms of these names, all without any. Raises CommandError with exit code 2 for unknown ones."""
    unknown = [name for name in names if name not in FULL]
    if unknown:
        raise CommandError(
            f"There is no storm {', '.join(unknown)}; there are {', '.join(FULL)}.", returncode=2
        )
    if orders is not None and not 20 <= orders <= 100_000:
        raise CommandError("--orders takes a number from 20 to 100000.", returncode=2)
    plans = SHORT if is_short else FULL
    chosen = [plans[name] for name in dict.fromkeys(names or FULL)]
    return [replace(storm, orders=orders) for storm in chosen] if orders else chosen
