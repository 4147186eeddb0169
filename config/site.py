"""The admin site: what staff use all day stands first."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest

APPS = ["orders", "inventory", "payments", "notifications"]
MODELS = ["Order", "Rollback", "CancelRequest", "Product"]


def find_place(name: str, first: list[str]) -> tuple[int, str]:
    """Where a name sorts: those of `first` in their order, then the rest by name."""
    return (first.index(name) if name in first else len(first), name)


class DeskSite(AdminSite):
    """The stock site, with its apps in the order of the work instead of the alphabet."""

    site_header = "Order Desk"
    site_title = "Order Desk"
    index_title = "Overview"

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = super().get_app_list(request, app_label)
        for app in apps:
            app["models"].sort(key=lambda model: find_place(model["object_name"], MODELS))
        return sorted(apps, key=lambda app: find_place(app["app_label"], APPS))


class DeskAdminConfig(AdminConfig):
    """Puts the site in place of the stock one."""

    default_site = "config.site.DeskSite"
