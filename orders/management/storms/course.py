"""How far a storm has come: kills and orders wait for each other, so that every kill meets orders at work."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from orders.management.storms.plans import Storm


class StormAborted(Exception):
    """Something a storm stands on has ended; the message says what."""


def have_ended(threads: Iterable[threading.Thread]) -> bool:
    """Whether all have run and ended; those that were not started yet have not."""
    return all(thread.ident is not None and not thread.is_alive() for thread in threads)


@dataclass
class Tally:
    """What was counted while the storm went on. Written by many threads, under the course's lock."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


class Course:
    """Shared by the threads of one storm."""

    def __init__(self, storm: Storm, seed: int) -> None:
        self.storm = storm
        self.seed = seed
        self.began = time.monotonic()
        self.changed = threading.Condition()
        self.accepted = 0
        self.kills: dict[str, int] = {}  # how many of each kind are to be
        self.killed: Counter[str] = Counter()
        self.tally = Tally()
        self.failure: BaseException | None = None
        self.is_over = False

    def make_random(self, purpose: str) -> random.Random:
        """Dice of their own for each purpose: what one thread draws must not depend on another's pace."""
        return random.Random(f"{self.seed} {self.storm.name} {purpose}")  # noqa: S311 - faults, not secrets

    def count(self, what: str, number: int = 1) -> None:
        with self.changed:
            self.tally.counts[what] += number

    def violate(self, sentence: str) -> None:
        """Note something that must never be."""
        with self.changed:
            self.tally.notes.append(sentence)

    def note_accepted(self) -> None:
        with self.changed:
            self.accepted += 1
            self.changed.notify_all()

    def note_kill(self, kind: str) -> None:
        with self.changed:
            self.killed[kind] += 1
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the storm for everybody."""
        with self.changed:
            self.failure = self.failure or error
            self.is_over = True
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.is_over = True
            self.changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, unless the storm ends. Raises StormAborted then."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_over, timeout=max(seconds, 0))
            self.check()

    def check(self) -> None:
        if self.is_over:
            raise StormAborted("the storm has ended")

    def wait_to_place(self, index: int, due: float) -> None:
        """Until order `index` (from 0) may be placed: at its time, and when the kills have kept up."""
        self.pause(self.began + due - time.monotonic())
        with self.changed:
            self.changed.wait_for(lambda: self.is_over or self._kills_keep_up(index))
            self.check()

    def _kills_keep_up(self, index: int) -> bool:
        """Whether the kills that were due before this order have struck."""
        return all(
            self.killed[kind] >= index * (kills + 1) // self.storm.orders
            for kind, kills in self.kills.items()
        )

    def wait_to_kill(self, number: int, kills: int, dice: random.Random) -> None:
        """Until kill `number` (from 0) of `kills` is due: when its share of the orders has been accepted."""
        share = self.storm.orders / (kills + 1)
        threshold = int((number + dice.uniform(0.3, 0.95)) * share)
        with self.changed:
            self.changed.wait_for(lambda: self.is_over or self.accepted >= threshold)
            self.check()
