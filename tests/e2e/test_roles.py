"""Every page of the admin as every role: what the table says, and nothing else."""

import re
from decimal import Decimal
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import DatabaseError, connection, transaction
from django.urls import reverse
from django.utils import timezone

from inventory.models import Hold, Product, StockMovement
from notifications.models import EmailMessage
from orders.clients import create_key
from orders.models import (
    AttentionFlag,
    AuditRun,
    CancelRequest,
    OrderAction,
    OutboxMessage,
    Rollback,
    Scope,
    TrailEntry,
)
from payments.models import Payment, PaymentEvent
from tests.desk import place
from tests.e2e.api import make_client
from tests.e2e.doors import (
    LIST,
    ROLLED_BACK,
    log_in,
    page_of,
    restore_roles,
    set_status,
)
from tests.e2e.hooks import add_webhook
from tests.e2e.roles import (
    ACTION_OF_PERMISSION,
    ACTIONS,
    KEPT,
    LEADING_ON,
    MODELS,
    NOBODY,
    OPEN_PAGES,
    OTHER_PAGES,
    SITE_PAGES,
    STAFF,
    STRANGERS,
    Rows,
    compare,
    enter,
    find_action,
    find_other_page,
    list_model_pages,
    list_url_names,
    read_answer,
)

# --- one row of everything, and a browser for every role ------------------------------------------------


@pytest.fixture
def rows(counter: None) -> Rows:
    """One row of each model that has a page."""
    restore_roles()
    ada = User.objects.create(username="ada")
    order, undone = place(), place()
    set_status(order, "completed")
    set_status(undone, "cancelled")
    now = timezone.now()
    product = Product.objects.get(sku="HEAD-ANC")
    payment = Payment.objects.create(
        order=order, amount=400, currency="EUR", token="tok_ok", state="charged", charge_id="ch_1"
    )
    mail = EmailMessage.objects.create(
        order=order, kind="confirmation", state="sent", message_id="<1@shop>", recipient="ada@example.com",
        subject="Thank you", text="Thank you", html="<p>Thank you</p>", sent_at=now,
    )  # fmt: skip
    client = make_client()
    create_key(client=client, name="till", scopes=[Scope.READ])
    of_model = {
        "orders_order": order,
        "orders_rollback": Rollback.objects.get(pk=undone.pk),
        "orders_trailentry": TrailEntry.objects.create(
            order=order, name="create_order", kind="step", state="done", started_at=now, finished_at=now
        ),
        "orders_orderaction": OrderAction.objects.filter(order=order).get(),
        "orders_outboxmessage": OutboxMessage.objects.filter(order=order).get(),
        "orders_cancelrequest": CancelRequest.objects.create(
            order=order, refund=Decimal(400), reason="broken", requested_by=ada
        ),
        "orders_auditrun": AuditRun.objects.create(seconds=1, orders=2, violations=0, rules={}),
        "orders_apiclient": client,
        "inventory_product": product,
        "inventory_hold": Hold.objects.create(order=order, product=product, quantity=1),
        "inventory_stockmovement": StockMovement.objects.filter(product=product)[0],
        "payments_payment": payment,
        "payments_paymentevent": PaymentEvent.objects.create(payment=payment, kind="charged", amount=400),
        "notifications_emailmessage": mail,
        **add_webhook(order),
        "auth_user": ada,
        "auth_group": Group.objects.create(name="interns"),
        "axes_accessattempt": AccessAttempt.objects.create(
            username="ada", ip_address="192.0.2.1", failures_since_start=1
        ),
    }
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "look at it")
    return Rows(order, of_model)


# --- the pages ------------------------------------------------------------------------------------------


