"""Everything we promise, tested at full size; ends with a table."""

import json
import os
import secrets
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.embedded import find_data_dir
from orders.management.proof.auditing import audit_seeded_orders
from orders.management.proof.suites import SUITES, Suite, run_suite
from orders.management.proof.table import render_markdown, render_text, write_evidence
from orders.management.stack import StackError
from orders.management.storms.company import Company
from orders.management.storms.plans import FULL, SHORT, Storm
from orders.management.storms.progress import Progress
from orders.management.storms.results import Kept, Result, name_commit
from orders.management.storms.servers import find_obstacles

AUDITOR = "auditor"
NAMES = (*FULL, *(suite.name for suite in SUITES), AUDITOR)
Run = Callable[[], Result]


class Command(BaseCommand):
    help = (
        "Run every test of what we promise at full size, one after the other, on stacks of their own, and "
        "print a table: test, N, faults injected, violations, seed, commit. Each finished test is kept, and "
        "--resume goes on from there. Exit 0 only if there is no violation."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: each)")
        parser.add_argument("--short", action="store_true", help="at the size of CI")
        parser.add_argument("--seed", type=int, help="the number everything random comes from")
        parser.add_argument(
            "--resume", action="store_true", help="leave out what has ended well on this very code"
        )
        parser.add_argument("--processes", type=int, default=3, help="test processes of pytest (default 3)")
        parser.add_argument("--markdown", metavar="FILE", help="write the table there, as Markdown")
        parser.add_argument("--evidence", metavar="FILE", help="put the table into that document")
        parser.add_argument("--json", metavar="FILE", help="write the report there")
        parser.add_argument(
            "--add",
            metavar="REPORT",
            help="show tests of an earlier --json report, too, that are not run now; each row has its commit",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        unknown = [name for name in options["names"] if name not in NAMES]
        if unknown:
            raise CommandError(
                f"There is no test {', '.join(unknown)}; there are {', '.join(NAMES)}.", returncode=2
            )
        if obstacles := find_obstacles(os.environ):
            raise CommandError("\n".join(obstacles), returncode=2)
        self.seed = secrets.randbelow(2**32) if options["seed"] is None else options["seed"]
        self.is_full = not options["short"]
        self.processes = options["processes"]
        self.place = find_data_dir(settings.BASE_DIR) / "storms"
        self.kept = Kept(self.place / "kept", name_commit(settings.BASE_DIR))
        print(f"seed {self.seed}, commit {self.kept.commit}", file=sys.stderr)
        earlier = read_report(options["add"]) if options["add"] else []
        results = merge(earlier, self.run(options["names"] or NAMES, resume=options["resume"]))
        self.stdout.write(render_text(results))
        if options["markdown"]:
            Path(options["markdown"]).write_text(render_markdown(results) + "\n")
        if options["json"]:
            Path(options["json"]).write_text(json.dumps([result.describe() for result in results], indent=2))
        if options["evidence"]:
            try:
                write_evidence(Path(options["evidence"]), results)
            except (OSError, ValueError) as error:
                raise CommandError(str(error)) from error
        violations = [(result.test, each) for result in results for each in result.violations]
        for test, violation in violations:
            self.stdout.write(f"VIOLATION  {test}: {violation}")
        if violations:
            raise CommandError(f"{len(violations)} violations; logs and data are kept in {self.place}")

    def run(self, names: list[str] | tuple[str, ...], *, resume: bool) -> list[Result]:
        """Each test in its order; each is written down before the next begins."""
        results: list[Result] = []
        with Company(self.place) as company:
            for key, run in self.list_runs(names, company):
                result = self.kept.find(key) if resume else None
                if result:
                    print(f"{result.test:<10} has ended well before ({result.ended_at})", file=sys.stderr)
                else:
                    try:
                        result = run()
                    except StackError as error:
                        raise CommandError(f"{error}\n(--seed {self.seed})") from error
                    self.kept.keep(key, result)
                results.append(result)
        return results

    def list_runs(self, names: list[str] | tuple[str, ...], company: Company) -> list[tuple[str, Run]]:
        """The tests with the keys they are kept under."""
        size = "" if self.is_full else " short"
        storms = [(FULL if self.is_full else SHORT)[name] for name in FULL if name in names]
        suites = [suite for suite in SUITES if suite.name in names]
        return [
            *(
                (f"storm {storm.name}{size} {storm.orders}", self.make_storm(storm, company))
                for storm in storms
            ),
            *((f"suite {suite.name}{size}", self.make_suite(suite)) for suite in suites),
            *([(f"{AUDITOR}{size}", self.audit)] if AUDITOR in names else []),
        ]

    def make_storm(self, storm: Storm, company: Company) -> Run:
        return lambda: company.run(storm, seed=self.seed, commit=self.kept.commit)

    def make_suite(self, suite: Suite) -> Run:
        progress = Progress(suite.name)

        def run() -> Result:
            progress.say(f"{suite.title}, seed {self.seed}")
            result = run_suite(
                suite,
                place=self.place / "suites",
                seed=self.seed,
                commit=self.kept.commit,
                processes=self.processes,
                is_full=self.is_full,
                report=progress.show,
            )
            progress.say(
                f"{result.n} {result.of}, {len(result.violations)} violations, {result.seconds:.0f} s"
            )
            return result

        return run

    def audit(self) -> Result:
        progress = Progress(AUDITOR)
        progress.say("seeding and auditing")
        result = audit_seeded_orders(
            place=self.place, seed=self.seed, commit=self.kept.commit, is_full=self.is_full
        )
        progress.say(summarise(result))
        return result


def read_report(file: str) -> list[Result]:
    """The results of a report written with --json. Raises CommandError for anything else."""
    try:
        return [Result(**each) for each in json.loads(Path(file).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(f"{file} is no report of `proof --json`: {error}", returncode=2) from error


def merge(earlier: list[Result], now: list[Result]) -> list[Result]:
    """All of now, and of the earlier ones those that were not run again, in the order of NAMES."""
    found = {result.test: result for result in [*earlier, *now]}
    return sorted(found.values(), key=lambda result: NAMES.index(result.test))


def summarise(result: Result) -> str:
    """One line about a test that has ended."""
    return f"{result.n} {result.of}, {len(result.violations)} violations, {result.seconds:.0f} s"
