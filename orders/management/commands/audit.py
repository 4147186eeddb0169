"""Audits the books: stock, money, mail, trail and sagas against each other. Changes nothing."""

import asyncio
import json
from argparse import ArgumentParser
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, OperationalError, ProgrammingError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from config.temporal import DatabaseBusy
from orders.audit.books import Report, audit_books
from orders.audit.rule import TOLD, Scope
from orders.models import Order


class Command(BaseCommand):
    help = (
        "Audit the books: do stock, money, mails, trails and sagas agree? Reads one snapshot of the "
        "database, then asks Temporal about orders that do not move, and with --gateway the payment gateway "
        "for its ledger. Changes nothing. Ends with 0 if the books balance, 1 if they do not, 2 if it could "
        "not be told. docs/audit.md explains every rule."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        parser.add_argument("--order", metavar="ID", help="only this order, by its id or its number")
        parser.add_argument(
            "--since",
            metavar="WHEN",
            help="only orders accepted since then, for example 2026-11-23 or 2026-11-23T14:00:00",
        )
        parser.add_argument(
            "--gateway",
            action="store_true",
            help="also compare the payments with the gateway's own ledger, line by line",
        )
        parser.add_argument(
            "--no-temporal", action="store_true", help="do not ask Temporal about orders that do not move"
        )
        parser.add_argument(
            "--told",
            type=int,
            default=TOLD,
            metavar="N",
            help=f"tell at most so many violations of each rule (default {TOLD}); all are counted",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["told"] < 1:
            raise CommandError("--told takes a number from 1 on.", returncode=2)
        if options["order"] and options["since"]:
            raise CommandError("Give --order or --since, not both.", returncode=2)
        try:
            scope = Scope(order_id=find_order(options["order"]), since=read_moment(options["since"]))
            report = asyncio.run(
                audit_books(
                    scope,
                    ask_temporal=not options["no_temporal"],
                    ask_gateway=options["gateway"],
                    told=options["told"],
                )
            )
        except ProgrammingError as error:
            raise CommandError(
                f"The database has not the tables that this takes: run `manage.py migrate` first ({error}).",
                returncode=2,
            ) from error
        except (OperationalError, DatabaseBusy) as error:
            raise CommandError(f"The database cannot be read: {error}", returncode=2) from error
        except DatabaseError as error:
            raise CommandError(f"The audit failed: {error}", returncode=2) from error
        if options["json"]:
            self.stdout.write(json.dumps(report.to_json()))
        else:
            self.show(report)
        end(report)

    def show(self, report: Report) -> None:
        """The report for people."""
        for violation in report.violations:
            self.stdout.write(f"{violation.rule}: {violation.sentence}")
        told = {name: sum(found.rule == name for found in report.violations) for name in report.broken}
        for name, count in report.broken.items():
            if count > told[name]:
                self.stdout.write(f"{name}: and {count - told[name]} more; --told shows them.")
        self.stdout.write(
            f"{count_things(report.orders, 'order')}, {count_things(len(report.counts), 'rule')}, "
            f"{count_things(report.total, 'violation')}, {report.seconds:.1f} s"
        )
        if not report.total and not report.left_out:
            self.stdout.write("The books balance.")


def end(report: Report) -> None:
    """End as the report says: quietly only when everything that was to be asked was asked, and is right."""
    reasons = "".join(f" Left out: {reason}" for reason in report.left_out.values())
    if report.total:
        rules = ", ".join(f"{name} {count}" for name, count in report.broken.items())
        raise CommandError(f"The books do not balance: {rules}.{reasons}", returncode=1)
    if report.left_out:
        raise CommandError(f"What was asked is in order, but not all could be asked.{reasons}", returncode=2)


def find_order(text: str | None) -> UUID | None:
    """The id of the order that is meant by its id or number. Raises CommandError if there is none."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 19:
        orders = Order.objects.filter(number=int(text))
    else:
        try:
            orders = Order.objects.filter(pk=UUID(text))
        except ValueError as error:
            raise CommandError(
                f"--order takes an order's id or its number, not {text!r}.", returncode=2
            ) from error
    order_id = orders.values_list("pk", flat=True).first()
    if order_id is None:
        raise CommandError(f"There is no order {text}.", returncode=2)
    return order_id


def read_moment(text: str | None) -> datetime | None:
    """The moment that is meant, in the shop's time zone unless it names one. Raises CommandError."""
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)) is not None:
            moment = datetime.combine(day, time.min)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(
            f"--since takes a day or a moment such as 2026-11-23T14:00:00, not {text!r}.", returncode=2
        )
    return moment.astimezone(UTC) if moment.tzinfo else timezone.make_aware(moment)


def count_things(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
