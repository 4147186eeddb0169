"""Admin of webhook endpoints: the list, the page of one, and adding, disabling and enabling."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime, now
from django.views.decorators.debug import sensitive_variables

from config.admin import ReadOnlyAdmin, lay_out
from orders.models import ApiClient, DisabledBy, WebhookEndpoint, WebhookEvent
from orders.permissions import ADD_ENDPOINT, CHANGE_ENDPOINT, SEE_DELIVERIES
from orders.refusals import StateConflict
from orders.webhooks import registry, selectors
from orders.webhooks.registry import EndpointConflict
from orders.webhooks.targets import MAX_LENGTH, BadTarget

MAX_ROWS = 20
LIST = "admin:orders_webhookendpoint_changelist"
PAGE = "admin:orders_webhookendpoint_change"


class EndpointForm(forms.Form):
    client = forms.ModelChoiceField(
        ApiClient.objects.filter(is_active=True), help_text="Whose orders it is told of."
    )
    url = forms.CharField(
        label="URL",
        max_length=MAX_LENGTH,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false", "inputmode": "url"}),
        help_text="Where the client is to be told: https://, and a name or address on the public internet.",
    )
    events = forms.MultipleChoiceField(
        choices=WebhookEvent.choices,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one: otherwise nothing would ever be sent."},
    )


class DisableForm(forms.Form):
    because = forms.CharField(
        label="Why",
        max_length=300,
        widget=AdminTextareaWidget(attrs={"rows": 2}),
        help_text="The client can read it.",
    )


class LiveFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Live"), ("0", "Disabled")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() not in ("0", "1"):
            return queryset
        return queryset.filter(disabled_at__isnull=self.value() == "1")


def name_moment(moment: datetime) -> str:
    """A moment as people read it."""
    return date_format(localtime(moment), "j M Y, H:i")


class EndpointAdmin(ReadOnlyAdmin):
    """Endpoints are added for a client, disabled and enabled. What an endpoint is told, and where, is never
    changed: whoever wants it otherwise registers another. Nobody sees a secret after it was made."""

    list_display = ["url", "client", "told", "state", "created_at"]
    list_filter = [LiveFilter]
    list_select_related = ["client"]
    list_per_page = 50
    search_fields = ["url", "client__name"]
    search_help_text = "URL or client"
    ordering = ["-created_at"]
    show_facets = admin.ShowFacets.NEVER
    readonly_fields = ["told", "state", "ended", "rotated"]
    change_form_template = "admin/orders/webhookendpoint/change_form.html"

    class Media:
        css = {"all": ["orders/webhooks.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(ADD_ENDPOINT)

    @admin.display(description="events")
    def told(self, endpoint: WebhookEndpoint) -> str:
        return ", ".join(WebhookEvent(event).label for event in endpoint.events)

    @admin.display(description="state", ordering="disabled_at")
    def state(self, endpoint: WebhookEndpoint) -> SafeString:
        state = "disabled" if endpoint.disabled_at else "live"
        return format_html('<span class="od-badge hook-{}">{}</span>', state, state)

    @admin.display(description="disabled")
    def ended(self, endpoint: WebhookEndpoint) -> str | None:
        if endpoint.disabled_at is None:
            return None
        by = DisabledBy(endpoint.disabled_by).label
        return f"{name_moment(endpoint.disabled_at)} by {by}: {endpoint.disabled_because}"

    @admin.display(description="old secret")
    def rotated(self, endpoint: WebhookEndpoint) -> str | None:
        old = endpoint.list_old_secrets(now())
        return f"signs beside the new one until {name_moment(old[0][1])}" if old else None

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What there is to say of it."""
        fields = ["client", "url", "told", "created_at", "state"]
        if obj and obj.disabled_at:
            fields.append("ended")
        if obj and obj.list_old_secrets(now()):
            fields.append("rotated")
        return fields

    def get_urls(self) -> list[URLPattern]:
        views: list[tuple[str, Callable[..., HttpResponse]]] = [
            ("disable", partial(switch_endpoint, self, disable=True)),
            ("enable", partial(switch_endpoint, self, disable=False)),
        ]
        return [
            *(
                path(
                    f"<uuid:endpoint_id>/{name}/",
                    self.admin_site.admin_view(view),
                    name=f"orders_webhookendpoint_{name}",
                )
                for name, view in views
            ),
            *super().get_urls(),
        ]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return add_endpoint(self, request)

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **options: Any
    ) -> HttpResponse:
        """The stock page, with what was sent there of late."""
        if (endpoint := options.get("obj")) is not None:
            sees = request.user.has_perm(SEE_DELIVERIES)
            context |= {
                "title": "Webhook endpoint",
                "subtitle": None,
                "endpoint": endpoint,
                "switches": request.user.has_perm(CHANGE_ENDPOINT),
                "is_deleted": endpoint.disabled_by == DisabledBy.CLIENT,
                "sees_deliveries": sees,
                "deliveries": selectors.list_last_deliveries(endpoint, limit=MAX_ROWS) if sees else [],
                "max_rows": MAX_ROWS,
            }
        return super().render_change_form(request, context, *args, **options)

    def render_page(self, request: HttpRequest, page: str, context: dict[str, Any]) -> HttpResponse:
        """A page of this admin, in the frame of the stock admin, kept by no browser: it may hold a secret."""
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "subtitle": None,
            "media": self.media,
        }
        response = TemplateResponse(
            request, f"admin/orders/webhookendpoint/{page}.html", {**frame, **context}
        )
        response["Cache-Control"] = "no-store"
        return response


