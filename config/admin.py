"""What the admin pages of all apps share: pages that only show, and the site's name."""

import logging
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import ValidationError
from django.db import DataError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

logger = logging.getLogger("config.admin")

admin.site.site_header = "Order Desk"
admin.site.site_title = "Order Desk"
admin.site.index_title = "Overview"


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows what happened. Nobody adds, changes or deletes it by hand."""

    show_full_result_count = False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The list. Parameters that make no sense lead back to the whole list, as the stock admin does
        for those it knows; it does not know them all."""
        if request.method != "GET":
            return super().changelist_view(request, extra_context)
        try:
            with transaction.atomic():
                return super().changelist_view(request, extra_context)
        except (ValueError, OverflowError, DataError, ValidationError) as error:
            logger.warning("a list was asked for with bad parameters: %s", error)
            messages.error(request, "The address had parameters that make no sense; this is the whole list.")
            return HttpResponseRedirect(request.path)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def lay_out(form: Any) -> AdminForm:
    """The visible fields of a plain form, laid out as the stock admin lays out a model's."""
    return AdminForm(form, [(None, {"fields": [field.name for field in form.visible_fields()]})], {})
