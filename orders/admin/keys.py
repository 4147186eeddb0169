"""Making and revoking a client's API keys. A key is shown once: on the answer to the form that made it."""

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.forms.widgets import Script
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables

from config.admin import lay_out
from orders import clients
from orders.models import ApiClient, ApiKey, Scope
from orders.permissions import ADD_KEY, REVOKE_KEY

if TYPE_CHECKING:
    from orders.admin.clients import ClientAdmin

COPY = forms.Media(js=[Script("orders/copy.js", defer=True)])  # type: ignore[list-item]  # the stubs are older


class KeyForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Where it will be used, for example: web shop, production.",
    )
    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        help_text="No more than that program needs. It cannot be changed later: make another key instead.",
        error_messages={"required": "Choose at least one: a key that may do nothing is of no use."},
    )

    def clean_name(self) -> str:
        try:
            return clients.clean_name(self.cleaned_data["name"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


def name_scopes(key: ApiKey) -> str:
    """What the key may do, in words."""
    return ", ".join(Scope(scope).label for scope in key.scopes)


@sensitive_variables("made")
def add_key(admin: "ClientAdmin", request: HttpRequest, client_id: int) -> HttpResponse:
    """Ask what the key is for, and make it.

    The answer to the form is the only one that has the key: there is no address to come back to, and
    nothing of it in the session, a message or the history.
    """
    client = _find_client(admin, request, client_id, ADD_KEY)
    form = KeyForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _render(
            admin,
            request,
            client,
            "add_key",
            title="Create an API key",
            adminform=lay_out(form),
            errors=form.errors,
        )
    with transaction.atomic():
        made = clients.create_key(
            client=client,
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            created_by=cast("User", request.user),
        )
        what = name_scopes(made.key)
        admin.log_change(request, client, f"Made the API key {made.key} ({made.key.name}): {what}.")
    # What its scopes allow it to see; what is sold needs no key, but a wrong one is refused there, too.
    tried_at = reverse("api-orders" if Scope.READ in made.key.scopes else "api-products")
    return _render(
        admin,
        request,
        client,
        "key_made",
        title="The new API key",
        key=made.key,
        what=what,
        secret=made.secret,
        address=request.build_absolute_uri(tried_at),
        media=admin.media + COPY,
    )


def revoke_key(admin: "ClientAdmin", request: HttpRequest, client_id: int, key_id: int) -> HttpResponse:
    """Show which key it is and when it was used last, and revoke it once that is confirmed."""
    client = _find_client(admin, request, client_id, REVOKE_KEY)
    key = clients.list_keys(client).filter(pk=key_id).first()
    if key is None:
        raise Http404("The client has no such key.")
    if request.method != "POST":
        return _render(
            admin, request, client, "revoke_key", title="Revoke an API key", key=key, what=name_scopes(key)
        )
    with transaction.atomic():
        is_revoked = clients.revoke_key(key_id=key.pk, revoked_by=cast("User", request.user))
        if is_revoked:
            admin.log_change(request, client, f"Revoked the API key {key} ({key.name}).")
    if is_revoked:
        messages.success(request, f"The key {key} is revoked: it is refused from now on.")
    else:
        messages.info(request, f"The key {key} was revoked before.")
    return HttpResponseRedirect(reverse("admin:orders_apiclient_change", args=[client.pk]))


def _find_client(admin: "ClientAdmin", request: HttpRequest, client_id: int, permission: str) -> ApiClient:
    """The client, for who may do this to its keys. 404 if there is none."""
    if not (admin.has_view_permission(request) and request.user.has_perm(permission)):
        raise PermissionDenied
    client = ApiClient.objects.filter(pk=client_id).first()
    if client is None:
        raise Http404("There is no such client.")
    return client


def _render(
    admin: "ClientAdmin", request: HttpRequest, client: ApiClient, page: str, **context: Any
) -> HttpResponse:
    frame = {
        **admin.admin_site.each_context(request),
        "opts": admin.opts,
        "subtitle": None,
        "client": client,
        "media": admin.media,
    }
    response = TemplateResponse(request, f"admin/orders/apiclient/{page}.html", {**frame, **context})
    # Not in the browser's store either, from which a page comes back without being asked for.
    response["Cache-Control"] = "no-store"
    return response