def test_every_page_of_the_admin_is_in_the_table() -> None:
    pages = ("changelist", "add", "change", "delete", "history")
    known = {f"{model}_{page}" for model in MODELS for page in pages}
    known |= {*SITE_PAGES, *OPEN_PAGES, *OTHER_PAGES, "orders_order_act"}
    found = list(list_url_names(admin.site.get_urls()))
    assert {name for _, name in found if name} == known
    # The two without a name are Django's own: an old address of the change page, and "not found".
    nameless = {re.sub(r"^\w+/\w+/", "", route) for route, name in found if not name}
    assert nameless == {"<path:object_id>/", "(?P<url>.*)$"}
    models = {f"{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry}
    assert models == set(MODELS)


@pytest.mark.parametrize("role", [*STRANGERS, *STAFF])
def test_each_role_gets_exactly_its_pages(rows: Rows, role: str) -> None:
    browser = enter(role)
    wrong = []
    for name, address, readers, writers in list_model_pages(rows):
        leads_on = name in LEADING_ON and role in STAFF
        answer = read_answer(browser.get(address, follow=leads_on))
        wrong.append(compare(role, name, "GET", readers, answer))
        if not leads_on:
            # An empty form changes nothing: who may send one is shown it again.
            wrong.append(compare(role, name, "POST", writers, read_answer(browser.post(address))))
    for name, readers in SITE_PAGES.items():
        answer = read_answer(browser.get(reverse(f"admin:{name}")))
        wrong.append(compare(role, name, "GET", readers, answer))
    assert [line for line in wrong if line] == []


@pytest.mark.parametrize(
    "page",
    [
        "auth_user_password_change",
        "notifications_emailmessage_html",
        "inventory_product_stock",
        "orders_apiclient_add_key",
        "orders_apiclient_revoke_key",
        "orders_order_export",
        "orders_order_live",
        "orders_order_products",
        "orders_webhookdelivery_redeliver",
        "orders_webhookendpoint_disable",
        "orders_webhookendpoint_enable",
    ],
)
def test_each_page_beside_the_models_is_for_exactly_its_roles(rows: Rows, page: str) -> None:
    address = find_other_page(rows, page)
    wrong = []
    for role in (*STRANGERS, *STAFF):
        browser = enter(role)
        wrong.append(compare(role, page, "GET", OTHER_PAGES[page], read_answer(browser.get(address))))
        if role not in OTHER_PAGES[page]:
            wrong.append(compare(role, page, "POST", NOBODY, read_answer(browser.post(address))))
    assert [line for line in wrong if line] == []


@pytest.mark.parametrize("role", STRANGERS)
def test_strangers_get_to_no_action(rows: Rows, role: str) -> None:
    browser = enter(role)
    for slug in ACTIONS:
        assert read_answer(browser.get(find_action(rows, slug))) == "log in"
        assert read_answer(browser.post(find_action(rows, slug), {"reason": "x"})) == "log in"


@pytest.mark.parametrize("role", STAFF)
def test_each_role_gets_exactly_its_actions(rows: Rows, role: str) -> None:
    browser = enter(role)
    wrong = []
    for slug, allowed in ACTIONS.items():
        address = find_action(rows, slug)
        wrong.append(compare(role, slug, "GET", allowed, read_answer(browser.get(address))))
        if role not in allowed:
            answer = read_answer(browser.post(address, {"reason": "x", "reference": "x"}))
            wrong.append(compare(role, slug, "POST", NOBODY, answer))
    assert [line for line in wrong if line] == []


@pytest.mark.parametrize("permission", ACTION_OF_PERMISSION)
def test_each_permission_opens_its_own_doors(rows: Rows, permission: str) -> None:
    browser = log_in("clerk", "view_order", permission)
    answers = {slug: read_answer(browser.get(find_action(rows, slug))) for slug in ACTIONS}
    allowed = {slug for slug, answer in answers.items() if answer == "allowed"}
    assert allowed == ACTION_OF_PERMISSION[permission]
    assert {answer for slug, answer in answers.items() if slug not in allowed} == {"refused"}


@pytest.mark.parametrize("permissions", [(), ("add_order",)])
def test_without_the_view_permission_nothing_is_shown(counter: None, permissions: tuple[str, ...]) -> None:
    order = place()
    staff = log_in("clerk", *permissions)
    for address in (LIST, ROLLED_BACK, page_of(order)):
        assert staff.get(address).status_code == 403
    assert ROLLED_BACK not in staff.get("/admin/").content.decode()


def test_no_permission_opens_the_pages_of_people(rows: Rows) -> None:
    every = Permission.objects.values_list("codename", flat=True)
    clerk = log_in("clerk", *every)
    for model in ("auth_user", "auth_group", "axes_accessattempt"):
        assert clerk.get(reverse(f"admin:{model}_changelist")).status_code == 403
        assert clerk.post(reverse(f"admin:{model}_add"), {"username": "x"}).status_code == 403
    mine = User.objects.get(username="clerk")
    address = reverse("admin:auth_user_change", args=[mine.pk])
    assert clerk.post(address, {"username": "clerk", "is_superuser": "on"}).status_code == 403
    mine.refresh_from_db()
    assert not mine.is_superuser


# --- nobody deletes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", KEPT)
def test_the_database_refuses_to_delete(rows: Rows, model: Any) -> None:
    before = model.objects.count()
    assert before
    with (
        pytest.raises(DatabaseError, match=r"never deleted|append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"DELETE FROM {model._meta.db_table}")
    assert model.objects.count() == before


def test_no_list_offers_or_carries_out_a_bulk_delete(rows: Rows) -> None:
    boss = enter("superuser")
    for model in MODELS:
        address = reverse(f"admin:{model}_changelist")
        assert b"delete_selected" not in boss.get(address).content, model
        chosen = {
            "action": "delete_selected",
            "_selected_action": [rows.of_model[model].pk],
            "post": "yes",
            "index": "0",
        }
        assert read_answer(boss.post(address, chosen)) == "allowed", model
    for row in rows.of_model.values():
        row.refresh_from_db()


def test_who_did_something_is_made_inactive_and_keeps_his_history(rows: Rows) -> None:
    boss = enter("superuser")
    ada = rows.of_model["auth_user"]
    page = boss.get(reverse("admin:auth_user_change", args=[ada.pk])).content.decode()
    assert "Unselect this instead of deleting accounts" in page
    assert "deletelink" not in page
    assert boss.post(reverse("admin:auth_user_delete", args=[ada.pk]), {"post": "yes"}).status_code == 403
    assert User.objects.filter(pk=ada.pk).exists()
