"""What the admin pages of all apps share: pages that only show, and nothing deleted in bulk."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.core.exceptions import ValidationError
from django.db import DataError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

logger = logging.getLogger("config.admin")

# What happened stays: nothing is deleted in bulk, whatever the page.
admin.site.disable_action("delete_selected")


def list_offered_parameters(page: Any, request: HttpRequest) -> Iterator[str]:
    """The parameters that a list's own filters, dates and links have."""
    yield "pk"
    yield from getattr(page, "linked_lookups", ())
    if page.date_hierarchy:
        yield from (f"{page.date_hierarchy}__{part}" for part in ("year", "month", "day"))
    for offered in page.get_list_filter(request):
        if isinstance(offered, type):
            yield offered.parameter_name  # type: ignore[attr-defined]
            continue
        path, make = offered if isinstance(offered, tuple) else (offered, admin.FieldListFilter.create)
        field: Any = get_fields_from_path(page.model, path)[-1]
        yield from make(field, request, {}, page.model, page, field_path=path).expected_parameters()


def allow_offered(page: Any, lookup: str, value: str, request: HttpRequest) -> bool:
    """A list's `lookup_allowed`. The stock one lets a list be filtered by any field of its model, so that
    whoever sees the list reads what it never shows (a secret, a token) letter by letter."""
    return lookup in list_offered_parameters(page, request)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows what happened. Nobody adds, changes or deletes it by hand."""

    lookup_allowed = allow_offered
    # Parameters that links of other pages have, beside those of the list's own filters.
    linked_lookups: tuple[str, ...] = ()
    show_full_result_count = False
    # Where the order's number is, for lists that are searched by it.
    number_path = ""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A number that an order has finds that order's rows, by the index; the rest is up to
        `search_fields`. Together in one OR they would have the database read every row."""
        term = search_term.strip()
        if self.number_path and term.isascii() and term.isdecimal() and len(term) < 19:
            of_order = queryset.filter(**{self.number_path: int(term)})
            if of_order.exists():
                return of_order, False
        return super().get_search_results(request, queryset, search_term)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The list, under its plain name. Parameters that make no sense lead back to the whole list, as
        the stock admin does for those it knows; it does not know them all."""
        extra_context = {"title": capfirst(self.opts.verbose_name_plural), **(extra_context or {})}
        try:
            if request.method in ("GET", "HEAD"):
                with transaction.atomic():
                    return super().changelist_view(request, extra_context)
            self.try_list(request)
        except (
            ValueError, OverflowError, DataError, ValidationError, DisallowedModelAdminLookup
        ) as error:  # fmt: skip
            logger.warning("a list was asked for with bad parameters: %s", error)
            messages.error(request, "The address had parameters that make no sense; this is the whole list.")
            return HttpResponseRedirect(request.path)
        # Outside any transaction: what an action has done is not undone by what fails after it.
        return super().changelist_view(request, extra_context)

    def try_list(self, request: HttpRequest) -> None:
        """Read the list that an action is asked for on, before it acts. Raises what bad parameters raise."""
        if not self.has_view_or_change_permission(request):
            return
        # The stock admin answers those it knows, also here.
        with suppress(IncorrectLookupParameters), transaction.atomic():
            self.get_changelist_instance(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.display(description="order", ordering="order__number")
def link_order(row: Any) -> SafeString | str:
    """A list's column: the row's order, as a link to its page. Needs `list_select_related`."""
    return format_order(row.order) if row.order else ""


def format_order(order: Any) -> SafeString:
    """The order's number as a link to its page."""
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:orders_order_change", args=[order.pk]), order.number
    )


@admin.display(description="state", ordering="state")
def show_state(row: Any) -> SafeString:
    """A list's column: the row's state, told by text and colour."""
    return format_html('<span class="od-badge od-{}">{}</span>', row.state, row.get_state_display().lower())


def lay_out(form: Any) -> AdminForm:
    """The visible fields of a plain form, laid out as the stock admin lays out a model's."""
    return AdminForm(form, [(None, {"fields": [field.name for field in form.visible_fields()]})], {})
