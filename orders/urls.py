"""URLs of the site's pages."""

from django.urls import include, path
from django.views.generic import RedirectView

from orders import views

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("api/v1/", include("orders.api.urls")),
    path("healthz", views.report_health, name="healthz"),
    path("readyz", views.report_readiness, name="readyz"),
]
