"""URLs of the API, version 1. The last slash is optional: orders/api/middleware.py."""

from django.urls import include, path, re_path

from orders.api import docs, views

urlpatterns = [
    path("products/", views.ProductListView.as_view(), name="api-products"),
    path("orders/", views.OrderListView.as_view(), name="api-orders"),
    path("orders/<uuid:order_id>/", views.OrderView.as_view(), name="api-order"),
    path("orders/<uuid:order_id>/trail/", views.OrderTrailView.as_view(), name="api-order-trail"),
    path("orders/<uuid:order_id>/cancel/", views.OrderCancelView.as_view(), name="api-order-cancel"),
    path("webhooks/", include("orders.api.webhooks")),
    path("schema/", docs.SchemaView.as_view(), name="api-schema"),
    path("docs/", docs.show_docs, name="api-docs"),
    re_path("", views.NowhereView.as_view()),
]
