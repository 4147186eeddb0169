"""The admin's pages of an order: place it, read it, and ask the desk to cancel, ship or repair it."""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_POST

from config.admin import lay_out
from inventory import selectors as inventory_selectors
from orders import desk, selectors
from orders.admin.forms import (
    AcknowledgeForm,
    CancelForm,
    LineFormSet,
    PlaceOrderForm,
    ResolveForm,
    UndoForm,
    describe_products,
    read_items,
    show_errors,
)
from orders.admin.lists import OrderListAdmin, RolledBackOrderAdmin
from orders.models import ALLOWED_MOVES, STEP_OF_UNDO, Order, OrderQuerySet, OrderStatus, StepKind, StepState
from orders.refusals import StateConflict
from orders.services import Decision, InvalidOrder

LIST = "admin:orders_order_changelist"
PAGE = "admin:orders_order_change"
MAX_SELECTED = 100
# The stock admin's "Add another" for formsets, with what it must be loaded after.
LINE_SCRIPTS = forms.Media(
    js=["admin/js/vendor/jquery/jquery.min.js", "admin/js/jquery.init.js", "admin/js/inlines.js"]
)


class OrderAdmin(OrderListAdmin):
    """Orders are placed here and never edited by hand: what changes them goes through the desk."""

    list_display = [
        "number",
        "status_badge",
        "total_with_currency",
        "customer_email",
        "failed_step",
        "accepted",
    ]
    date_hierarchy = "accepted_at"
    actions = ["cancel_selected", "ship_selected"]
    change_list_template = "admin/orders/order/change_list.html"

    def get_queryset(self, request: HttpRequest) -> OrderQuerySet:
        return selectors.list_orders()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.add_order")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.cancel_order")

    def has_ship_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.ship_order")

    def has_repair_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.repair_order")

    def get_urls(self) -> list[URLPattern]:
        rolled_back = RolledBackOrderAdmin(self.model, self.admin_site)
        views: list[tuple[str, str, Callable[..., HttpResponse]]] = [
            ("rolled-back/", "rolled_back", rolled_back.changelist_view),
            ("cancel/", "cancel", self.cancel_view),
            ("<uuid:order_id>/ship/", "ship", require_POST(self.ship_view)),
            ("<uuid:order_id>/retry/", "retry", require_POST(self.retry_view)),
            ("<uuid:order_id>/resolve/", "resolve", self.resolve_view),
            ("<uuid:order_id>/acknowledge/", "acknowledge", self.acknowledge_view),
        ]
        return [
            *(
                path(route, self.admin_site.admin_view(view), name=f"orders_order_{name}")
                for route, name, view in views
            ),
            *super().get_urls(),
        ]

    # --- placing ---

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Place an order. What the desk refuses is shown beside the field it is about."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = PlaceOrderForm(request.POST or None)
        choices = describe_products(inventory_selectors.list_products())
        lines = LineFormSet(request.POST or None, prefix="lines", form_kwargs={"choices": choices})
        if request.method == "POST" and all([form.is_valid(), lines.is_valid()]):
            try:
                decision = desk.place_order(
                    customer_email=form.cleaned_data["customer_email"],
                    payment_token=form.cleaned_data["payment_token"],
                    items=read_items(lines),
                    order_id=form.cleaned_data["order_id"],
                    actor=request.user.get_username(),
                    placed_by=cast("User", request.user),
                )
            except InvalidOrder as invalid:
                show_errors(form, lines, invalid)
            else:
                return self._answer_placed(request, decision, form.cleaned_data["customer_email"], lines)
        context = {
            "title": "Place an order",
            "form": form,
            "lines": lines,
            "adminform": lay_out(form),
            "errors": form.errors or any(lines.errors) or lines.non_form_errors(),
            "media": self.media + LINE_SCRIPTS,
        }
        return self._render(request, "place", context)

    def _answer_placed(
        self, request: HttpRequest, decision: Decision, customer_email: str, lines: Any
    ) -> HttpResponse:
        """Say what became of the form, and lead to its order; a form sent twice placed one order."""
        quantities: Counter[str] = Counter()
        for item in read_items(lines):
            quantities[item.sku] += item.quantity
        order = decision.order
        if decision.changed:
            self.log_addition(request, order, "Placed.")
            messages.success(request, f"{order} is accepted; its saga is on its way.")
        elif selectors.is_same_order(order, customer_email=customer_email, quantities=dict(quantities)):
            messages.info(request, f"{order} was placed by this form before.")
        else:
            messages.error(
                request,
                f"Nothing was placed: this form was already sent, as {order}. Open a new form.",
            )
        if not self.has_view_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        return HttpResponseRedirect(reverse(PAGE, args=[order.pk]))

    # --- reading ---

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The order's page: everything that is known about it, and what may be done with it now."""
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        order = self._find(request, object_id)
        steps = selectors.summarise_trail(order.trail.all())
        is_settled = selectors.is_settled(order, steps)
        may_repair = self.has_repair_permission(request)
        flags = selectors.list_open_flags(order)
        flagged = {flag.subject for flag in flags}
        ui = f"{settings.TEMPORAL_UI_URL}/namespaces/{settings.TEMPORAL_NAMESPACE}/workflows"
        context = {
            "title": str(order),
            "original": order,
            "order": order,
            "is_settled": is_settled,
            "flags": flags if is_settled and may_repair else [],
            "reasons": selectors.list_attention_reasons(order),
            "workflows": [
                (workflow_id, f"{ui}/{workflow_id}" if settings.TEMPORAL_UI_URL else "")
                for workflow_id in selectors.list_workflow_ids(order)
            ],
            "may_cancel": self.has_cancel_permission(request)
            and OrderStatus.CANCELLING in ALLOWED_MOVES[order.status]
            and order.cancel_requested_at is None,
            "may_ship": self.has_ship_permission(request)
            and OrderStatus.SHIPPED in ALLOWED_MOVES[order.status],
            "stuck": [
                step
                for step in steps
                if may_repair
                and step.kind == StepKind.UNDO
                # Attempts that time out leave the row running, and a flag.
                and (
                    step.status == StepState.FAILED
                    or (step.status == StepState.RUNNING and step.name in flagged)
                )
            ],
        }
        return self._render(request, "page", context)

    def _find(self, request: HttpRequest, order_id: str | UUID) -> Order:
        """The order with its history. 404 if there is none, 403 if it may not be seen."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            return selectors.get_order_record(UUID(str(order_id)))
        except (ValueError, Order.DoesNotExist):
            raise Http404("There is no such order.") from None

    def _render(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        """A page of this admin, in the frame of the stock admin."""
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "subtitle": None,
            "media": self.media,
        }
        return TemplateResponse(request, f"admin/orders/order/{template}.html", {**frame, **context})

    # --- cancelling ---

    @admin.action(description="Cancel selected orders", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: OrderQuerySet) -> HttpResponse | None:
        """Ask for the reason; `cancel_view` takes it from there."""
        chosen = list(queryset[: MAX_SELECTED + 1])
        if len(chosen) > MAX_SELECTED:
            messages.error(request, f"Cancel at most {MAX_SELECTED} orders at a time.")
            return None
        for order in chosen:
            if order.status == OrderStatus.SHIPPED:
                messages.error(request, f"{order} has been shipped and can no longer be cancelled.")
        chosen = [order for order in chosen if order.status != OrderStatus.SHIPPED]
        if not chosen:
            return None
        form = CancelForm(queryset=queryset, initial={"orders": [order.pk for order in chosen]})
        return self._ask_reason(request, chosen, form)

    def cancel_view(self, request: HttpRequest) -> HttpResponse:
        """Confirm with a reason, then ask the desk order by order and tell what it said to each."""
        if not (self.has_cancel_permission(request) and self.has_view_permission(request)):
            raise PermissionDenied
        form = CancelForm(request.POST, queryset=self.get_queryset(request))
        is_complete = form.is_valid()
        orders = list(form.cleaned_data.get("orders", []))
        if not orders:
            messages.error(request, "Select the orders to cancel first.")
            return HttpResponseRedirect(reverse(LIST))
        if not is_complete:
            return self._ask_reason(request, orders, form)
        for order in orders:
            self._ask_desk(
                request,
                order,
                lambda order=order: desk.cancel_order(  # type: ignore[misc]
                    order_id=order.pk,
                    actor=request.user.get_username(),
                    reason=form.cleaned_data["reason"],
                ),
                done="the cancel is accepted.",
                before="it was already being cancelled.",
                log=f"Cancelled: {form.cleaned_data['reason']}",
            )
        return HttpResponseRedirect(reverse(PAGE, args=[orders[0].pk]) if len(orders) == 1 else reverse(LIST))

    def _ask_reason(self, request: HttpRequest, orders: list[Order], form: CancelForm) -> HttpResponse:
        context = {
            "title": "Cancel an order" if len(orders) == 1 else f"Cancel {len(orders)} orders",
            "orders": orders,
            "form": form,
            "adminform": lay_out(form),
        }
        return self._render(request, "cancel", context)

    def _ask_desk(
        self,
        request: HttpRequest,
        order: Order,
        ask: Callable[[], Decision],
        *,
        done: str,
        before: str,
        log: str,
    ) -> None:
        """Ask the desk and tell the person what it decided about this order."""
        try:
            decision = ask()
        except StateConflict as conflict:
            messages.error(request, str(conflict))
            return
        if decision.changed:
            self.log_change(request, order, log)
            messages.success(request, f"{order}: {done}")
        else:
            messages.info(request, f"{order}: {before}")

    # --- shipping and repairing ---

    @admin.action(description="Mark selected orders as shipped", permissions=["ship"])
    def ship_selected(self, request: HttpRequest, queryset: OrderQuerySet) -> None:
        """Ship what can be shipped, and say why the rest cannot."""
        for order in queryset:
            self._ship(request, order)

    def ship_view(self, request: HttpRequest, order_id: UUID) -> HttpResponse:
        """Mark one order as shipped."""
        if not self.has_ship_permission(request):
            raise PermissionDenied
        self._ship(request, self._find(request, order_id))
        return HttpResponseRedirect(reverse(PAGE, args=[order_id]))

    def _ship(self, request: HttpRequest, order: Order) -> None:
        self._ask_desk(
            request,
            order,
            lambda: desk.ship_order(order_id=order.pk, actor=request.user.get_username()),
            done="marked as shipped.",
            before="it was already shipped.",
            log="Marked as shipped.",
        )

    def retry_view(self, request: HttpRequest, order_id: UUID) -> HttpResponse:
        """Try a stuck undo again now."""
        if not self.has_repair_permission(request):
            raise PermissionDenied
        order = self._find(request, order_id)
        form = UndoForm(request.POST)
        if form.is_valid():
            undo = form.cleaned_data["undo"]
            self._ask_desk(
                request,
                order,
                lambda: desk.retry_undo(order_id=order.pk, undo=undo, actor=request.user.get_username()),
                done=f"{undo} is tried again now.",
                before=f"{undo} stays as it is.",
                log=f"Retried {undo}.",
            )
        return HttpResponseRedirect(reverse(PAGE, args=[order_id]))

    def resolve_view(self, request: HttpRequest, order_id: UUID) -> HttpResponse:
        """Settle a stuck undo by hand, with a reason and a reference."""
        if not self.has_repair_permission(request):
            raise PermissionDenied
        order = self._find(request, order_id)
        form = ResolveForm(request.POST or None, initial={"undo": request.GET.get("undo")})
        if form["undo"].value() not in STEP_OF_UNDO:
            messages.error(request, "Choose the undo to resolve on the order's page.")
            return HttpResponseRedirect(reverse(PAGE, args=[order_id]))
        if form.is_valid():
            wanted = form.cleaned_data
            self._ask_desk(
                request,
                order,
                lambda: desk.resolve_undo(
                    order_id=order.pk, actor=request.user.get_username(), **form.cleaned_data
                ),
                done=f"{wanted['undo']} is settled by hand.",
                before=f"{wanted['undo']} stays as it is.",
                log=f"Resolved {wanted['undo']}: {wanted['reason']} ({wanted['reference']})",
            )
            return HttpResponseRedirect(reverse(PAGE, args=[order_id]))
        context = {
            "title": f"Resolve {form['undo'].value()} by hand",
            "order": order,
            "form": form,
            "adminform": lay_out(form),
        }
        return self._render(request, "resolve", context)

    def acknowledge_view(self, request: HttpRequest, order_id: UUID) -> HttpResponse:
        """Clear a flag that nothing clears by itself, with a reason."""
        if not self.has_repair_permission(request):
            raise PermissionDenied
        order = self._find(request, order_id)
        form = AcknowledgeForm(request.POST or None, initial={"subject": request.GET.get("subject")})
        if form.is_valid():
            self._ask_desk(
                request,
                order,
                lambda: desk.acknowledge(
                    order_id=order.pk, actor=request.user.get_username(), **form.cleaned_data
                ),
                done="the flag is cleared.",
                before="the flag stays as it is.",
                log=f"Acknowledged {form.cleaned_data['subject']}: {form.cleaned_data['reason']}",
            )
            return HttpResponseRedirect(reverse(PAGE, args=[order_id]))
        context = {"title": "Acknowledge", "order": order, "form": form, "adminform": lay_out(form)}
        return self._render(request, "acknowledge", context)
