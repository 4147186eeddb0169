"""Booking stock: a form, a page that shows before and after, and the booking itself."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode

from config.admin import lay_out
from inventory import selectors, services
from inventory.admin.cells import show_level, show_signed
from inventory.models import Product
from inventory.services import Booking, BookingPlan
from orders.refusals import StateConflict

if TYPE_CHECKING:
    from inventory.admin.product import ProductAdmin

MAX_BOOKING = 1_000_000


class StockForm(forms.Form):
    booking = forms.ChoiceField(
        label="What happened",
        choices=Booking.choices,
        initial=Booking.RECEIVED,
        widget=forms.RadioSelect(attrs={"class": "radiolist"}),
    )
    units = forms.IntegerField(
        label="Units",
        min_value=0,
        max_value=MAX_BOOKING,
        help_text="How many came in, were found or are missing. After a count: all that are on the shelf, "
        "those held for orders included.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
    )
    note = forms.CharField(
        max_length=200,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Why, for example the delivery note's number. Kept in the ledger.",
    )


class ConfirmationForm(StockForm):
    """The same, filled in already, with the number on hand that the person was shown."""

    on_hand = forms.IntegerField(min_value=0, max_value=services.MAX_ON_HAND)


def book_stock(admin: "ProductAdmin", request: HttpRequest, product_id: int) -> HttpResponse:
    """Ask what happened, show what that makes of the stock, and book it once that is confirmed."""
    if not request.user.has_perm("inventory.adjust_stock"):
        raise PermissionDenied
    try:
        product = selectors.find_product(product_id)
    except OverflowError:
        product = None
    if product is None:
        raise Http404("There is no such product.")
    if request.method != "POST":
        return _render(admin, request, product, StockForm(initial=_read_initial(request)))
    form = ConfirmationForm(request.POST) if "confirm" in request.POST else StockForm(request.POST)
    if not form.is_valid():
        return _render(admin, request, product, StockForm(request.POST))
    try:
        if isinstance(form, ConfirmationForm):
            return _book(admin, request, product, form)
        plan = services.plan_booking(
            item=selectors.get_stock(product),
            booking=form.cleaned_data["booking"],
            units=form.cleaned_data["units"],
        )
    except StateConflict as conflict:
        again = StockForm(request.POST)
        again.add_error("units", str(conflict))
        return _render(admin, request, product, again)
    return _render(admin, request, product, form, plan)


def _read_initial(request: HttpRequest) -> dict[str, str]:
    """What the way back from the confirmation brings along."""
    return {name: request.GET[name] for name in ("booking", "units", "note") if name in request.GET}


def _book(
    admin: "ProductAdmin", request: HttpRequest, product: Product, form: ConfirmationForm
) -> HttpResponse:
    """Book, and keep who did it in the product's history."""
    with transaction.atomic():
        plan = services.book_stock(
            product_id=product.pk, actor=request.user.get_username(), **form.cleaned_data
        )
        booked = f"Booked {plan.change:+d} units"
        what = Booking(form.cleaned_data["booking"]).label.lower()
        admin.log_change(request, product, f"{booked} ({what}): {form.cleaned_data['note']}")
    messages.success(
        request,
        f"{booked} of {product}: {plan.on_hand_after} on hand now, {plan.held} of them held, "
        f"{plan.available_after} available.",
    )
    if not admin.has_view_permission(request):
        return HttpResponseRedirect(reverse("admin:inventory_product_stock", args=[product.pk]))
    return HttpResponseRedirect(reverse("admin:inventory_product_change", args=[product.pk]))


def _render(
    admin: "ProductAdmin",
    request: HttpRequest,
    product: Product,
    form: StockForm,
    plan: BookingPlan | None = None,
) -> HttpResponse:
    """The form, or the page that asks to confirm the plan."""
    stock = selectors.get_stock(product)
    context: dict[str, Any] = {
        **admin.admin_site.each_context(request),
        "title": "Book stock",
        "subtitle": str(product),
        "opts": admin.opts,
        "product": product,
        "stock": stock,
        "available": stock.on_hand - stock.reserved,
        "level": show_level(product),
        "sees_product": admin.has_view_permission(request),
        "form": form,
        "adminform": lay_out(form),
        "errors": form.errors,
        "plan": plan,
        "what": Booking(form.cleaned_data["booking"]).label if plan else "",
        "change": show_signed(plan.change) if plan else "",
        "way_back": urlencode(form.cleaned_data) if plan else "",
        "media": admin.media,
    }
    page = "stock_confirm" if plan else "stock"
    return TemplateResponse(request, f"admin/inventory/product/{page}.html", context)
