"""The table at the end of the proof, for people and as Markdown for docs/evidence.md."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from orders.management.storms.results import Result

HEAD = ("test", "N", "faults injected", "violations", "seed", "commit")
BEGIN, END = "<!-- proof: begin -->", "<!-- proof: end -->"


def make_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """One row for each test."""
    return [
        (
            f"{result.test}: {result.title}{' (short)' if result.is_short else ''}",
            f"{result.n:,} {result.of}",
            f"{result.faults:,}",
            str(len(result.violations)),
            str(result.seed),
            result.commit,
        )
        for result in results
    ]


def render_text(results: Sequence[Result]) -> str:
    """Columns for a terminal."""
    rows = [HEAD, *make_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def render_markdown(results: Sequence[Result]) -> str:
    """The table with its date and machine, and what else was counted."""
    lines = [
        f"{datetime.now(UTC):%d %B %Y}, {describe_machine()}; {describe_duration(results)}.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---|---:|---:|---:|---:|---|",
        *(f"| {' | '.join(row)} |" for row in make_rows(results)),
    ]
    counted = [result for result in results if result.counts]
    if counted:
        lines += ["", "What else was counted:", ""]
        lines += [
            f"* {result.test}: {', '.join(f'{number:,} {what}' for what, number in result.counts.items())}"
            for result in counted
        ]
    return "\n".join(lines)


def describe_duration(results: Sequence[Result]) -> str:
    minutes = sum(result.seconds for result in results) / 60
    return f"{minutes:.0f} minutes in all"


def describe_machine() -> str:
    """Cores, memory and versions, as far as they say how much work that was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def write_evidence(file: Path, results: Sequence[Result]) -> None:
    """Put the table between its marks in the document. Raises ValueError where there are none."""
    text = file.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no place for the table: a line {BEGIN} and a line {END}")
    file.write_text(f"{before}{BEGIN}\n{render_markdown(results)}\n{END}{after}")
