"""The auditor's word at the end of a test: what it finds, by order."""

import asyncio
from collections import defaultdict
from uuid import UUID

from django.test import override_settings

from orders.audit.books import audit_books

Findings = dict[UUID | None, list[str]]


def audit(*, ask_gateway: bool = True) -> Findings:
    """The violations of each order, however short a time ago it moved; under None those of no order.

    Not asking the gateway is for tests whose orders did not all go to the one of the settings.
    """
    with override_settings(AUDIT_QUIET_FOR=0.0):
        report = asyncio.run(audit_books(ask_gateway=ask_gateway, told=10_000))
    assert report.left_out == {}
    found: Findings = defaultdict(list)
    for violation in report.violations:
        found[violation.order_id].append(f"{violation.rule}: {violation.sentence}")
    assert sum(map(len, found.values())) == report.total
    return dict(found)
