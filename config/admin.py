"""What the admin pages of all apps share: pages that only show, and the site's name."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import AdminForm
from django.http import HttpRequest

admin.site.site_header = "Order Desk"
admin.site.site_title = "Order Desk"
admin.site.index_title = "Overview"


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows what happened. Nobody adds, changes or deletes it by hand."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def lay_out(form: Any) -> AdminForm:
    """The visible fields of a plain form, laid out as the stock admin lays out a model's."""
    return AdminForm(form, [(None, {"fields": [field.name for field in form.visible_fields()]})], {})
