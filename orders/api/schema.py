"""The OpenAPI description: what every operation of the API can answer, beside what its view says."""

from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.permissions import AllowAny
from rest_framework.serializers import ListSerializer

from orders.api import errors
from orders.api.errors import Kind
from orders.api.serializers import ProblemSerializer, StrictSerializer
from orders.models import OrderStatus

HEADER: Literal["header"] = "header"
PATH: Literal["path"] = "path"
QUERY: Literal["query"] = "query"


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme of KeyAuthentication."""

    target_class = "orders.api.authentication.KeyAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "odk_...",
            "description": "A key of a machine client. The shop's staff make it, and say what it may do.",
        }


# --- parameters ------------------------------------------------------------------------------------------

ORDER_ID = OpenApiParameter("order_id", OpenApiTypes.UUID, PATH, description="The order's `id`.")
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    HEADER,
    required=True,
    description="A new one for each order, the same for each repeat: for example a random UUID.",
    examples=[OpenApiExample("A UUID", value="8f14e45f-ceea-467f-a8f1-9d2b1f6f2a31")],
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", str, HEADER, description="The `ETag` of the answer you have: 304 while it is the same."
)
PREFER = OpenApiParameter(
    "Prefer",
    str,
    HEADER,
    description="`wait=N` (RFC 7240): wait for news for N seconds, 20 at most. Not heeded while many wait.",
    examples=[OpenApiExample("Ten seconds", value="wait=10")],
)
FILTERS = [
    OpenApiParameter(
        "status",
        {"type": "array", "items": {"type": "string", "enum": OrderStatus.values}, "minItems": 1},
        QUERY,
        description="One of these statuses: repeat it, or separate several with commas.",
        style="form",
        explode=False,
    ),
    OpenApiParameter(
        "accepted_after",
        OpenApiTypes.DATETIME,
        QUERY,
        description="Accepted at this moment or later. RFC 3339, with its offset.",
    ),
    OpenApiParameter(
        "accepted_before", OpenApiTypes.DATETIME, QUERY, description="Accepted before this moment."
    ),
    OpenApiParameter("customer_email", OpenApiTypes.EMAIL, QUERY, description="Exactly this address."),
    OpenApiParameter(
        "needs_attention", bool, QUERY, description="Whether the shop's staff must look at the order."
    ),
]

# --- headers and bodies of answers -----------------------------------------------------------------------


def _header(name: str, text: str, *codes: int, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, str, HEADER, description=text, response=list(codes) or True, **more)


ETAG = _header("ETag", "For If-None-Match.", 200, 304)
APPLIED = _header("Preference-Applied", "`wait=N`, when the wait was granted.", 200, 304)
PLACED_HEADERS = [
    _header("Location", "The order.", 202),
    _header("Idempotent-Replayed", "`true` when the order was placed by an earlier request.", 202),
]
TRAIL_HEADERS = [ETAG, APPLIED]
CANCELLED_LOCATION = _header("Location", "The order.", 202)
NOT_MODIFIED = OpenApiResponse(description="You have this answer already.")
PLACED = (
    "The order has been accepted, and its saga begins. A repeat with the same key gets this answer again, "
    "with `Idempotent-Replayed: true`."
)

ORDER = "https://shop.example/api/v1/orders/0b0d6d6c-9d0a-4d3e-8e0b-5f5ff0c1b0f2/"
ACCEPTED = OpenApiExample(
    "An order just accepted",
    response_only=True,
    value={
        "id": "0b0d6d6c-9d0a-4d3e-8e0b-5f5ff0c1b0f2",
        "number": 1042,
        "customer_email": "ada@example.com",
        "status": "pending",
        "is_settled": False,
        "currency": "EUR",
        "total": "29.00",
        "accepted_at": "2026-11-23T08:00:00.123456Z",
        "completed_at": None,
        "shipped_at": None,
        "rolled_back_at": None,
        "cancel_requested": False,
        "failed_step": "",
        "failure": "",
        "needs_attention": False,
        "lines": [
            {
                "sku": "MUG-STONE",
                "name": "Stoneware mug",
                "quantity": 2,
                "unit_price": "14.50",
                "amount": "29.00",
            }
        ],
        "payment": None,
        "mails": [],
        "trail": [],
        "links": {"self": ORDER, "trail": f"{ORDER}trail/", "cancel": f"{ORDER}cancel/"},
    },
)
EXAMPLES: dict[Kind, list[dict[str, Any]]] = {
    errors.INVALID_REQUEST: [{"pointer": "#/items/0/sku", "detail": "There is no product 'MUG' on sale."}],
    errors.SHORT_OF_STOCK: [
        {
            "pointer": "#/items/0/quantity",
            "detail": "20 asked for, 12 available.",
            "sku": "MUG-STONE",
            "available": 12,
        }
    ],
}
REQUEST_ID = {"schema": {"type": "string"}, "description": "Yours, or one made for it."}
CHALLENGE = {
    "WWW-Authenticate": {
        "schema": {"type": "string"},
        "description": "`Bearer realm=...`, and what is wrong with the key that was shown.",
    }
}
WAIT = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before a repeat."}}
# What passes by waiting says how long.
HEADERS: dict[Kind, dict[str, Any]] = {
    errors.NOT_AUTHENTICATED: CHALLENGE,
    errors.KEY_IN_USE: WAIT,
    errors.TOO_MANY_REQUESTS: WAIT,
    errors.UNAVAILABLE: WAIT,
}


class DeskSchema(AutoSchema):
    """Adds the problems that every operation can answer. A view adds its own by
    `problems = {"POST": [KIND, ...]}`."""

    def list_problems(self) -> list[Kind]:
        """What this operation can answer beside what its view documents."""
        kinds = [errors.MALFORMED, errors.INVALID_REQUEST, errors.HTTPS_REQUIRED, errors.NOT_ACCEPTABLE]
        kinds += [errors.TOO_MANY_REQUESTS, errors.SERVER_ERROR, errors.UNAVAILABLE]
        if self.view.get_authenticators():
            kinds.append(errors.NOT_AUTHENTICATED)
        if not any(isinstance(permission, AllowAny) for permission in self.view.get_permissions()):
            kinds.append(errors.NOT_PERMITTED)
        if "{" in self.path:
            kinds.append(errors.NOT_FOUND)
        if self.method in ("POST", "PUT", "PATCH"):
            kinds += [errors.LENGTH_REQUIRED, errors.TOO_LARGE, errors.UNSUPPORTED_MEDIA_TYPE]
        own: list[Kind] = getattr(self.view, "problems", {}).get(self.method, [])
        return kinds + own

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        found: dict[str, Any] = super()._get_response_bodies(direction)
        if direction != "response":
            return found
        for answer in found.values():
            answer["description"] = answer["description"] or "What was asked for."
            answer.setdefault("headers", {})["X-Request-ID"] = REQUEST_ID
        by_status: dict[int, list[Kind]] = {}
        for kind in sorted(self.list_problems(), key=errors.KINDS.index):
            by_status.setdefault(kind.status, []).append(kind)
        for status, kinds in by_status.items():
            found.setdefault(str(status), self._refer_to(kinds))
        return dict(sorted(found.items()))

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> dict[str, Any]:
        found: dict[str, Any] = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]
        if isinstance(serializer, StrictSerializer):
            found["additionalProperties"] = False
            for name, field in serializer.fields.items():
                if isinstance(field, ListSerializer):
                    limits = {
                        "minItems": 0 if field.allow_empty else 1,
                        "maxItems": getattr(field, "max_length", None),
                    }
                    found["properties"][name] |= limits
        return found

    def _refer_to(self, kinds: list[Kind]) -> dict[str, str]:
        """A reference to the answer with these problems, which is described once for all operations."""
        name = "Or".join(kind.slug.title().replace("-", "") for kind in kinds)
        headers: dict[str, Any] = {}
        for kind in kinds:
            headers |= HEADERS.get(kind, {})
        described = {
            "description": "; or ".join(f"{kind.title} (`{kind.slug}`)" for kind in kinds) + ".",
            "headers": {**headers, "X-Request-ID": REQUEST_ID},
            "content": {
                errors.CONTENT_TYPE: {
                    "schema": self.resolve_serializer(ProblemSerializer, "response").ref,
                    "examples": {kind.slug: {"value": give_example(kind)} for kind in kinds},
                }
            },
        }
        component = ResolvedComponent(  # type: ignore[no-untyped-call]
            name=name, type=ResolvedComponent.RESPONSE, schema=described, object=name
        )
        self.registry.register_on_missing(component)
        reference: dict[str, str] = component.ref
        return reference


def give_example(kind: Kind) -> dict[str, Any]:
    """A problem of that kind."""
    problem = errors.build_problem(kind, f"{kind.title}.", errors=EXAMPLES.get(kind))
    if kind is errors.SERVER_ERROR:
        problem |= {"detail": "This is our fault; it has been logged as request 5c1f.", "request_id": "5c1f"}
    return {**problem, "instance": "/api/v1/orders/"}


def list_paths(endpoints: list[Any]) -> list[Any]:
    """Preprocessing hook: the API and nothing else."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith("/api/v1/")]
