"""Figures out of measurements: percentiles, medians, and how sure a median of few rounds is."""

import random
import statistics
from collections.abc import Sequence

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
DRAWS = 10_000


def find_percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share (0 to 1) of the values lies, interpolated between its neighbours.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarise(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 with one decimal; None for each when there are no values."""
    return {
        name: round(find_percentile(values, share), 1) if values else None for name, share in SHARES.items()
    }


def estimate_interval(values: Sequence[float], *, seed: int = 1, share: float = 0.95) -> tuple[float, float]:
    """The interval that holds the median with that probability: the percentile bootstrap.

    The rounds are drawn again, with replacement, DRAWS times; the interval is what the middle `share` of
    their medians spans. The same values and seed give the same interval. Raises ValueError without values.
    """
    if not values:
        raise ValueError("there is no interval of nothing")
    dice = random.Random(seed)  # noqa: S311 - draws, not secrets
    medians = [statistics.median(dice.choices(values, k=len(values))) for _ in range(DRAWS)]
    return find_percentile(medians, (1 - share) / 2), find_percentile(medians, (1 + share) / 2)
