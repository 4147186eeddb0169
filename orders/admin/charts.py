"""The charts of the rollbacks: numbers by day as what the templates draw, an SVG and the table behind it.

Coordinates are text, so that no template formats them for a reader.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from django.utils.formats import date_format
from django.utils.timezone import localdate

from orders import statistics
from orders.admin.lists import format_duration
from orders.models import STEPS

PERIOD_PARAMETER = "days"
PERIODS = (7, 30, 90)
DEFAULT_PERIOD = 30

# The field of the bars in the drawing of 300 x 150 units, which is scaled to the width it is given.
LEFT, RIGHT, TOP, BOTTOM = 40, 298, 8, 130

OTHER = "other"
# Each with its colour and pattern in lists.css, whichever of them a period has.
SERIES = [*STEPS, statistics.CANCELLED, OTHER]

COUNTS = [size * 10**power for power in range(8) for size in (1, 2, 4, 6, 8)]
PERCENTS = [1, 2, 4, 10, 20, 40, 60, 80, 100]
# In seconds, so that half of each reads well, too.
SPANS = [
    0.2,
    1,
    2,
    4,
    10,
    20,
    40,
    120,
    240,
    600,
    1200,
    2400,
    7200,
    14_400,
    43_200,
    *(86_400 * n for n in COUNTS),
]


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a day's bar: where it stands, which series it is of, and what it says."""

    x: str
    y: str
    width: str
    height: str
    series: int
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across, and what it stands for; or a day below, at `at`."""

    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Key:
    """What one colour stands for."""

    series: int
    name: str
    total: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, its description in words, and the table of its numbers. No bars: there was nothing to draw."""

    slug: str
    title: str
    headline: str
    description: str
    bars: list[Bar]
    ticks: list[Tick]
    days: list[Tick]
    keys: list[Key]
    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Panel:
    """The charts of a period, and the periods there are."""

    days: int
    periods: tuple[int, ...]
    charts: list[Chart]


def read_period(text: str) -> int:
    """The period in days that an address asks for; the usual one when it asks for none that there is."""
    return next((days for days in PERIODS if str(days) == text), DEFAULT_PERIOD)


def draw_charts(days: int) -> Panel:
    """The charts of the last `days` days, today included."""
    today = localdate()
    period = [today - timedelta(days=back) for back in reversed(range(days))]
    return Panel(days, PERIODS, [_draw_counts(period), _draw_shares(period), _draw_durations(period)])


# --- the three charts ------------------------------------------------------------------------------------


def _draw_counts(period: list[date]) -> Chart:
    found = statistics.count_rollbacks(period[0])
    counts = [_count_series(found.get(day, {})) for day in period]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    present = [index for index, total in enumerate(totals) if total]
    worst = max(range(len(period)), key=lambda index: sum(counts[index]))
    total = sum(totals)
    top = _find_top(COUNTS, sum(counts[worst]))
    bars: list[Bar] = []
    for place, (day, row) in enumerate(zip(period, counts, strict=True)):
        below = 0
        for index in present:
            if row[index]:
                text = f"{format_day(day)}: {row[index]} {SERIES[index]}"
                bars.append(_place_bar(place, len(period), below / top, row[index] / top, index + 1, text))
            below += row[index]
    listed = ", ".join(f"{SERIES[index]} {totals[index]}" for index in present)
    return Chart(
        slug="rollbacks-by-step",
        title="Rollbacks per day, by failed step",
        headline=f"{total} rollback{'' if total == 1 else 's'}",
        description=f"Stacked bars, one per day, {_format_period(period)}. {total} in all: {listed}. "
        f"Most on {format_day(period[worst])}: {sum(counts[worst])}.",
        bars=bars,
        ticks=_place_ticks(top, lambda value: f"{value:.0f}"),
        days=_place_days(period),
        keys=[Key(index + 1, SERIES[index], str(totals[index])) for index in present],
        columns=[*(SERIES[index] for index in present), "all"],
        rows=[
            (format_day(day), [*(str(row[index]) for index in present), str(sum(row))])
            for day, row in zip(period, counts, strict=True)
        ],
    )


