"""The page that previews an action, asks for the reason, and then asks the desk row by row."""

import logging
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from config.admin import lay_out
from orders import previews
from orders.admin.actions import ACTIONS, BULK, Action, Target, Words
from orders.models import Order
from orders.previews import Preview
from orders.refusals import StateConflict

if TYPE_CHECKING:
    from orders.admin.order import OrderAdmin

logger = logging.getLogger("orders.admin")

MAX_SELECTED = 100
LIST = "admin:orders_order_changelist"
PAGE = "admin:orders_order_change"


class ReasonForm(forms.Form):
    """The reason: a common one with a click, a text of one's own, or both."""

    choice = forms.ChoiceField(label="Reason", required=False, widget=forms.RadioSelect)
    reason = forms.CharField(
        label="In your words",
        max_length=1000,
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 2}),
        help_text="Choose a reason, write one, or both. It is kept with the order; the customer does not "
        "see it.",
    )
    reference = forms.CharField(
        max_length=200,
        widget=AdminTextInputWidget,
        help_text="Where it can be found: the number of a bank transfer, a voucher, a ticket.",
    )

    def __init__(self, action: Action, data: Any = None) -> None:
        super().__init__(data)
        choices = [(reason, reason) for reason in action.reasons]
        cast("forms.ChoiceField", self.fields["choice"]).choices = choices
        if not action.asks_reference:
            del self.fields["reference"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not (cleaned.get("choice") or cleaned.get("reason")) and not self.errors:
            self.add_error("reason", "Choose a reason or write one.")
        return cleaned

    def read_words(self) -> Words:
        """What was given, as one reason."""
        given = [self.cleaned_data["choice"], self.cleaned_data["reason"]]
        return Words(": ".join(filter(None, given)), self.cleaned_data.get("reference", ""))


def list_bulk_actions(admin: "OrderAdmin", request: HttpRequest) -> dict[str, Any]:
    """The actions of the list that this person may use, as the stock admin wants them."""
    offered: dict[str, Any] = {}
    for action in (ACTIONS[slug] for slug in BULK):
        if request.user.has_perm(action.permission):
            name = f"{action.slug}_selected"
            offered[name] = (_begin_bulk(action), name, f"{action.title}…")
    return offered


def _begin_bulk(action: Action) -> Callable[..., HttpResponse | None]:
    def begin(admin: "OrderAdmin", request: HttpRequest, queryset: QuerySet[Order]) -> HttpResponse | None:
        chosen = list(queryset.values_list("pk", flat=True)[: MAX_SELECTED + 1])
        if len(chosen) > MAX_SELECTED:
            messages.error(request, f"Select at most {MAX_SELECTED} orders at a time.")
            return None
        return _ask(admin, request, action, _expand(action, chosen), ReasonForm(action))

    return begin


def confirm_action(admin: "OrderAdmin", request: HttpRequest, slug: str) -> HttpResponse:
    """Show what the action would do and ask for the reason (GET); do it row by row (POST)."""
    action = ACTIONS.get(slug)
    if action is None:
        raise Http404("There is no such action.")
    if not (admin.has_view_permission(request) and request.user.has_perm(action.permission)):
        raise PermissionDenied
    if request.method != "POST":
        part = _clean(request.GET.get(action.parameter, "")) if action.parameter else ""
        targets = _expand(action, _read_ids(request.GET.getlist("order")), part)
        return _ask(admin, request, action, targets, ReasonForm(action))
    targets = _read_targets(action, request.POST.getlist("target"))
    form = ReasonForm(action, request.POST)
    if not targets or not form.is_valid():
        return _ask(admin, request, action, targets, form)
    if _refunds_more(request, action, targets):
        messages.warning(
            request, "Nothing was done: it would give back more than this page said. Look again, and confirm."
        )
        return _ask(admin, request, action, targets, form)
    for target in targets:
        _act(admin, request, action, target, form.read_words())
    orders = {target.order.pk for target in targets}
    return HttpResponseRedirect(reverse(PAGE, args=[*orders]) if len(orders) == 1 else reverse(LIST))


def _read_ids(values: list[str]) -> list[UUID]:
    """The ids among the values; what is none is left out."""
    found: list[UUID] = []
    for value in values[:MAX_SELECTED]:
        try:
            found.append(UUID(value))
        except ValueError:
            continue
    return found


def _expand(action: Action, order_ids: list[UUID], part: str = "") -> list[Target]:
    """What the action is about: the named part of each order, or each part that the action finds in it."""
    return [
        Target(order, found)
        for order in previews.list_orders_to_preview(order_ids)
        for found in ([part] if part else action.find_parts(order))
    ]


def _read_targets(action: Action, values: list[str]) -> list[Target]:
    """The targets a confirmation page has sent, on the orders as they are now."""
    parts = [value.partition(" ")[::2] for value in values[: MAX_SELECTED * 4]]
    orders = {str(order.pk): order for order in previews.list_orders_to_preview(_read_ids_of(parts))}
    return [Target(orders[pk], _clean(part)) for pk, part in parts if pk in orders]


def _clean(part: str) -> str:
    """What PostgreSQL can be asked for: no NUL or other control character."""
    return "".join(filter(str.isprintable, part))


def _read_ids_of(parts: list[tuple[str, str]]) -> list[UUID]:
    return _read_ids(list(dict.fromkeys(pk for pk, _ in parts)))


def _refunds_more(request: HttpRequest, action: Action, targets: list[Target]) -> bool:
    """Whether more would be given back than the page said when it was shown: a charge came in between."""
    try:
        seen = Decimal(request.POST.get("refund", "Infinity"))
    except InvalidOperation:
        seen = Decimal(0)
    found = [action.preview(target, cast("User", request.user)) for target in targets]
    return not seen.is_nan() and sum(preview.refund for preview in found if not preview.obstacle) > seen


def _ask(
    admin: "OrderAdmin", request: HttpRequest, action: Action, targets: list[Target], form: ReasonForm
) -> HttpResponse:
    """The page that previews the action. Without anything to act on it leads back to the list."""
    if not targets:
        messages.error(request, "Select the orders first.")
        return HttpResponseRedirect(reverse(LIST))
    rows = [(target, action.preview(target, cast("User", request.user))) for target in targets]
    possible = [preview for _, preview in rows if not preview.obstacle]
    count = len({target.order.pk for target in targets})
    only = targets[0].order if count == 1 else None
    context = {
        "title": f"{action.title}: {only}" if only else f"{action.title}: {count} orders",
        "action": action,
        "rows": rows,
        "possible": possible,
        "totals": _sum_up(possible),
        "refund": sum((preview.refund for preview in possible), Decimal(0)),
        "order": only,
        "form": form,
        "adminform": lay_out(form),
        "errors": bool(form.errors),
    }
    return admin.render_page(request, "act", context)


def _sum_up(possible: list[Preview]) -> list[str]:
    """What all rows do together: money, units and mails."""
    refund = sum(preview.refund for preview in possible)
    units = sum(preview.units for preview in possible)
    mails = sum(preview.mails for preview in possible)
    return [
        *([f"{refund} {possible[0].order.currency} refunded"] if refund else []),
        *([f"{units} unit{'s' if units != 1 else ''} moved"] if units else []),
        *([f"{mails} mail{'s' if mails != 1 else ''} sent"] if mails else []),
    ]


def _act(admin: "OrderAdmin", request: HttpRequest, action: Action, target: Target, words: Words) -> None:
    """Ask the desk about one row, and tell the person what it decided. The permission is asked for anew:
    it may have been taken away since the page was opened, or since the last row."""
    order = target.order
    staff = User.objects.filter(username=request.user.get_username(), is_active=True, is_staff=True).first()
    if staff is None or not staff.has_perms([action.permission, "orders.view_order"]):
        messages.error(request, f"{order}: you may no longer do this.")
        return
    try:
        decision = action.act(target, staff, words)
    except StateConflict as conflict:
        messages.error(request, f"{order}: {conflict}")
        return
    except OperationalError as error:  # such as a lock that somebody holds for too long
        logger.warning("%s of order %s failed: %s", action.slug, order.pk, error)
        messages.error(request, f"{order}: the database was busy, so nothing was done. Try again.")
        return
    if decision.changed:
        admin.log_change(request, order, f"{action.title}: {words.reason}")
        messages.success(request, f"{order}: {action.done(target, decision)}")
    else:
        messages.info(request, f"{order}: nothing was done; it was done or asked for before.")
