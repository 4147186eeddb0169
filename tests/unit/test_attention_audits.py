"""Audits in the work queue: the latest one that found something, for those who may see audits."""

import pytest
from django.contrib.auth.models import User

from orders.attention import list_work
from orders.models import AuditRun
from orders.sentences import WorkKind
from tests.e2e.doors import make_user
from tests.trouble import only

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> User:
    return make_user("boss", superuser=True)


def audit(violations: int, **rules: int) -> AuditRun:
    return AuditRun.objects.create(seconds=1, orders=9, violations=violations, rules=rules)


def test_the_latest_audit_stands_in_the_queue_when_it_found_something(boss: User) -> None:
    audit(0, stock_held=0)
    run = audit(3, stock_held=2, order_total=1, order_paid=0)
    item = only(list_work(boss).items)
    assert (item.kind, item.audit_id) == (WorkKind.AUDIT, run.pk)
    assert item.sentence == (
        "The books do not balance: the latest audit found 3 violations of 2 rules: "
        "stock_held (2), order_total (1)."
    )
    audit(0, stock_held=0)
    assert list_work(boss).items == []


def test_an_audit_is_only_told_to_who_may_see_it() -> None:
    audit(1, stock_held=1)
    assert list_work(make_user("warehouse", "view_order")).items == []
    assert only(list_work(make_user("viewer", "view_auditrun")).items).kind == WorkKind.AUDIT
