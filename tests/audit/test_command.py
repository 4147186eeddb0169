"""`manage.py audit`: what it prints, how it ends, and that it changes nothing."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction

from orders.audit.books import Report, ask_books
from orders.audit.rule import Scope
from orders.audit.rules import BOOK_RULES, RULES
from orders.models import Order
from tests.desk import place
from tests.processes import PROJECT
from tests.trouble import make_old

pytestmark = pytest.mark.usefixtures("shop")


def audit(*arguments: str) -> tuple[str, int, str]:
    """(stdout, exit status, what it says on stderr)."""
    out = StringIO()
    try:
        call_command("audit", *arguments, stdout=out)
    except CommandError as error:
        return out.getvalue(), error.returncode, str(error)
    return out.getvalue(), 0, ""


def spoil(order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(total=order.total + 1)


def test_balanced_books_end_with_0() -> None:
    place()
    said, status, complaint = audit()
    assert (status, complaint) == (0, "")
    assert f"1 order, {len(BOOK_RULES) + 1} rules, 0 violations" in said
    assert "The books balance." in said


def test_violation_is_a_sentence_and_ends_with_1() -> None:
    order = place()
    spoil(order)
    said, status, complaint = audit()
    assert status == 1
    assert (
        f"order_total: Order {order.number}: its total is 401.00 EUR, its lines (1) add up to 400.00" in said
    )
    assert "order_total 1" in complaint


def test_json_has_the_documented_shape() -> None:
    order = place()
    spoil(order)
    said, status, _ = audit("--json")
    report = json.loads(said)
    assert status == 1
    documented = (PROJECT / "docs" / "audit.md").read_text()
    assert all(f"`{name}`" in documented for name in (*report, *report["violations"][0]))
    assert (report["balanced"], report["total"], report["orders"]) == (False, 1, 1)
    assert {name: count for name, count in report["rules"].items() if count} == {"order_total": 1}
    [found] = report["violations"]
    assert (found["rule"], found["order"], found["number"]) == ("order_total", str(order.pk), order.number)
    assert (found["facts"]["total"], found["facts"]["sum"]) == ("401.00", "400.00")


def test_one_order_is_asked_about_by_number_or_id() -> None:
    spoilt, other = place(), place()
    spoil(spoilt)
    for named in (str(spoilt.number), str(spoilt.pk)):
        assert audit("--order", named)[1] == 1
    said, status, _ = audit("--order", str(other.number))
    assert status == 0
    assert said.startswith("1 order, ")


def test_since_leaves_out_what_was_accepted_before() -> None:
    order = place()
    spoil(order)
    make_old(order, accepted_at=7200)
    place()
    said, status, _ = audit("--since", order.accepted_at.isoformat(), "--no-temporal")
    assert (status, said[:8]) == (0, "1 order,")
    assert audit("--since", "2020-01-01", "--no-temporal")[1] == 1


def test_many_violations_are_counted_and_not_all_told() -> None:
    for _ in range(3):
        spoil(place())
    said, _, complaint = audit("--told", "2")
    assert "order_total: and 1 more; --told shows them." in said
    assert "order_total 3" in complaint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--order", "what"], "an order's id or its number, not 'what'"),
        (["--order", "987654321"], "There is no order 987654321."),
        (["--order", "00000000-0000-4000-8000-000000000000"], "There is no order 0000"),
        (["--since", "yesterday"], "not 'yesterday'"),
        (["--since", "2026-02-31"], "not '2026-02-31'"),
        (["--order", "1", "--since", "2026-01-01"], "not both"),
        (["--told", "0"], "from 1 on"),
    ],
)
def test_bad_input_ends_with_2(arguments: list[str], says: str) -> None:
    said, status, complaint = audit(*arguments)
    assert (said, status) == ("", 2)
    assert says in complaint


def test_what_cannot_be_asked_ends_with_2(settings: Any) -> None:
    make_old(place(), accepted_at=600)
    settings.AUDIT_QUIET_FOR = 0.0
    settings.TEMPORAL_ADDRESS = "127.0.0.1:1"
    settings.TEMPORAL_RPC_TIMEOUT = 1.0
    _, status, complaint = audit()
    assert status == 2
    assert "Temporal (127.0.0.1:1) cannot be asked about 1 orders" in complaint
    settings.PAYMENT_GATEWAY_URL = "http://127.0.0.1:1"
    _, status, complaint = audit("--gateway", "--no-temporal")
    assert status == 2
    assert "The payment gateway's ledger cannot be read" in complaint


def test_an_audit_can_change_nothing() -> None:
    order = place()
    with transaction.atomic():
        ask_books(report=Report(scope=Scope()), told=1)
        with pytest.raises(DatabaseError, match="read-only"), transaction.atomic():
            spoil(order)


def test_every_rule_is_documented_in_its_own_words() -> None:
    documented = " ".join((PROJECT / "docs" / "audit.md").read_text().split())
    assert [name for name in RULES if f"`{name}`" not in documented] == []
    assert [rule.name for rule in RULES.values() if rule.says not in documented] == []
