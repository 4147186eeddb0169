"""The shop's addresses."""

from django.urls import path

from orders.links import ORDER_PATH
from orders.storefront import checkout, order, views

app_name = "shop"

ORDER = ORDER_PATH.format(signed="<str:signed>")

urlpatterns = [
    path("", views.show_catalogue, name="catalogue"),
    path("cart/", views.show_cart, name="cart"),
    path("cart/add/", views.add_to_cart, name="add"),
    path("cart/adjust/", views.adjust_cart, name="adjust"),
    path("checkout/", checkout.check_out, name="checkout"),
    path(ORDER, order.show_order, name="order"),
    path(f"{ORDER}live/", order.show_live, name="order_live"),
    path(f"{ORDER}cancel/", order.cancel_order, name="order_cancel"),
]
