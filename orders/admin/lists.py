"""The list of orders: columns, filters, search and export."""

import csv
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import DataError, Error, transaction
from django.db.models import Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localdate, localtime, now

from config.admin import ReadOnlyAdmin
from orders import listing
from orders.models import Order
from orders.permissions import SEE_DEEDS, SEE_PAYMENTS

logger = logging.getLogger("orders.admin")

EXPORTED = {
    "number": "number",
    "id": "id",
    "accepted at": "accepted_at",
    "status": "status",
    "saga": "saga",
    "customer": "customer_email",
    "currency": "currency",
    "total": "total",
    "refunded": "refunded",
    "failed step": "failed_step",
    "failure type": "failure_type",
    "completed at": "completed_at",
    "shipped at": "shipped_at",
    "rolled back at": "rolled_back_at",
}
# What a spreadsheet takes for a formula (OWASP, "CSV injection"), full-width signs included; also behind
# blanks, quotes and separators, which some of them skip.
A_FORMULA = re.compile("[\t\r\n]|[\\s\"',;]*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
EXPORT_CHUNK = 2000
FEW = 500
UNITS = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")]


# --- filters ---------------------------------------------------------------------------------------------


def make_filter(
    title: str, parameter: str, list_choices: Callable[[], dict[str, tuple[str, Q]]]
) -> type[admin.SimpleListFilter]:
    """A filter of the list by named conditions. A value that is none of them makes no sense: ValueError."""

    class NamedFilter(admin.SimpleListFilter):
        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            self.conditions = list_choices()
            return [(value, label) for value, (label, _) in self.conditions.items()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            value = self.value()
            if value is None:
                return queryset
            if value not in self.conditions:
                raise ValueError(f"{parameter} cannot be {value!r}")
            return queryset.filter(self.conditions[value][1])

    NamedFilter.title = title
    NamedFilter.parameter_name = parameter
    return NamedFilter


def choose_amount() -> dict[str, tuple[str, Q]]:
    """By total, in bands of the shop's currency."""
    return {
        "under-50": ("under 50", Q(total__lt=50)),
        "50-200": ("50 to 200", Q(total__gte=50, total__lt=200)),
        "200-1000": ("200 to 1000", Q(total__gte=200, total__lt=1000)),
        "from-1000": ("1000 and more", Q(total__gte=1000)),
    }


class PastDateFilter(admin.DateFieldListFilter):
    """The stock filter by date, without its choices for rows that have none: here every order has one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.title = "date"
        self.links = self.links[:5]


AttentionFilter = make_filter("needs attention", "attention", listing.choose_attention)
FailedStepFilter = make_filter("failed step", "failed_step", listing.choose_failed_step)


# --- the list --------------------------------------------------------------------------------------------


class OrderChangeList(ChangeList):
    """A list whose rows are read for the page that is shown, and lead to the order's page.

    Raises ValueError for any parameters that make no sense, so that all of them are answered alike.
    """

    def __init__(self, request: HttpRequest, *arguments: Any, **options: Any) -> None:
        # The stock list drops a search that is not valid, and shows everything.
        if not self.search_form_class(request.GET).is_valid():
            raise ValueError("the search is not valid")
        try:
            super().__init__(request, *arguments, **options)
        except (IncorrectLookupParameters, DisallowedModelAdminLookup) as error:
            raise ValueError(str(error)) from error

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """As the stock list's. What few orders match is looked for once, and not again by each of the
        count, the page and the dates."""
        found: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        if not (self.query or self.get_filters_params()):
            return found
        few = list(found.order_by().values_list("pk", flat=True)[: FEW + 1])
        if len(few) > FEW:
            return found
        return self.root_queryset.filter(pk__in=few).order_by(*found.query.order_by)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: QuerySet[Any] = self.model_admin.list_rows(request, self.result_list)  # type: ignore[attr-defined]

    def url_for_result(self, result: Any) -> str:
        return reverse("admin:orders_order_change", args=[result.pk])


class OrderListAdmin(ReadOnlyAdmin):
    """Columns, filters and search that both lists share."""

    title = "Orders"
    list_display = ["number", "customer", "total_with_currency", "status_badge", "saga", "failure_at", "age"]
    list_filter = [
        "status",
        make_filter("saga", "saga", listing.choose_saga),
        AttentionFilter,
        FailedStepFilter,
        ("accepted_at", PastDateFilter),
        make_filter(f"total ({settings.SHOP_CURRENCY})", "amount", choose_amount),
        make_filter("client", "client", listing.choose_client),
    ]
    date_hierarchy = "accepted_at"
    empty_value_display = ""
    # Shows the box; what is searched is up to get_search_results.
    search_fields = ["number"]
    search_help_text = "Number, e-mail, SKU, payment reference or id. Several words must all match."
    ordering = ["-accepted_at", "-number"]
    # Numbers ascend with age: one of the two columns is enough to sort by.
    sortable_by = ["customer", "total_with_currency", "status_badge", "failure_at", "age"]
    list_per_page = 50
    list_max_show_all = list_per_page
    # Counting every choice of every filter takes a pass over the orders each.
    show_facets = admin.ShowFacets.NEVER

    def list_rows(self, request: HttpRequest, page: QuerySet[Any]) -> QuerySet[Any]:
        return listing.list_rows(page)

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return OrderChangeList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changes = super().get_changelist_instance(request)
        if not request.user.has_perm(SEE_PAYMENTS):
            changes.search_help_text = "Number, e-mail, SKU or id. Several words must all match."
        return changes

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if len(search_term.split()) > listing.MAX_WORDS:
            messages.warning(request, f"Search for at most {listing.MAX_WORDS} words.")
        by_payment = request.user.has_perm(SEE_PAYMENTS)
        return listing.search_orders(queryset, search_term, by_payment=by_payment), False

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The stock admin's log of the order: it repeats who did what, and why."""
        if not request.user.has_perm(SEE_DEEDS):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        try:
            for chosen in request.POST.getlist("_selected_action"):
                UUID(chosen)
        except ValueError:
            messages.error(request, "Select the orders first.")
            return HttpResponseRedirect(request.path)
        return super().changelist_view(request, {"title": self.title, **(extra_context or {})})

    @admin.display(description="customer", ordering="customer_email")
    def customer(self, order: Order) -> SafeString:
        # A long address breaks before its @.
        name, at, domain = order.customer_email.rpartition("@")
        return format_html("{}<wbr>{}{}", name, at, domain)

    @admin.display(description="total", ordering="total")
    def total_with_currency(self, order: Order) -> str:
        return f"{order.total} {order.currency}"

    @admin.display(description="status", ordering="status")
    def status_badge(self, order: Any) -> SafeString:
        badges = [("od-badge od-" + order.status, order.status)]
        if order.attention:
            badges.append(("od-attention", "needs attention"))
        if order.is_awaiting_approval:
            badges.append(("od-badge od-awaiting_approval", "awaiting approval"))
        return format_html_join(" ", '<span class="{}">{}</span>', badges)

    @admin.display(description="saga")
    def saga(self, order: Any) -> SafeString:
        progress = listing.describe_progress(
            status=order.status, steps_done=order.steps_done, is_told=order.is_told
        )
        match progress:
            case "rolled back":
                css = "od-badge od-cancelled"
            case "ROLLBACK INCOMPLETE":
                css = "od-badge od-incomplete"
            case _:
                css = "od-progress"
        return format_html('<span class="{}">{}</span>', css, progress)

    @admin.display(description="failed step", ordering="failed_step")
    def failure_at(self, order: Order) -> SafeString | str:
        if order.failure_type == listing.CANCELLED_BY_A_PERSON:
            return "none: cancelled"
        return format_html("<code>{}</code>", order.failed_step) if order.failed_step else ""

    @admin.display(description="age", ordering="accepted_at")
    def age(self, order: Order) -> SafeString:
        return show_moment(order.accepted_at, format_age(now() - order.accepted_at))


def show_moment(moment: datetime, text: str = "") -> SafeString:
    """The moment, or a text about it with the exact moment behind it."""
    local = localtime(moment)
    return format_html(
        '<time class="od-time" datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        date_format(local, "j M Y, H:i:s"),
        text or date_format(local, "j M Y, H:i"),
    )


def format_age(age: timedelta) -> str:
    """An age in its largest whole unit: 40 s, 4 min, 3 h, 12 d."""
    seconds = max(0, int(age.total_seconds()))
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds // size} {unit}"


def format_duration(duration: timedelta) -> str:
    """A duration in its two largest units: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    exact = max(0.0, duration.total_seconds())
    if exact < 10:
        return f"{exact:.1f} s"
    seconds = round(exact)
    for (size, unit), (smaller, rest) in pairwise(UNITS):
        if seconds >= size:
            more = seconds % size // smaller
            return f"{seconds // size} {unit}{f' {more} {rest}' if more else ''}"
    return f"{seconds} s"


# --- the export ------------------------------------------------------------------------------------------


def export_orders(admin: OrderListAdmin, request: HttpRequest) -> HttpResponseBase:
    """The filtered list as CSV, in its order. Bad parameters lead back to the list, which says so.

    It is UTF-8 without a byte order mark: no column holds anything but ASCII (other addresses are refused
    when an order is placed), so no program has to be told, and none finds a mark in the first header.
    """
    if not admin.has_view_permission(request):
        raise PermissionDenied
    try:
        with transaction.atomic():
            orders = admin.get_changelist_instance(request).queryset
    except (ValueError, OverflowError, DataError, ValidationError):
        address = reverse("admin:orders_order_changelist")
        return HttpResponseRedirect(f"{address}?{request.GET.urlencode()}")
    columns = dict(EXPORTED)
    if not request.user.has_perm(SEE_PAYMENTS):
        del columns["refunded"]
    lines = write_csv(listing.list_exported(orders), columns, exported_by=request.user.get_username())
    response = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="orders-{localdate().isoformat()}.csv"'
    return response


class Echo:
    """A file that gives back what is written to it, so that a csv.writer can be streamed."""

    def write(self, line: str) -> str:
        return line


def write_csv(orders: QuerySet[Any], columns: dict[str, str], *, exported_by: str) -> Iterator[str]:
    """The lines of the export, with these of its columns, read in chunks as they are sent; logs how many
    there were. The answer has begun when the database fails, and can only say so in its last line."""
    writer = csv.writer(Echo())
    yield writer.writerow(columns)
    count = 0
    try:
        for order in orders.iterator(chunk_size=EXPORT_CHUNK):
            yield writer.writerow(list_cells(order, columns.values()))
            count += 1
    except Error:
        logger.exception("the export by %s broke off after %d orders", exported_by, count)
        yield writer.writerow([f"INCOMPLETE: the database failed after {count} orders. Export them again."])
    finally:
        logger.info("%s exported %d orders", exported_by, count)


def list_cells(order: Any, names: Iterable[str]) -> Iterable[str]:
    """What an order of `list_exported` has under these names, as the cells of its line."""
    order.saga = listing.describe_progress(
        status=order.status, steps_done=order.steps_done, is_told=order.is_told
    )
    for name in names:
        value = getattr(order, name)
        if isinstance(value, datetime):
            yield localtime(value).isoformat(timespec="seconds")
        elif isinstance(value, str):
            yield defuse(value)
        else:
            yield "" if value is None else str(value)


def defuse(text: str) -> str:
    """The text, so that no spreadsheet takes it for a formula."""
    return f"'{text}" if A_FORMULA.match(text) else text
