"""The proof's table says what its tests have shown: what was tried, what was injected, what failed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from orders.management.commands.proof import merge, read_report
from orders.management.proof.suites import SUITES, Suite, find_files, read_outcome, run_suite
from orders.management.proof.table import BEGIN, END, render_markdown, render_text, write_evidence
from orders.management.storms.results import Result
from tests.local_services import SERVICE_VARIABLES

TESTS = """
import pytest

def test_passes_and_says_how_much(record_property):
    record_property("proof_n", 20)
    record_property("proof_faults", 50)

def test_passes(): pass

def test_fails(): assert 1 + 1 == 3, "two units were sold twice"

@pytest.fixture
def broken(): raise RuntimeError("no such server")

def test_cannot_even_begin(broken): pass

@pytest.mark.skip(reason="not here")
def test_is_left_out(): pass
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real pytest writes down about these tests."""
    place = tmp_path_factory.mktemp("outcome")
    (place / "test_these.py").write_text(TESTS)
    (place / "pytest.ini").write_text("[pytest]")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:django", "--junitxml", "out.xml", "test_these.py"],
        cwd=place,
        capture_output=True,
        timeout=60,
    )
    return place / "out.xml"


@pytest.mark.parametrize(("is_faulty", "faults"), [(False, 50), (True, 53)])
def test_outcome_of_a_suite(outcome: Path, is_faulty: bool, faults: int) -> None:
    n, found, violations, counts = read_outcome(outcome, Suite("s", "s", (), is_faulty=is_faulty))
    assert (n, found, counts) == (23, faults, {"tests left out": 1})
    assert len(violations) == 2
    assert "two units were sold twice" in violations[0] + violations[1]
    assert "no such server" in violations[0] + violations[1]


def test_a_suite_without_tests_proves_nothing(tmp_path: Path) -> None:
    result = run_suite(
        Suite("gone", "gone", ("tests/nowhere/test_*.py",)),
        place=tmp_path,
        seed=1,
        commit="abc",
        processes=1,
        is_full=True,
        report=lambda done, total, text: None,
    )
    assert (result.n, result.violations) == (0, ["there is no test in tests/nowhere/test_*.py"])


def test_the_suites_of_controls_and_replays_have_their_files() -> None:
    files = {suite.name: find_files(suite) for suite in SUITES}
    assert "tests/saga/test_replay.py" in files["replay"]
    assert {"tests/unit/test_inventory.py", "tests/saga/test_late_arrivals.py"} <= set(files["controls"])


RESULTS = [
    Result("workers", "workers killed", 200, "orders", 24, [], 7, 90.0, "abc", counts={"duplicate mails": 2}),
    Result("races", "races", 1234, "tests", 0, ["one was sold twice"], 7, 30.0, "abc", is_short=True),
]


def test_table_for_a_terminal() -> None:
    head, rule, workers, races = render_text(RESULTS).splitlines()
    assert head.split() == ["test", "N", "faults", "injected", "violations", "seed", "commit"]
    assert set(rule) == {"-", " "}
    assert workers.split() == ["workers:", "workers", "killed", "200", "orders", "24", "0", "7", "abc"]
    assert races.split() == ["races:", "races", "(short)", "1,234", "tests", "0", "1", "7", "abc"]


def test_table_for_the_document_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    document = tmp_path / "evidence.md"
    document.write_text(f"# Evidence\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    for _ in range(2):
        write_evidence(document, RESULTS)
    text = document.read_text()
    assert text.startswith(f"# Evidence\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert text.count("| workers: workers killed | 200 orders | 24 | 0 | 7 | abc |") == 1
    assert "old" not in text
    assert "2 minutes in all" in render_markdown(RESULTS)
    document.write_text("# Nothing here\n")
    with pytest.raises(ValueError, match="has no place for the table"):
        write_evidence(document, RESULTS)


def test_rows_of_an_earlier_report_stay_unless_the_test_was_run_again(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps([result.describe() for result in RESULTS]))
    again = Result("races", "races", 1234, "tests", 0, [], 8, 30.0, "def")
    merged = merge(read_report(str(report)), [again])
    assert [(result.test, result.commit) for result in merged] == [("workers", "abc"), ("races", "def")]
    assert [result.is_clean for result in merged] == [True, True]


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', '[{"test": "workers"}]'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(CommandError, match="is no report"):
        read_report(str(file))


def test_unknown_names_and_named_services_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="There is no test flood; there are workers, "):
        call_command("proof", "flood")
    for variable in SERVICE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example/orders")
    with pytest.raises(CommandError, match="DATABASE_URL names a service that people may rely on"):
        call_command("proof", "races")
