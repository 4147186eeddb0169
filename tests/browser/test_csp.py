"""Every page of the admin in a real browser, under the strict policy: nothing on it is refused."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import ConsoleMessage, Page, Route
from pytest_django.live_server_helper import LiveServer

from inventory.models import Hold, Product
from notifications.models import EmailMessage
from orders.clients import create_key
from orders.models import (
    ApiKey,
    AttentionFlag,
    AuditRun,
    CancelRequest,
    Order,
    Scope,
    TrailEntry,
    WebhookDelivery,
    WebhookEndpoint,
)
from payments.models import Payment, PaymentEvent
from tests.desk import place
from tests.e2e.api import make_client
from tests.e2e.hooks import add_webhook

PASSWORD = "a-good-password"
# Kept over page loads: a script of the test's own world, which the policy does not bind.
COLLECTOR = """
document.addEventListener("securitypolicyviolation", event => {
    window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""


class Watch:
    """What the browser complains about, with the page it was on."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.found: list[str] = []
        page.expose_function("reportViolation", self.note)
        page.add_init_script(COLLECTOR)
        page.on("console", self.note_console)

    def note(self, what: str) -> None:
        self.found.append(f"{self.page.url}: {what}")

    def note_console(self, message: ConsoleMessage) -> None:
        # A page that answers 403, 404 or 429, as some here should, is noted by the browser as well.
        is_answer = message.text.startswith("Failed to load") and "/static/" not in message.location["url"]
        if message.type in ("error", "warning") and not is_answer:
            self.note(f"{message.text} {message.location['url']}")


def fill_desk() -> Order:
    """A row of each model that has a page; gives the order with all of it."""
    order, undone = place(), place()
    now = timezone.now()
    Order.objects.filter(pk=order.pk).update(status="completed", completed_at=now)
    Order.objects.filter(pk=undone.pk).update(
        status="cancelled",
        rollback_started_at=now,
        rolled_back_at=now,
        failed_step="process_payment",
        failure="The card was declined.",
    )
    for name, kind, state in (
        ("create_order", "step", "done"),
        ("process_payment", "step", "done"),
        ("refund_payment", "undo", "failed"),
    ):
        TrailEntry.objects.create(
            order=order, name=name, kind=kind, state=state, started_at=now, finished_at=now, ms=12
        )
    payment = Payment.objects.create(
        order=order, amount=400, currency="EUR", token="tok_ok", state="charged", charge_id="ch_1"
    )
    PaymentEvent.objects.create(payment=payment, kind="charged", amount=400, reference="ch_1")
    Hold.objects.create(order=order, product=Product.objects.all()[0], quantity=2)
    EmailMessage.objects.create(
        order=order, kind="confirmation", state="sent", message_id="<1@shop>", recipient="ada@example.com",
        subject="Thank you", text="Thank you", html='<p style="color: red">Thank you</p>', sent_at=now,
    )  # fmt: skip
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "refund_payment has failed 10 times")
    asks = User.objects.create_user("ada")
    CancelRequest.objects.create(order=order, refund=Decimal(400), reason="broken", requested_by=asks)
    create_key(client=make_client(), name="till", scopes=[Scope.READ])
    Group.objects.get_or_create(name="viewer")
    add_webhook(order)
    AuditRun.objects.create(seconds=1, orders=9, violations=0, rules={})
    AccessAttempt.objects.create(
        username="eve", ip_address="192.0.2.1", user_agent="x", failures_since_start=9
    )
    return order


def list_addresses(order: Order) -> Iterator[str]:
    """The pages of every registered model, and those beside them."""
    yield reverse("admin:index")
    for app in sorted({model._meta.app_label for model in admin.site._registry}):
        yield reverse("admin:app_list", args=[app])
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"{name}_changelist")
        yield f"{reverse(f'{name}_changelist')}?q=zzz"
        yield reverse(f"{name}_add")
        row: Any = model._default_manager.first()
        assert row is not None, f"{name} has no row"
        for page in ("change", "history", "delete"):
            yield reverse(f"{name}_{page}", args=[row.pk])
    yield reverse("admin:orders_order_change", args=[order.pk])
    yield reverse("admin:auth_user_password_change", args=[User.objects.get(username="ada").pk])
    key = ApiKey.objects.get()
    yield reverse("admin:orders_apiclient_add_key", args=[key.client_id])
    yield reverse("admin:orders_apiclient_revoke_key", args=[key.client_id, key.pk])
    yield reverse("admin:inventory_product_stock", args=[Product.objects.all()[0].pk])
    yield f"{reverse('admin:orders_order_changelist')}?attention=1"
    yield reverse("admin:password_change")
    hook, delivery = WebhookEndpoint.objects.get(), WebhookDelivery.objects.get()
    yield reverse("admin:orders_webhookendpoint_disable", args=[hook.pk])
    yield reverse("admin:orders_webhookendpoint_enable", args=[hook.pk])
    yield f"{reverse('admin:orders_webhookdelivery_redeliver')}?delivery={delivery.pk}"
    for slug in ("cancel", "ship", "retry", "resolve", "resend", "acknowledge", "approve", "withdraw"):
        about = (
            f"order={order.pk}&undo=refund_payment&subject=refund_payment"
            f"&email={EmailMessage.objects.get().pk}&request={CancelRequest.objects.get().pk}"
        )
        yield f"{reverse('admin:orders_order_act', args=[slug])}?{about}"


def log_in(page: Page, live_server: LiveServer) -> None:
    page.goto(f"{live_server.url}/admin/")
    page.get_by_label("Username").fill("boss")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{live_server.url}/admin/")


@pytest.mark.timeout(300)
def test_no_page_of_the_admin_breaks_the_policy(shop: None, live_server: LiveServer, page: Page) -> None:
    User.objects.create_superuser("boss", password=PASSWORD)
    order = fill_desk()
    watch = Watch(page)
    log_in(page, live_server)
    opened = 0
    for address in list_addresses(order):
        response = page.goto(f"{live_server.url}{address}", wait_until="load")
        assert response is not None
        assert response.status < 500, address
        assert "unsafe" not in response.headers["content-security-policy"]
        opened += response.status == 200
    assert opened > 3 * len(admin.site._registry)
    # What only happens when somebody does something: an added line, a chosen row, the theme, the menu.
    page.goto(f"{live_server.url}{reverse('admin:orders_order_changelist')}")
    page.locator(".theme-toggle").first.click()
    page.locator("#toggle-nav-sidebar").click()
    page.goto(f"{live_server.url}/admin/")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/logout/")
    for _ in range(5):
        page.goto(f"{live_server.url}/admin/login/")
        page.get_by_label("Username").fill("eve")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
    page.get_by_text("This log-in is locked").wait_for()
    assert watch.found == []


@pytest.mark.parametrize(
    ("markup", "directive"),
    [
        ("<script>window.broken = true</script>", "script-src"),
        ('<p style="color: red">red</p>', "style-src"),
        ('<p onclick="alert(1)">x</p>', "script-src"),
        ('<img src="https://elsewhere.example/x.png">', "img-src"),
    ],
)
def test_the_watch_sees_a_violation(
    shop: None, live_server: LiveServer, page: Page, markup: str, directive: str
) -> None:
    """The control: the same pages with something the policy refuses put into them."""

    def inject(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</body>", f"{markup}</body>"))

    watch = Watch(page)
    page.route("**/admin/login/**", inject)
    page.goto(f"{live_server.url}/admin/login/")
    page.wait_for_function("() => document.readyState === 'complete'")
    assert any(directive in complaint for complaint in watch.found)
    assert page.evaluate("window.broken") is None
