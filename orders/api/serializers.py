"""What the API reads and answers. Types are checked here; what may be ordered is the service's business."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.fields import empty

from inventory.models import Product
from notifications.models import EmailKind, EmailState
from orders.models import Order, OrderStatus, StepKind, StepState
from orders.reports import OrderReport, Progress, Step
from orders.services import MAX_LINES, MAX_QUANTITY
from payments.models import PaymentState


class TextField(serializers.CharField):
    """A JSON string and nothing else: DRF would take numbers, too."""

    def run_validation(self, data: Any = empty) -> Any:
        if data is not empty and data is not None and not isinstance(data, str):
            self.fail("invalid")
        return super().run_validation(data)


class EmailField(TextField, serializers.EmailField):
    pass


@extend_schema_field({"type": "string", "maxLength": 200, "pattern": "^[ -~]*$"})
class TokenField(TextField):
    """Printable ASCII, which the service checks."""


class WholeNumberField(serializers.IntegerField):
    """A JSON integer and nothing else: DRF would take "2" and 2.0, too."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses what it does not know: a field with a slip in its name must not pass for a missing one."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(self.fields)
            raise serializers.ValidationError(
                {name: [f"There is no such field; there are {known}."] for name in unknown}
            )
        return super().to_internal_value(data)


# --- what is sent ----------------------------------------------------------------------------------------


class ItemSerializer(StrictSerializer):
    """A product and how many of it."""

    sku = TextField(max_length=40, help_text="Of a product that is sold: see the products.")
    quantity = WholeNumberField(min_value=1, max_value=MAX_QUANTITY)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "Two mugs",
            value={"customer_email": "ada@example.com", "items": [{"sku": "MUG-STONE", "quantity": 2}]},
            request_only=True,
        )
    ]
)
class PlaceOrderSerializer(StrictSerializer):
    """What is ordered, and for whom. Prices are the shop's, frozen when it accepts the order."""

    customer_email = EmailField(max_length=254, help_text="Where the mails about the order go. ASCII only.")
    items = ItemSerializer(  # type: ignore[call-arg]
        many=True,
        allow_empty=False,
        max_length=MAX_LINES,
        help_text="Items of the same SKU are added up.",
    )
    payment_token = TokenField(
        max_length=200,
        required=False,
        default="",
        allow_blank=True,
        help_text="The payment gateway's token for the card; never card data. Empty: the shop's default.",
    )


class CancelOrderSerializer(StrictSerializer):
    """A wish to cancel."""

    reason = TextField(max_length=1000, help_text="Why; the shop's staff read it.")


# --- what is answered ------------------------------------------------------------------------------------


class ProductSerializer(serializers.ModelSerializer[Product]):
    currency = serializers.SerializerMethodField(help_text="ISO 4217.")
    available = serializers.SerializerMethodField(help_text="Units nobody has reserved; 0 when sold out.")

    class Meta:
        model = Product
        fields = ["sku", "name", "description", "price", "currency", "available"]

    def get_currency(self, product: Product) -> str:
        return settings.SHOP_CURRENCY

    def get_available(self, product: Product) -> int:
        stock = getattr(product, "stock", None)
        return stock.available if stock else 0


class LineSerializer(serializers.Serializer[Any]):
    sku = serializers.CharField()
    name = serializers.CharField(help_text="As it was when the order was accepted.")
    quantity = serializers.IntegerField()
    unit_price = serializers.DecimalField(max_digits=10, decimal_places=2)
    amount = serializers.DecimalField(max_digits=16, decimal_places=2)


class PaymentSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(PaymentState.choices)
    amount = serializers.DecimalField(max_digits=12, decimal_places=2)
    currency = serializers.CharField()


class MailSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(EmailKind.choices)
    state = serializers.ChoiceField(EmailState.choices)
    sent_at = serializers.DateTimeField(allow_null=True)


class StepSerializer(serializers.Serializer[Step]):
    name = serializers.CharField(help_text="For example `process_payment`, or its undo `refund_payment`.")
    kind = serializers.ChoiceField(StepKind.choices)
    status = serializers.ChoiceField(StepState.choices, source="state")
    attempts = serializers.IntegerField()
    ms = serializers.IntegerField(allow_null=True, help_text="How long the last attempt took.")
    error = serializers.CharField(help_text="Why the last attempt failed; empty when it did not.")
    started_at = serializers.DateTimeField(help_text="When the first attempt began.")


class OrderLinksSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()
    trail = serializers.URLField()
    cancel = serializers.URLField()


def link_to(context: Mapping[str, Any], name: str, order_id: object) -> str:
    """The absolute address of a page of an order."""
    address: str = context["request"].build_absolute_uri(reverse(name, args=[order_id]))
    return address


def build_links(context: Mapping[str, Any], order_id: object) -> dict[str, str]:
    """What can be asked of an order, by name."""
    return {
        "self": link_to(context, "api-order", order_id),
        "trail": link_to(context, "api-order-trail", order_id),
        "cancel": link_to(context, "api-order-cancel", order_id),
    }