def _draw_shares(period: list[date]) -> Chart:
    found = statistics.count_orders(period[0])
    shares = [found.get(day, statistics.Share()) for day in period]
    accepted = sum(share.accepted for share in shares)
    rolled_back = sum(share.rolled_back for share in shares)
    overall = statistics.Share(accepted, rolled_back)
    worst = max(range(len(period)), key=lambda index: shares[index].percent)
    top = _find_top(PERCENTS, shares[worst].percent)
    return Chart(
        slug="share-rolled-back",
        title="Share rolled back, by day accepted",
        headline=f"{overall.percent:.1f} % of {accepted} orders",
        description=f"One bar per day, {_format_period(period)}. {rolled_back} of {accepted} orders were "
        f"rolled back, {overall.percent:.1f} %. "
        f"Most on {format_day(period[worst])}: {shares[worst].percent:.1f} %.",
        bars=[
            _place_bar(
                place,
                len(period),
                0,
                share.percent / top,
                8,
                f"{format_day(day)}: {share.rolled_back} of {share.accepted}, {share.percent:.1f} %",
            )
            for place, (day, share) in enumerate(zip(period, shares, strict=True))
            if share.rolled_back
        ],
        ticks=_place_ticks(top, lambda value: f"{value:g} %"),
        days=_place_days(period),
        keys=[Key(8, "rolled back", f"{overall.percent:.1f} %")],
        columns=["accepted", "rolled back", "share"],
        rows=[
            (format_day(day), [str(share.accepted), str(share.rolled_back), f"{share.percent:.1f} %"])
            for day, share in zip(period, shares, strict=True)
        ],
    )


def _draw_durations(period: list[date]) -> Chart:
    found, overall = statistics.measure_rollbacks(period[0])
    durations = [found.get(day, statistics.Durations()) for day in period]
    worst = max(range(len(period)), key=lambda index: durations[index].p95)
    top = _find_top(SPANS, durations[worst].p95.total_seconds())
    bars: list[Bar] = []
    for place, (day, took) in enumerate(zip(period, durations, strict=True)):
        if took.count:
            text = (
                f"{format_day(day)}: half within {format_duration(took.p50)}, "
                f"95 % within {format_duration(took.p95)}"
            )
            p95, p50 = took.p95.total_seconds() / top, took.p50.total_seconds() / top
            bars.append(_place_bar(place, len(period), p50, p95 - p50, 10, text))
            bars.append(_place_bar(place, len(period), 0, p50, 9, text))
    half, most = format_duration(overall.p50), format_duration(overall.p95)
    return Chart(
        slug="time-to-roll-back",
        title="Time to roll back, by day begun",
        headline=f"half within {half}, 95 % within {most}",
        description=f"One bar per day, {_format_period(period)}: its lower part is the time within which "
        f"half of the day's rollbacks were complete, its top that for 95 %. Over all {overall.count}: {half} "
        f"and {most}. Longest on {format_day(period[worst])}: {format_duration(durations[worst].p95)}.",
        bars=bars,
        ticks=_place_ticks(top, lambda value: format_duration(timedelta(seconds=value))),
        days=_place_days(period),
        keys=[Key(9, "p50: half", half), Key(10, "p95: 95 %", most)],
        columns=["complete", "p50", "p95"],
        rows=[
            (format_day(day), [str(took.count), format_duration(took.p50), format_duration(took.p95)])
            for day, took in zip(period, durations, strict=True)
        ],
    )


# --- what they share -------------------------------------------------------------------------------------


def _count_series(counts: dict[str, int]) -> list[int]:
    """The counts of a day in the order of SERIES."""
    other = sum(count for name, count in counts.items() if name not in SERIES)
    return [*(counts.get(name, 0) for name in SERIES[:-1]), other]


def _find_top(ladder: Sequence[float], highest: float) -> float:
    """The first rung of the ladder at or above `highest`: where the scale ends."""
    return next((rung for rung in ladder if rung >= highest), math.ceil(highest))


def _place_bar(place: int, places: int, below: float, share: float, series: int, text: str) -> Bar:
    """A bar in its day's place, from `below` up by `share` of the scale."""
    slot = (RIGHT - LEFT) / places
    width = max(slot * 0.76, slot - 4)
    height = share * (BOTTOM - TOP)
    return Bar(
        x=f"{LEFT + place * slot + (slot - width) / 2:.2f}",
        y=f"{BOTTOM - below * (BOTTOM - TOP) - height:.2f}",
        width=f"{width:.2f}",
        height=f"{height:.2f}",
        series=series,
        text=text,
    )


def _place_ticks(top: float, format_value: Callable[[float], str]) -> list[Tick]:
    """Lines at nothing, half and the whole of the scale; a whole that is 1 of something has no half."""
    values: Iterable[float] = (0, top) if top == 1 else (0, top / 2, top)
    return [
        Tick(f"{BOTTOM - value / top * (BOTTOM - TOP):.2f}", format_value(value) if value else "0")
        for value in values
    ]


def _place_days(period: list[date]) -> list[Tick]:
    """The first day, one in the middle and the last."""
    slot = (RIGHT - LEFT) / len(period)
    places = (0, len(period) // 2, len(period) - 1)
    return [Tick(f"{LEFT + (place + 0.5) * slot:.2f}", format_day(period[place])) for place in places]


def format_day(day: date) -> str:
    """A day as the charts write it: 9 Nov."""
    return date_format(day, "j M")


def _format_period(period: list[date]) -> str:
    return f"{date_format(period[0], 'j M Y')} to {date_format(period[-1], 'j M Y')}"
