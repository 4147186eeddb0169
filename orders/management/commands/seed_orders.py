"""Fills a developer's database with a made-up past: orders of the last weeks, with balanced books."""

import json
import random
import secrets
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from inventory.catalogue import seed_catalogue
from inventory.models import Product
from orders.management.real_books import refuse_real_books
from orders.management.seeding.books import Books, make_rows, name_order
from orders.management.seeding.copying import Warehouse, analyse, find_sequence, reserve_ids, save_chunk
from orders.management.seeding.mails import MailWriter
from orders.management.seeding.plan import Ending, Shelf, choose_endings, make_up_order, spread_over
from orders.management.seeding.stories import tell_story
from orders.models import ApiClient
from payments.models import Payment

MAX_COUNT = 2_000_000
MAX_DAYS = 3650
CHUNK = 2000
# The machine client that has placed most of the orders. It has no key.
CLIENT = "web-shop"
# They have placed the others. None of them can log in.
STAFF = ["ines", "maria", "tomas", "viktor"]
NUMBERS = "orders_order_number_seq"


class Command(BaseCommand):
    help = (
        "Fill a developer's database with made-up orders that have run their course, spread over the last "
        "weeks, for looking at and measuring the pages. Orders, stock, money and mails balance as if the "
        "sagas had run. They have not: nothing is told to Temporal, the few orders that look unfinished "
        "have no saga and stay as they are, the payment sandbox knows none of the charges, and no mail is "
        "sent. Every run adds more."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=100_000, help="orders to add (default 100000)")
        parser.add_argument("--days", type=int, default=90, help="how far back they reach (default 90)")
        parser.add_argument(
            "--seed",
            type=int,
            help="a number that makes the same orders again, but for ids, numbers and times",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_real_books("writes made-up history into the books")
        count, days = options["count"], options["days"]
        if not 1 <= count <= MAX_COUNT:
            raise CommandError(f"--count takes a number from 1 to {MAX_COUNT}.", returncode=2)
        if not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--days takes a number from 1 to {MAX_DAYS}.", returncode=2)
        seed = secrets.randbelow(2**32) if options["seed"] is None else options["seed"]
        began = time.monotonic()
        endings = self.write(count=count, days=days, seed=seed)
        analyse()
        seconds = time.monotonic() - began
        report = {"orders": count, "seed": seed, "seconds": round(seconds, 1), "endings": dict(endings)}
        if options["json"]:
            self.stdout.write(json.dumps(report))
            return
        self.stdout.write(f"{count} orders of the last {days} days in {seconds:.1f} s (--seed {seed})")
        for ending, found in endings.most_common():
            self.stdout.write(f"  {found:>8} {ending}")

    def write(self, *, count: int, days: int, seed: int) -> Counter[Ending]:
        """Write the orders, a transaction per chunk. Returns how many ended in which way."""
        seed_catalogue()
        client = (ApiClient.objects.get_or_create(name=CLIENT)[0].pk, CLIENT)
        staff = [(make_person(name).pk, name) for name in STAFF]
        shelf = Shelf(list(Product.objects.filter(is_active=True, price__gt=0, stock__isnull=False)))
        if not shelf.products:
            raise CommandError("No product is on sale, so nothing can have been ordered.")
        # The wishes and the clock have a stream each: how many moments are tried must not change the orders.
        rng, now = random.Random(seed), timezone.now()  # noqa: S311 - made-up data, not a secret
        clock = random.Random(f"{seed} clock")  # noqa: S311
        zone = timezone.get_default_timezone()
        moments = spread_over(count, days=days, now=now, zone=zone, rng=clock)
        endings = choose_endings(count, rng)
        mails, warehouse, payments = MailWriter(), Warehouse(), find_sequence(Payment)
        began = time.monotonic()
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            numbers, payment_ids = reserve_ids(NUMBERS, stop - start), reserve_ids(payments, stop - start)
            rows = make_rows()
            for place, number, payment_id in zip(range(start, stop), numbers, payment_ids, strict=True):
                order = make_up_order(
                    order_id=name_order(seed, number),
                    number=number,
                    moment=moments[place],
                    ending=endings[place],
                    shelf=shelf,
                    rng=rng,
                )
                books = Books(
                    order,
                    rows=rows,
                    payment_id=payment_id,
                    client=client,
                    staff=staff,
                    mails=mails,
                    now=now,
                    rng=rng,
                )
                tell_story(books)
            warehouse.receive(rows)
            save_chunk(rows)
            show_progress(stop, count, began)
        return Counter(endings)


def make_person(name: str) -> User:
    """An account that made-up orders and cancels point at; without a password nobody logs in with it."""
    user, is_new = User.objects.get_or_create(username=name, defaults={"is_staff": True})
    if is_new:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user


def show_progress(done: int, count: int, began: float) -> None:
    """How far it is: one line that is overwritten on a terminal, and few lines elsewhere."""
    rate = done / max(time.monotonic() - began, 0.001)
    left = (count - done) / rate
    line = f"{done} of {count} orders, {rate:.0f} a second, {left:.0f} s left"
    if sys.stderr.isatty():
        print(f"\r{line}    ", end="" if done < count else "\n", file=sys.stderr, flush=True)
    elif done == count or done // CHUNK % 5 == 0:
        print(line, file=sys.stderr, flush=True)
