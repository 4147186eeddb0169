"""The parts of the proof that pytest runs, at full size, and how their outcome becomes a row."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from django.conf import settings

from orders.management.storms.results import Result
from orders.management.storms.servers import clean_environment

# A test that knows better than "one" what it tried and injected says so: record_property(N, ...).
N, FAULTS = "proof_n", "proof_faults"
LONGEST_MESSAGE = 300
# Seconds for one test at full size; pytest's own limit is for those of CI.
TEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests that make one row of the table."""

    name: str
    title: str
    files: tuple[str, ...]
    # Which of the files' tests, as pytest's -k has it.
    choose: str = ""
    of: str = "tests"
    # Whether each test injects a fault of its own, where it does not say how many.
    is_faulty: bool = False


# The tests that switch a guard off and show what it prevents are named so.
CONTROLS = " or ".join(
    (
        "control",
        "without_the_conditional",
        "without_the_guard",
        "without_the_lock",
        "without_the_one_statement",
        "without_the_refunds_key",
        "without_a_share",
        "without_an_undo",
        "without_both_guards",
        "without_one_order_of",
        "without_skip_locked",
    )
)
# Where such tests are; none of the browser's has to do with orders.
CONTROLLED = ("unit", "saga", "e2e", "races", "crash", "audit", "properties")
SUITES = (
    Suite("matrix", "crash matrix", ("tests/crash/test_matrix*.py",), of="cells"),
    Suite("crashes", "crashes and outages", ("tests/crash/test_*crash*.py", "tests/crash/test_outages.py")),
    Suite(
        "races",
        "races",
        ("tests/races/test_*.py", "tests/*/test_*race*.py", "tests/saga/test_late_arrivals.py"),
        choose=f"not ({CONTROLS})",
        of="buyers and tests",
    ),
    Suite(
        "controls",
        "controls, with a guard off",
        tuple(f"tests/{where}/test_*.py" for where in CONTROLLED),
        choose=CONTROLS,
    ),
    Suite("properties", "properties", ("tests/properties/test_*.py",)),
    Suite("lost", "sagas lost with Temporal", ("tests/saga/test_lost*.py", "tests/crash/test_lost*.py")),
    Suite("waits", "long waits, stuck undos", ("tests/saga/test_*wait*.py", "tests/saga/test_stuck*.py")),
    Suite("replay", "saved histories", ("tests/saga/test_replay*.py", "tests/saga/test_check_sagas*.py")),
    Suite("corruption", "corrupted books are caught", ("tests/audit/test_*.py",), is_faulty=True),
)


def find_files(suite: Suite) -> list[str]:
    """The suite's test files that there are, as paths in the checkout."""
    found = {path for pattern in suite.files for path in settings.BASE_DIR.glob(pattern)}
    return sorted(str(path.relative_to(settings.BASE_DIR)) for path in found)


def run_suite(
    suite: Suite,
    *,
    place: Path,
    seed: int,
    commit: str,
    processes: int,
    is_full: bool,
    report: Callable[[int, int, str], None],
) -> Result:
    """Run the suite in a pytest of its own, whose output is kept in `place`."""
    began = time.monotonic()
    files = find_files(suite)
    log, xml = place / f"{suite.name}.log", place / f"{suite.name}.xml"
    place.mkdir(parents=True, exist_ok=True)
    xml.unlink(missing_ok=True)
    violations: list[str] = []
    counts: dict[str, int] = {}
    n = faults = 0
    if files:
        code = run_pytest(
            [
                *files,
                *(["-k", suite.choose] if suite.choose else []),
                *(["--full"] if is_full else []),
                *(["-n", str(processes)] if processes > 1 else []),
                *("-q", f"--junitxml={xml}", f"--timeout={TEST_SECONDS}", f"--randomly-seed={seed}"),
            ],
            log=log,
            report=report,
        )
        if xml.exists():
            n, faults, violations, counts = read_outcome(xml, suite)
        if not n:
            violations.append(f"no test was run; see {log}")
        elif code != 0 and not violations:
            violations.append(f"pytest ended with {code}; see {log}")
    else:
        violations.append(f"there is no test in {', '.join(suite.files)}")
    return Result(
        test=suite.name,
        title=suite.title,
        n=n,
        of=suite.of,
        faults=faults,
        violations=violations,
        seed=seed,
        seconds=round(time.monotonic() - began, 1),
        commit=commit,
        is_short=not is_full,
        counts=counts,
    )


def run_pytest(arguments: list[str], *, log: Path, report: Callable[[int, int, str], None]) -> int:
    """Run pytest, with services of the tests' own. Returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=settings.BASE_DIR,
        env={**clean_environment(), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        with log.open("wb") as output:
            seen = b""
            while chunk := os.read(process.stdout.fileno(), 4096):
                output.write(chunk)
                output.flush()
                seen = (seen + chunk)[-400:]
                if shares := re.findall(rb"\[ *(\d+)%\]", seen):
                    report(int(shares[-1]), 100, "% of the tests")
        return process.wait()
    finally:
        if process.poll() is None:  # we are being stopped: its services end with it
            process.terminate()
            process.wait(60)
        process.stdout.close()


def read_outcome(xml: Path, suite: Suite) -> tuple[int, int, list[str], dict[str, int]]:
    """What pytest wrote down: how much was tried, faults, what failed, and what was left out."""
    n = faults = 0
    violations: list[str] = []
    counts: dict[str, int] = {}
    for case in ElementTree.parse(xml).iter("testcase"):  # noqa: S314 - our own file
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if case.find("skipped") is not None:
            counts["tests left out"] = counts.get("tests left out", 0) + 1
            continue
        if wrong is not None:
            violations.append(f"{name}: {(wrong.get('message') or '')[:LONGEST_MESSAGE]}")
        said = {each.get("name"): each.get("value") for each in case.iter("property")}
        n += int(said.get(N) or 1)
        faults += int(said.get(FAULTS) or suite.is_faulty)
    return n, faults, violations, counts
