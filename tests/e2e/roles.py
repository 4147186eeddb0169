"""Who may do what in the admin: the table the tests of the roles go by, and how a page is asked."""

import importlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from django.contrib.auth.models import Group, Permission, User
from django.http import HttpResponse
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone

from inventory.models import Hold, StockMovement
from notifications.models import EmailMessage
from orders.models import (
    AttentionFlag,
    CancelRequest,
    Order,
    OrderAction,
    OrderLine,
    TrailEntry,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from payments.models import Payment, PaymentEvent
from tests.desk import place
from tests.e2e.doors import (
    LIST,
    ROLLED_BACK,
    act_on,
    confirmation,
    log_in,
    page_of,
    set_status,
)

roles = importlib.import_module("orders.migrations.0004_roles")
audit_roles = importlib.import_module("orders.migrations.0011_audits")
webhook_roles = importlib.import_module("orders.migrations.0009_webhooks")

GROUPS = ["viewer", "support", "warehouse", "finance", "manager"]

STAFF = ["staff", *GROUPS, "superuser"]  # "staff": the tick, and no group

STRANGERS = ["anonymous", "customer"]  # not logged in; logged in, but not staff

NOBODY: frozenset[str] = frozenset()

BOSS = frozenset({"superuser"})

EVERYBODY = frozenset(STAFF)

SEE_STOCK = frozenset({*GROUPS, "superuser"})

SEE_ALL = SEE_STOCK - {"warehouse"}

PLACE = frozenset({"support", "manager", "superuser"})

CANCEL = frozenset({"support", "finance", "manager", "superuser"})

SHIP = frozenset({"warehouse", "manager", "superuser"})

FINANCE = frozenset({"finance", "manager", "superuser"})

MANAGE = frozenset({"manager", "superuser"})


class Who(NamedTuple):
    """Who may do what with a model. `history`: who may see its history page, if not all who may see it."""

    see: frozenset[str]
    add: frozenset[str] = NOBODY
    edit: frozenset[str] = NOBODY
    delete: frozenset[str] = NOBODY
    history: frozenset[str] | None = None


MODELS = {
    "orders_order": Who(see=SEE_STOCK, add=PLACE, history=SEE_ALL),
    "orders_rollback": Who(see=SEE_STOCK, history=SEE_ALL),
    "orders_trailentry": Who(see=SEE_STOCK),
    "orders_orderaction": Who(see=SEE_ALL),
    "orders_outboxmessage": Who(see=SEE_ALL),
    "orders_cancelrequest": Who(see=SEE_ALL),
    "orders_auditrun": Who(see=SEE_ALL),
    "orders_apiclient": Who(see=SEE_ALL, add=BOSS, edit=BOSS),
    "orders_webhookendpoint": Who(see=SEE_ALL, add=BOSS),
    "orders_webhookdelivery": Who(see=SEE_ALL),
    "inventory_product": Who(see=SEE_STOCK, add=MANAGE, edit=MANAGE),
    "inventory_hold": Who(see=SEE_STOCK),
    "inventory_stockmovement": Who(see=SEE_STOCK),
    "payments_payment": Who(see=SEE_ALL),
    "payments_paymentevent": Who(see=SEE_ALL),
    "notifications_emailmessage": Who(see=SEE_ALL),
    "auth_user": Who(see=BOSS, add=BOSS, edit=BOSS),
    "auth_group": Who(see=BOSS, add=BOSS, edit=BOSS, delete=BOSS),
    "axes_accessattempt": Who(see=BOSS),
}

# Only leads to another page, the order's, which decides.
LEADING_ON = {"orders_rollback_change"}

# Pages of the admin's own that belong to no model.
SITE_PAGES = {
    "index": EVERYBODY,
    "password_change": EVERYBODY,
    "password_change_done": EVERYBODY,
    "jsi18n": EVERYBODY,
}

# Those that answer by what they are asked about: tested where that is.
OPEN_PAGES = {"login", "logout", "autocomplete", "view_on_site", "app_list"}

OTHER_PAGES = {
    "notifications_emailmessage_html": SEE_ALL,
    "auth_user_password_change": BOSS,
    "inventory_product_stock": SHIP,
    "orders_apiclient_add_key": BOSS,
    "orders_apiclient_revoke_key": BOSS,
    "orders_order_export": SEE_STOCK,
    "orders_order_live": SEE_STOCK,
    "orders_order_products": PLACE,
    "orders_webhookdelivery_redeliver": PLACE,  # redeliver_webhook: the same roles
    "orders_webhookendpoint_disable": BOSS,
    "orders_webhookendpoint_enable": BOSS,
}

ACTIONS = {
    "cancel": CANCEL,
    "withdraw": CANCEL,
    "ship": SHIP,
    "retry": CANCEL,  # retry_undo: the same roles
    "acknowledge": CANCEL,
    "resolve": FINANCE,
    "resend": PLACE,  # resend_email: the same roles
    "approve": FINANCE,
    "reject": FINANCE,
}

ACTION_OF_PERMISSION = {
    "cancel_order": {"cancel", "withdraw"},
    "ship_order": {"ship"},
    "retry_undo": {"retry", "acknowledge"},
    "resolve_undo": {"resolve"},
    "resend_email": {"resend"},
    "approve_refund": {"approve", "reject"},
}


class Rows(NamedTuple):
    order: Order
    of_model: dict[str, Any]


def enter(role: str) -> Browser:
    """A browser of somebody in that role."""
    browser = Browser()
    if role != "anonymous":
        # Without a password: making its hash takes longer than all the rest.
        user = User.objects.create(
            username=role, is_staff=role != "customer", is_superuser=role == "superuser"
        )
        user.groups.set(Group.objects.filter(name="manager" if role == "customer" else role))
        browser.force_login(user)
    return browser


def read_answer(response: "HttpResponse | Any") -> str:
    """What the answer means to whoever asked."""
    if response.status_code == 302 and response.headers["Location"].startswith("/admin/login/"):
        return "log in"
    if response.status_code in (403, 405):
        return "refused"
    return "allowed" if response.status_code in (200, 302) else str(response.status_code)


def expect(role: str, allowed: frozenset[str]) -> str:
    if role in STRANGERS:
        return "log in"
    return "allowed" if role in allowed else "refused"


def compare(role: str, page: str, method: str, allowed: frozenset[str], answer: str) -> str | None:
    """The difference as a line, if there is one."""
    wanted = expect(role, allowed)
    return None if answer == wanted else f"{role}: {method} {page} is {answer}, not {wanted}"


def list_model_pages(rows: Rows) -> Iterator[tuple[str, str, frozenset[str], frozenset[str]]]:
    """(name, address, who may get it, who may post to it) of the pages every model has."""
    for model, who in MODELS.items():
        pk = [rows.of_model[model].pk]
        history = who.see if who.history is None else who.history
        pages = {
            "changelist": ([], who.see, who.see),
            "add": ([], who.add, who.add),
            "change": (pk, who.see, who.edit),
            "delete": (pk, who.delete, who.delete),
            "history": (pk, history, history),
        }
        for page, (arguments, readers, writers) in pages.items():
            name = f"{model}_{page}"
            yield name, reverse(f"admin:{name}", args=arguments), readers, writers


def list_url_names(patterns: Any, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for pattern in patterns:
        route = f"{prefix}{pattern.pattern}"
        if hasattr(pattern, "url_patterns"):
            yield from list_url_names(pattern.url_patterns, route)
        else:
            yield route, pattern.name


def find_other_page(rows: Rows, page: str) -> str:
    arguments: dict[str, list[Any]] = {
        "auth_user_password_change": [rows.of_model["auth_user"].pk],
        "notifications_emailmessage_html": [rows.of_model["notifications_emailmessage"].pk],
        "inventory_product_stock": [rows.of_model["inventory_product"].pk],
        "orders_apiclient_add_key": [rows.of_model["orders_apiclient"].pk],
        "orders_apiclient_revoke_key": [
            rows.of_model["orders_apiclient"].pk,
            rows.of_model["orders_apiclient"].keys.get().pk,
        ],
        "orders_order_live": [rows.order.pk],
        "orders_webhookendpoint_disable": [rows.of_model["orders_webhookendpoint"].pk],
        "orders_webhookendpoint_enable": [rows.of_model["orders_webhookendpoint"].pk],
    }
    return reverse(f"admin:{page}", args=arguments.get(page, []))


def find_action(rows: Rows, slug: str) -> str:
    order, request = rows.order.pk, rows.of_model["orders_cancelrequest"].pk
    about = {
        "retry": "&undo=refund_payment",
        "resolve": "&undo=refund_payment",
        "acknowledge": "&subject=refund_payment",
        "resend": f"&email={rows.of_model['notifications_emailmessage'].pk}",
        "approve": f"&request={request}",
        "reject": f"&request={request}",
        "withdraw": f"&request={request}",
    }
    return f"{reverse('admin:orders_order_act', args=[slug])}?order={order}{about.get(slug, '')}"


SECRETS = {
    "charge": "ch_secret_charge",
    "given back": "43.21",
    "refund reason": "the-customer-moved-abroad",
    "cancel reason": "damaged-in-the-press",
    "flag": "refused-by-the-bank-for-good",
    "mail": "A subject for one reader",
}


def make_secrets(settings: Any) -> tuple[Order, Order]:
    """A paid order with a flag, a mail, and a cancel that awaits approval; and one that was rolled back."""
    settings.REFUND_APPROVAL_ABOVE = Decimal(50)
    order, undone = place(), place()
    set_status(order, "completed")
    set_status(undone, "cancelled")
    now = timezone.now()
    for each in (order, undone):
        Payment.objects.create(
            order=each, amount=400, currency="EUR", token="tok_ok", state="charged",
            charge_id=f"{SECRETS['charge']}_{each.number}",
        )  # fmt: skip
    PaymentEvent.objects.create(
        payment=order.payment, kind="charged", amount=400, reference=order.payment.charge_id
    )
    PaymentEvent.objects.create(
        payment=undone.payment, kind="refunded", amount=-Decimal(SECRETS["given back"])
    )
    Order.objects.filter(pk=undone.pk).update(failure_type="CancelRequested", failure="it was cancelled")
    OrderAction.objects.create(
        order=undone, kind="cancel_order", actor="ada", reason=SECRETS["cancel reason"]
    )
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", SECRETS["flag"])
    EmailMessage.objects.create(
        order=order, kind="confirmation", state="sent", message_id="<1@shop>", recipient="ada@example.com",
        subject=SECRETS["mail"], text="Thank you", html="<p>Thank you</p>", sent_at=now,
    )  # fmt: skip
    boss = log_in("boss", superuser=True)
    asked = boss.post(act_on("cancel"), confirmation(order, reason=SECRETS["refund reason"]))
    assert asked.status_code == 302
    assert CancelRequest.objects.get().reason == SECRETS["refund reason"]
    return order, undone


def read_pages(role: str, order: Order, undone: Order) -> dict[str, set[str]]:
    """The secrets on each page that tells about the two orders, as somebody in that role sees it."""
    browser = enter(role)
    pages = {
        "front page": reverse("admin:index"),
        "front fragment": reverse("front_live"),
        "list": LIST,
        "export": reverse("admin:orders_order_export"),
        "rollbacks": ROLLED_BACK,
        "order": page_of(order),
        "fragment": reverse("admin:orders_order_live", args=[order.pk]),
        "history": reverse("admin:orders_order_history", args=[order.pk]),
        "undone order": page_of(undone),
        "trail": reverse("admin:orders_trailentry_changelist"),
        "holds": reverse("admin:inventory_hold_changelist"),
        "movements": reverse("admin:inventory_stockmovement_changelist"),
    }
    found = {}
    for name, address in pages.items():
        answer: Any = browser.get(address)
        text = (answer.getvalue() if answer.streaming else answer.content).decode()
        if found_here := {secret for secret, words in SECRETS.items() if words in text}:
            found[name] = found_here
    return found


def list_permissions(role: str) -> set[str]:
    held = Permission.objects.filter(group__name=role).values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in held}


KEPT = [
    Order,
    OrderLine,
    TrailEntry,
    OrderAction,
    CancelRequest,
    AttentionFlag,
    Payment,
    PaymentEvent,
    Hold,
    StockMovement,
    EmailMessage,
    WebhookEndpoint,
    WebhookDelivery,
    WebhookAttempt,
]