@sensitive_variables("endpoint")
def add_endpoint(admin: EndpointAdmin, request: HttpRequest) -> HttpResponse:
    """Ask for client, address and events, and register it. The answer to the form is the only page that has
    the secret."""
    if not admin.has_add_permission(request):
        raise PermissionDenied
    form = EndpointForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            with transaction.atomic():
                endpoint = registry.register_endpoint(**form.cleaned_data)
                admin.log_addition(request, endpoint, f"Registered for {endpoint.client}.")
        except (BadTarget, EndpointConflict) as refusal:
            form.add_error("url", str(refusal))
        else:
            made = {"title": "The new endpoint's secret", "endpoint": endpoint, "secret": endpoint.secret}
            return admin.render_page(request, "made", made)
    context = {"title": "Add a webhook endpoint", "adminform": lay_out(form), "errors": form.errors}
    return admin.render_page(request, "add", context)


def switch_endpoint(
    admin: EndpointAdmin, request: HttpRequest, endpoint_id: UUID, *, disable: bool
) -> HttpResponse:
    """Say what disabling or enabling does, and do it once that is confirmed."""
    if not (admin.has_view_permission(request) and request.user.has_perm(CHANGE_ENDPOINT)):
        raise PermissionDenied
    endpoint = WebhookEndpoint.objects.select_related("client").filter(pk=endpoint_id).first()
    if endpoint is None:
        raise Http404("There is no such endpoint.")
    form = DisableForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and (not disable or form.is_valid()):
        _switch(admin, request, endpoint, form.cleaned_data["because"] if disable else None)
        return HttpResponseRedirect(reverse(PAGE, args=[endpoint.pk]))
    context = {
        "title": f"{'Disable' if disable else 'Enable'} a webhook endpoint",
        "endpoint": endpoint,
        "disable": disable,
        "waiting": selectors.count_waiting(endpoint.pk) if disable else 0,
        "adminform": lay_out(form) if disable else None,
        "errors": form.errors if disable else None,
    }
    return admin.render_page(request, "switch", context)


def _switch(
    admin: EndpointAdmin, request: HttpRequest, endpoint: WebhookEndpoint, because: str | None
) -> None:
    """Disable it for the reason, or enable it if there is none; and say what came of it."""
    try:
        with transaction.atomic():
            if because is None:
                changed = registry.enable_endpoint(endpoint_id=endpoint.pk)
                done = "Enabled."
            else:
                changed = registry.disable_endpoint(
                    endpoint_id=endpoint.pk, by=DisabledBy.STAFF, because=because
                )
                done = f"Disabled: {because}"
            if changed:
                admin.log_change(request, endpoint, done)
    except StateConflict as conflict:
        messages.error(request, str(conflict))
        return
    if changed:
        messages.success(request, f"{endpoint}: {done}")
    else:
        messages.info(request, f"{endpoint}: nothing was done; it was done before.")
