"""Webhooks by API: a client registers its addresses, sees and deletes them, and changes their secrets."""

from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from orders.api import errors
from orders.api.authentication import get_client
from orders.api.serializers import StrictSerializer, TextField
from orders.models import DisabledBy, Scope, WebhookEndpoint, WebhookEvent
from orders.webhooks import registry
from orders.webhooks.targets import MAX_LENGTH, BadTarget

TAGS = ["Webhooks"]
# What holds a secret is kept by nobody on the way.
NOT_KEPT = {"Cache-Control": "no-store"}
WEBHOOK_ID = OpenApiParameter(
    "webhook_id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The webhook's `id`."
)
LOCATION = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, description="The webhook.", response=[201]
)


class RegisterWebhookSerializer(StrictSerializer):
    url = TextField(
        max_length=MAX_LENGTH, help_text="Where to send: https://, a public address, no user name, no #."
    )
    events = serializers.ListField(
        child=serializers.ChoiceField(WebhookEvent.choices), min_length=1, max_length=len(WebhookEvent)
    )


class WebhookSerializer(serializers.ModelSerializer[WebhookEndpoint]):
    events = serializers.ListField(child=serializers.ChoiceField(WebhookEvent.choices))
    disabled_because = serializers.CharField(
        help_text="Why nothing is sent there any more; empty while it is."
    )

    class Meta:
        model = WebhookEndpoint
        fields = ["id", "url", "events", "created_at", "disabled_at", "disabled_because"]
        read_only_fields = fields


class WebhookWithSecretSerializer(WebhookSerializer):
    secret = serializers.CharField(help_text="What signs. Keep it: it is not shown again.")

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "secret"]
        read_only_fields = fields


class WebhookListSerializer(serializers.Serializer[Any]):
    results = WebhookSerializer(many=True)


def _find_endpoint(request: Request, webhook_id: UUID) -> WebhookEndpoint:
    """The client's endpoint, or 404: also when it is another client's, or deleted."""
    return get_object_or_404(registry.list_client_endpoints(get_client(request)), pk=webhook_id)


class WebhookListView(APIView):
    scopes = {"GET": Scope.WEBHOOKS, "POST": Scope.WEBHOOKS}
    problems = {"POST": [errors.STATE_CONFLICT]}

    @extend_schema(
        operation_id="list_webhooks",
        summary="List your webhooks",
        tags=TAGS,
        responses=WebhookListSerializer,
    )
    def get(self, request: Request) -> Response:
        """Yours, the live ones and the newest first: also those that their receiver or the shop has ended."""
        endpoints = registry.list_client_endpoints(get_client(request))[: registry.MAX_SHOWN]
        return Response(WebhookListSerializer({"results": endpoints}).data)

    @extend_schema(
        operation_id="register_webhook",
        summary="Register a webhook",
        tags=TAGS,
        parameters=[LOCATION],
        request=RegisterWebhookSerializer,
        responses={
            201: OpenApiResponse(
                WebhookWithSecretSerializer, description="It is registered. The secret is shown this once."
            )
        },
    )
    def post(self, request: Request) -> Response:
        """Has the events of your orders sent to an address of yours, signed. A name is looked up at each
        delivery and not now, so 201 does not say that it can be reached. At most ten at a time, each
        address once, and none that the shop has disabled: 409 otherwise."""
        serializer = RegisterWebhookSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            endpoint = registry.register_endpoint(client=get_client(request), **serializer.validated_data)
        except BadTarget as refusal:
            raise ValidationError({"url": [str(refusal)]}) from refusal
        location = reverse("api-webhook", args=[endpoint.pk], request=request)
        return Response(
            WebhookWithSecretSerializer(endpoint).data,
            status=status.HTTP_201_CREATED,
            headers={"Location": location, **NOT_KEPT},
        )


class WebhookView(APIView):
    scopes = {"GET": Scope.WEBHOOKS, "DELETE": Scope.WEBHOOKS}
    problems = {"DELETE": [errors.STATE_CONFLICT]}

    @extend_schema(
        operation_id="read_webhook",
        summary="Read a webhook",
        tags=TAGS,
        parameters=[WEBHOOK_ID],
        responses=WebhookSerializer,
    )
    def get(self, request: Request, webhook_id: UUID) -> Response:
        """Without its secret."""
        return Response(WebhookSerializer(_find_endpoint(request, webhook_id)).data)

    @extend_schema(
        operation_id="delete_webhook",
        summary="Delete a webhook",
        tags=TAGS,
        parameters=[WEBHOOK_ID],
        responses={204: OpenApiResponse(description="It is deleted.")},
    )
    def delete(self, request: Request, webhook_id: UUID) -> Response:
        """Nothing is sent there any more; what waits to be sent is withdrawn. One that the shop has disabled
        stays: 409."""
        endpoint = _find_endpoint(request, webhook_id)
        registry.disable_endpoint(
            endpoint_id=endpoint.pk, by=DisabledBy.CLIENT, because="The client has deleted it."
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class WebhookSecretView(APIView):
    scopes = {"POST": Scope.WEBHOOKS}
    problems = {"POST": [errors.STATE_CONFLICT]}

    @extend_schema(
        operation_id="rotate_webhook_secret",
        summary="Change a webhook's secret",
        tags=TAGS,
        parameters=[WEBHOOK_ID],
        request=None,
        responses=OpenApiResponse(
            WebhookWithSecretSerializer, description="The new secret, which is shown this once."
        ),
    )
    def post(self, request: Request, webhook_id: UUID) -> Response:
        """For 24 hours, what is sent is signed with the old secret, too, so that you can change over. Has the
        answer got lost, ask again: each secret before signs for its own 24 hours. Five of those at most: 409
        otherwise."""
        endpoint = registry.rotate_secret(endpoint_id=_find_endpoint(request, webhook_id).pk)
        return Response(WebhookWithSecretSerializer(endpoint).data, headers=NOT_KEPT)


urlpatterns = [
    path("", WebhookListView.as_view(), name="api-webhooks"),
    path("<uuid:webhook_id>/", WebhookView.as_view(), name="api-webhook"),
    path("<uuid:webhook_id>/rotate-secret/", WebhookSecretView.as_view(), name="api-webhook-secret"),
]
