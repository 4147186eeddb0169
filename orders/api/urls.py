"""URLs of the API, version 1."""

from django.urls import path, re_path

from orders.api import views

urlpatterns = [
    path("products/", views.ProductListView.as_view(), name="api-products"),
    path("orders/", views.OrderListView.as_view(), name="api-orders"),
    path("orders/<uuid:order_id>/", views.OrderView.as_view(), name="api-order"),
    path("orders/<uuid:order_id>/cancel/", views.OrderCancelView.as_view(), name="api-order-cancel"),
    re_path("", views.NowhereView.as_view()),
]
