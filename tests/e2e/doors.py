"""What the tests of the admin and the API share: staff, customers, orders in a given state."""

import importlib
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orders.models import Order

PASSWORD = "a-good-password"


def make_user(name: str, *permissions: str, staff: bool = False, superuser: bool = False) -> User:
    """A user with exactly these permissions."""
    user = User.objects.create_user(name, password=PASSWORD, is_staff=staff, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def restore_roles() -> None:
    """Make the groups again: a test that really commits ends with every table emptied."""
    editor = SimpleNamespace(connection=connection)
    importlib.import_module("orders.migrations.0004_roles").make_roles(apps, editor)
    importlib.import_module("orders.migrations.0009_webhooks").extend_roles(apps, editor)
    importlib.import_module("orders.migrations.0011_audits").extend_roles(apps, editor)


def count_queries(browser: Browser, address: str, query: dict[str, Any] | None = None) -> int:
    """How many queries a page takes.

    It is opened once before: what a process looks up once and remembers (content types) is not the page's,
    and which test of a process looks first is a matter of their order.
    """
    assert browser.get(address, query).status_code == 200
    with CaptureQueriesContext(connection) as queries:
        assert browser.get(address, query).status_code == 200
    return len(queries)


def log_in(name: str, *permissions: str, superuser: bool = False) -> Browser:
    """A browser logged in as a member of staff."""
    browser = Browser()
    browser.force_login(make_user(name, *permissions, staff=True, superuser=superuser))
    return browser


def set_status(order: Order, status: str) -> None:
    """Leave the order as the saga would have left it."""
    now = timezone.now()
    rollback = {"rollback_started_at": now} if status in ("cancelling", "cancelled") else {}
    ended = {"rolled_back_at": now} if status == "cancelled" else {}
    Order.objects.filter(pk=order.pk).update(status=status, **rollback, **ended)


# The admin's addresses and what its add page posts.

LIST = "/admin/orders/order/"
ADD = f"{LIST}add/"
ROLLED_BACK = "/admin/orders/rollback/"


def page_of(order: Order) -> str:
    return f"{LIST}{order.pk}/change/"


def act_on(slug: str) -> str:
    """Where an action is previewed and confirmed."""
    return f"{LIST}act/{slug}/"


def confirmation(
    *orders: Order, part: str = "", reason: str = "customer called", **more: str
) -> dict[str, Any]:
    """What the confirmation page posts."""
    return {"target": [f"{order.pk} {part}".strip() for order in orders], "reason": reason, **more}


def order_form(*lines: tuple[str, object], **changes: Any) -> dict[str, Any]:
    """What the add page posts."""
    form: dict[str, Any] = {
        "order_id": str(uuid4()),
        "customer_email": "ada@example.com",
        "payment_token": "",
    }
    form |= {"lines-TOTAL_FORMS": len(lines), "lines-INITIAL_FORMS": 0}
    for index, (sku, quantity) in enumerate(lines):
        form |= {f"lines-{index}-sku": sku, f"lines-{index}-quantity": quantity}
    return {**form, **changes}


def read_messages(response: Any) -> list[str]:
    """What the page says it has done, and what not."""
    return [str(message) for message in response.context["messages"]]
