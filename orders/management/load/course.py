"""The course of a load: threads place its orders, and the main thread waits until each has ended."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from orders.management.load.doors import Door, NotPlaced
from orders.management.load.outcome import find_ended, find_run
from orders.management.load.plan import Plan

# More orders can be in flight than threads place them: placing takes milliseconds, a saga far longer.
MOST_THREADS = 16
# Seconds in which no order is placed and none ends, after which the rest counts as unfinished.
PATIENCE = 60.0
# Seconds between two looks at what has ended: longer, the more orders are asked about, and long enough for an
# order alone to be left in peace.
SHORTEST_LOOK, LONGEST_LOOK, LOOK_PER_ORDER = 0.2, 1.0, 0.003

# Called at each look with how many have ended, how many are in flight, and orders a second so far.
Watch = Callable[[int, int, float], None]


class Course:
    """One run of a plan. `open_door` gives each thread a client of its own."""

    def __init__(self, plan: Plan, open_door: Callable[[], Door]) -> None:
        self.plan = plan
        self.open_door = open_door
        self.changed = threading.Condition()
        self.next_index = 0
        self.in_flight: set[UUID] = set()
        self.reserved = 0  # slots of orders that are just being placed
        self.accepted = 0
        self.accepted_at: dict[UUID, datetime] = {}  # when their clients were told
        self.ended = 0
        self.errors: Counter[str] = Counter()
        self.accept_ms: list[float] = []
        self.is_over = False
        self.failure: BaseException | None = None
        self.began_at: datetime = timezone.now()
        self.began = time.monotonic()

    def run(self, watch: Watch) -> None:
        """Place the orders and wait for their ends, at most PATIENCE without any progress. What `watch`
        raises ends it. Raises whatever a thread could not cope with."""
        count = min(MOST_THREADS, self.plan.orders, self.plan.concurrency)
        threads = [
            threading.Thread(target=self._place_orders, name=f"load-{number}", daemon=True)
            for number in range(MOST_THREADS if self.plan.is_open else count)
        ]
        self.began_at, self.began = timezone.now(), time.monotonic()
        try:
            for thread in threads:
                thread.start()
            self._wait(threads, watch)
        finally:
            with self.changed:
                self.is_over = True
                self.changed.notify_all()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _wait(self, threads: list[threading.Thread], watch: Watch) -> None:
        moved, before = time.monotonic(), (-1, -1)
        is_complete = False
        while True:
            is_placed = not any(thread.is_alive() for thread in threads)
            if self.failure:
                raise self.failure
            if is_placed and not is_complete:
                self._add_unanswered()
                is_complete = True
            self._note_ended()
            now = time.monotonic()
            watch(self.ended, len(self.in_flight), self.ended / max(now - self.began, 0.001))
            if is_placed and not self.in_flight:
                return
            if (state := (self.accepted + self.errors.total(), self.ended)) != before:
                moved, before = now, state
            elif now - moved > PATIENCE:
                return
            look = len(self.in_flight) * LOOK_PER_ORDER
            time.sleep(min(max(look, SHORTEST_LOOK), LONGEST_LOOK))

    def _note_ended(self) -> None:
        """Take the ended orders out of those in flight, which makes room for the next."""
        with self.changed:
            asked = list(self.in_flight)
        if not asked:
            return
        ended = find_ended(asked)
        with self.changed:
            self.in_flight -= ended
            self.ended += len(ended)
            self.changed.notify_all()

    def _add_unanswered(self) -> None:
        """Orders that were accepted although their client got no answer end like all others."""
        if self.errors:
            known = find_run(self.plan, since=self.began_at)
            with self.changed:
                missed = len(known) - self.accepted
                if missed > 0:
                    self.in_flight |= known - find_ended(list(known))
                    self.ended = len(known) - len(self.in_flight)
                    self.accepted = len(known)

    def _place_orders(self) -> None:
        try:
            with contextlib.closing(self.open_door()) as door:
                while (index := self._take_turn()) is not None:
                    self._place(door, index)
        except BaseException as error:
            with self.changed:
                self.failure = self.failure or error
                self.is_over = True
                self.changed.notify_all()

    def _take_turn(self) -> int | None:
        """The next order's number when it may be placed; None when there is none."""
        plan = self.plan
        with self.changed:
            if not plan.is_open:
                self.changed.wait_for(
                    lambda: self.is_over or len(self.in_flight) + self.reserved < plan.concurrency
                )
            if self.is_over or self.next_index >= plan.orders:
                return None
            index = self.next_index
            self.next_index += 1
            self.reserved += 1
            if plan.is_open:
                wait = max(self._find_due(index) - time.monotonic(), 0)
                if self.changed.wait_for(lambda: self.is_over, timeout=wait):
                    return None
            return index

    def _find_due(self, index: int) -> float:
        assert self.plan.rate is not None  # noqa: S101 - asked for an open loop only
        return self.began + index / self.plan.rate

    def _place(self, door: Door, index: int) -> None:
        # In an open loop from when it was due: a client that cannot keep up must not look like a fast desk.
        asked = self._find_due(index) if self.plan.is_open else time.monotonic()
        try:
            order_id = door.place(self.plan.make_wish(index), email=self.plan.email)
        except NotPlaced as error:
            with self.changed:
                self.reserved -= 1
                self.errors[str(error)] += 1
                self.changed.notify_all()
            return
        took, accepted_at = (time.monotonic() - asked) * 1000, timezone.now()
        with self.changed:
            self.reserved -= 1
            self.accepted += 1
            self.accept_ms.append(took)
            self.accepted_at[order_id] = accepted_at
            self.in_flight.add(order_id)
