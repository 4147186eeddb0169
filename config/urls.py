"""All URLs of the site."""

from django.contrib import admin
from django.urls import include, path

from orders.admin import front

urlpatterns = [
    # Before the admin's own, whose front page this one is.
    path("admin/", admin.site.admin_view(front.show_front_page)),
    path("admin/front/", admin.site.admin_view(front.show_live_part), name="front_live"),
    path("admin/", admin.site.urls),
    path("", include("orders.urls")),
]

handler400 = "orders.storefront.errors.show_bad_request"
handler403 = "orders.storefront.errors.show_forbidden"
handler404 = "orders.storefront.errors.show_not_found"
handler500 = "orders.storefront.errors.show_server_error"
