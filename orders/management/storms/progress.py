"""How far it is, on stderr: one line that is overwritten on a terminal, a plain line now and then else."""

import sys
import time

BAR = 30
PLAIN_EVERY = 15.0


class Progress:
    """The bar of one test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_live = sys.stderr.isatty()
        self.last = 0.0
        self.width = 0

    def show(self, done: int, total: int, text: str) -> None:
        """`done` of `total`, and what is to be said beside it."""
        now = time.monotonic()
        if self.is_live:
            filled = BAR * done // max(total, 1)
            line = f"{self.name:<10} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}  {text}"
            sys.stderr.write(f"\r{line:<{self.width}}")
            sys.stderr.flush()
            self.width = len(line)
        elif now - self.last >= PLAIN_EVERY:
            self.say(f"{done}/{total}  {text}".rstrip())
            self.last = now

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.is_live and self.width:
            sys.stderr.write(f"\r{' ' * self.width}\r")
            self.width = 0
        print(f"{self.name:<10} {text}", file=sys.stderr, flush=True)