class OrderRowSerializer(serializers.ModelSerializer[Order]):
    """An order as a row of a list: without lines, payment, mails and trail, which are at `links.self`."""

    status = serializers.ChoiceField(OrderStatus.choices)
    cancel_requested = serializers.SerializerMethodField(help_text="Whether somebody has asked to cancel it.")
    needs_attention = serializers.BooleanField(
        source="attention", help_text="Whether the shop's staff must look at it."
    )
    links = serializers.SerializerMethodField()

    class Meta:
        model = Order
        fields = [
            "id",
            "number",
            "customer_email",
            "status",
            "currency",
            "total",
            "accepted_at",
            "completed_at",
            "shipped_at",
            "rolled_back_at",
            "cancel_requested",
            "needs_attention",
            "links",
        ]

    def get_cancel_requested(self, order: Order) -> bool:
        return order.cancel_requested_at is not None

    @extend_schema_field(OrderLinksSerializer)
    def get_links(self, order: Order) -> dict[str, str]:
        return build_links(self.context, order.pk)


class OrderSerializer(serializers.Serializer[OrderReport]):
    """An order with its lines, payment, mails and trail."""

    id = serializers.UUIDField(source="order.id")
    number = serializers.IntegerField(source="order.number", help_text="What people call it by.")
    customer_email = serializers.EmailField(source="order.customer_email")
    status = serializers.ChoiceField(OrderStatus.choices, source="order.status")
    is_settled = serializers.BooleanField(
        source="progress.is_settled",
        help_text="Whether its saga has nothing left to do: it is complete, or all of it has been undone.",
    )
    currency = serializers.CharField(source="order.currency", help_text="ISO 4217.")
    total = serializers.DecimalField(max_digits=12, decimal_places=2, source="order.total")
    accepted_at = serializers.DateTimeField(source="order.accepted_at")
    completed_at = serializers.DateTimeField(source="order.completed_at", allow_null=True)
    shipped_at = serializers.DateTimeField(source="order.shipped_at", allow_null=True)
    rolled_back_at = serializers.DateTimeField(source="order.rolled_back_at", allow_null=True)
    cancel_requested = serializers.BooleanField(
        source="progress.cancel_requested", help_text="Whether somebody has asked to cancel it."
    )
    failed_step = serializers.CharField(
        source="progress.failed_step", help_text="The step that made it roll back; empty when none did."
    )
    failure = serializers.CharField(
        source="progress.failure", help_text="Why it is rolled back; empty when it is not."
    )
    needs_attention = serializers.BooleanField(help_text="Whether the shop's staff must look at it.")
    lines = LineSerializer(many=True)
    payment = PaymentSerializer(allow_null=True, help_text="Null until it begins.")
    mails = MailSerializer(many=True)
    trail = StepSerializer(many=True, source="progress.steps")
    links = serializers.SerializerMethodField()

    @extend_schema_field(OrderLinksSerializer)
    def get_links(self, report: OrderReport) -> dict[str, str]:
        return build_links(self.context, report.order.pk)


class TrailLinksSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()
    order = serializers.URLField()


class TrailSerializer(serializers.Serializer[Progress]):
    """How far an order is: its status, and each step and undo with its state."""

    order = serializers.UUIDField(source="order_id")
    number = serializers.IntegerField()
    status = serializers.ChoiceField(OrderStatus.choices)
    is_settled = serializers.BooleanField(
        help_text="Whether the saga has nothing left to do: complete, or all of it has been undone."
    )
    cancel_requested = serializers.BooleanField()
    failed_step = serializers.CharField(help_text="The step that made it roll back; empty when none did.")
    failure = serializers.CharField(help_text="Why it is rolled back; empty when it is not.")
    trail = StepSerializer(many=True, source="steps")
    links = serializers.SerializerMethodField()

    @extend_schema_field(TrailLinksSerializer)
    def get_links(self, progress: Progress) -> dict[str, str]:
        return {
            "self": link_to(self.context, "api-order-trail", progress.order_id),
            "order": link_to(self.context, "api-order", progress.order_id),
        }


class ProblemErrorSerializer(serializers.Serializer[Any]):
    """One thing that is wrong, and where: one of `pointer`, `parameter` and `header` says so."""

    pointer = serializers.CharField(required=False, help_text="Into the body: a JSON pointer after `#`.")
    parameter = serializers.CharField(required=False, help_text="The query parameter.")
    header = serializers.CharField(required=False, help_text="The request's header.")
    detail = serializers.CharField()
    sku = serializers.CharField(required=False, help_text="Of a line that is short of stock.")
    available = serializers.IntegerField(required=False, help_text="How many units of it there are.")


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457. `type` is a stable URN, to tell problems by; docs/api.md lists them."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(allow_blank=True, help_text="For people: what to do about it.")
    instance = serializers.CharField(help_text="The address that was asked.")
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]
    request_id = serializers.CharField(required=False, help_text="With errors that are our fault.")
