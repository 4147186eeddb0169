"""URLs of the site's pages."""

from django.urls import include, path

from orders import views

urlpatterns = [
    path("", include("orders.storefront.urls")),
    path("api/v1/", include("orders.api.urls")),
    path("healthz", views.report_health, name="healthz"),
    path("readyz", views.report_readiness, name="readyz"),
]
