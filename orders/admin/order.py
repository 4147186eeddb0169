"""The admin of orders: which pages and actions there are, and who may use them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from orders.admin import confirm, lists, page, place
from orders.models import Order, OrderQuerySet


class OrderAdmin(lists.OrderListAdmin):
    """Orders are placed here and never edited by hand: what changes them goes through the desk."""

    change_list_template = "admin/orders/order/change_list.html"

    def get_queryset(self, request: HttpRequest) -> OrderQuerySet:
        return Order.objects.all()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.add_order")

    def get_urls(self) -> list[URLPattern]:
        views: list[tuple[str, str, Callable[..., HttpResponseBase]]] = [
            ("export/", "export", partial(lists.export_orders, self)),
            ("products/", "products", partial(place.find_products, self)),
            ("act/<slug:slug>/", "act", partial(confirm.confirm_action, self)),
            ("<uuid:order_id>/live/", "live", partial(page.show_live, self)),
        ]
        return [
            *(
                path(route, self.admin_site.admin_view(view), name=f"orders_order_{name}")
                for route, name, view in views
            ),
            *super().get_urls(),
        ]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return place.place_order(self, request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return page.show_order(self, request, object_id)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return confirm.list_bulk_actions(self, request)

    def render_page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        """A page of this admin, in the frame of the stock admin."""
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "subtitle": None,
            "media": self.media,
        }
        return TemplateResponse(request, f"admin/orders/order/{template}.html", {**frame, **context})
