"""Admin of the API's clients: the list, and the page of one with its keys."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from config.admin import ReadOnlyAdmin
from orders import clients
from orders.admin import keys
from orders.admin.lists import show_moment
from orders.models import ApiClient
from orders.permissions import ADD_KEY, REVOKE_KEY, SEE_KEYS

MAX_PER_MINUTE = 1_000_000


def name_limit(per_minute: int) -> str:
    """A number of requests a minute as people read it."""
    return f"{per_minute:,} a minute" if per_minute else "no limit"


class ClientForm(forms.ModelForm):  # type: ignore[type-arg]
    requests_per_minute = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_PER_MINUTE,
        label="Requests a minute",
        help_text="Of all its keys together; it may spend them all at once. Empty: what the setting "
        f"API_REQUESTS_PER_MINUTE says, now {name_limit(settings.API_REQUESTS_PER_MINUTE)}.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
    )

    def clean_name(self) -> str:
        try:
            return clients.clean_name(self.cleaned_data["name"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class ClientAdmin(ReadOnlyAdmin):
    """Clients are added, changed and switched off. None is deleted: orders point at them."""

    form = ClientForm
    fields = ["name", "is_active", "requests_per_minute"]
    list_display = ["name", "state_badge", "valid_keys", "per_minute", "last_used", "since"]
    list_filter = ["is_active"]
    search_fields = ["name"]
    search_help_text = "Name"
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    empty_value_display = ""
    change_form_template = "admin/orders/apiclient/change_form.html"

    class Media:
        css = {"all": ["orders/clients.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiClient]:
        return clients.list_clients()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.add_apiclient")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("orders.change_apiclient")

    @admin.display(description="state", ordering="is_active")
    def state_badge(self, client: ApiClient) -> SafeString:
        state = "active" if client.is_active else "off"
        return format_html('<span class="od-badge client-{}">{}</span>', state, state)

    @admin.display(description="valid keys", ordering="valid_keys")
    def valid_keys(self, client: Any) -> int:
        return int(client.valid_keys)

    @admin.display(description="limit", ordering="requests_per_minute")
    def per_minute(self, client: ApiClient) -> str:
        if client.requests_per_minute:
            return name_limit(client.requests_per_minute)
        return f"{name_limit(settings.API_REQUESTS_PER_MINUTE)} (as all)"

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, client: Any) -> SafeString | str:
        return show_moment(client.last_used_at) if client.last_used_at else "never"

    @admin.display(description="added", ordering="created_at")
    def since(self, client: ApiClient) -> SafeString:
        return show_moment(client.created_at)

    def get_urls(self) -> list[URLPattern]:
        views: list[tuple[str, str, Callable[..., HttpResponse]]] = [
            ("<int:client_id>/keys/add/", "add_key", partial(keys.add_key, self)),
            ("<int:client_id>/keys/<int:key_id>/revoke/", "revoke_key", partial(keys.revoke_key, self)),
        ]
        return [
            *(
                path(route, self.admin_site.admin_view(view), name=f"orders_apiclient_{name}")
                for route, name, view in views
            ),
            *super().get_urls(),
        ]

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        """To the new client's page, because it can do nothing yet."""
        if {"_addanother", "_continue"} & set(request.POST):
            return super().response_add(request, obj, post_url_continue)
        messages.success(request, f"{obj} is added. It needs a key before it can ask for anything.")
        if not self.has_view_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        return HttpResponseRedirect(reverse("admin:orders_apiclient_change", args=[obj.pk]))

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **options: Any
    ) -> HttpResponse:
        """The stock form, with the client's keys below it."""
        if (client := options.get("obj")) is not None:
            sees_keys = request.user.has_perm(SEE_KEYS)
            context |= {
                "title": str(client),
                "subtitle": None,
                "client": client,
                "sees_keys": sees_keys,
                "adds_keys": request.user.has_perm(ADD_KEY),
                "revokes_keys": request.user.has_perm(REVOKE_KEY),
                "keys": [(key, keys.name_scopes(key)) for key in clients.list_keys(client)]
                if sees_keys
                else [],
            }
        return super().render_change_form(request, context, *args, **options)
