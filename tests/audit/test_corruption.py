"""The auditor finds what is wrong, names it, and finds nothing where nothing is."""

import pytest
from django.db import connection, transaction

from orders.audit.rule import Scope, Violation, ask_rule
from orders.audit.rules import BOOK_RULES
from tests.audit.conftest import Past
from tests.audit.corruptions import CORRUPTIONS, Corruption

# In a transaction of each test, which is rolled back.
# The first one waits for the sagas of every story.
pytestmark = [pytest.mark.django_db, pytest.mark.timeout(400)]


def ask_all() -> dict[str, list[Violation]]:
    """The violations of each broken rule, in the transaction that is open."""
    found = {rule.name: ask_rule(rule, Scope())[1] for rule in BOOK_RULES}
    return {name: violations for name, violations in found.items() if violations}


def test_orders_of_every_kind_are_in_order(past: Past) -> None:
    assert ask_all() == {}


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corrupted_row_is_found(past: Past, corruption: Corruption) -> None:
    order = past.orders[corruption.story]
    with transaction.atomic(), connection.cursor() as cursor:
        # Neither triggers nor foreign keys: as a restore in parts, or a person with a console, leaves it.
        cursor.execute("SET LOCAL session_replication_role = replica")
        for statement in corruption.statements:
            cursor.execute(statement, {"id": order.pk})
            assert statement.startswith("ALTER") or cursor.rowcount > 0, statement
        found = ask_all()
        transaction.set_rollback(True)
    assert corruption.rule in found, f"found only {found}"
    [*violations] = found[corruption.rule]
    sentences = [violation.sentence for violation in violations]
    if not corruption.rule.startswith("stock_") and not corruption.rule.endswith("_without_order"):
        assert any(str(order.number) in said or str(order.pk) in said for said in sentences), sentences
    assert all(" Likely " in said for said in sentences)


def test_every_rule_is_broken_by_something() -> None:
    assert {rule.name for rule in BOOK_RULES} == {corruption.rule for corruption in CORRUPTIONS.values()}
