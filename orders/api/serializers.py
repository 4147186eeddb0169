"""What the API reads and answers. Types are checked here; what may be ordered is the service's business."""

from typing import Any

from django.conf import settings
from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.reverse import reverse

from inventory.models import Product
from orders import previews, selectors
from orders.models import Order, OrderLine
from orders.permissions import SEE_FLAGS, SEE_OUTBOX, SEE_PAYMENTS
from orders.selectors import TrailStep
from orders.services import MAX_QUANTITY
from payments.models import Payment


class TextField(serializers.CharField):
    """A JSON string and nothing else: DRF would take numbers, too."""

    def run_validation(self, data: Any = empty) -> Any:
        if data is not empty and data is not None and not isinstance(data, str):
            self.fail("invalid")
        return super().run_validation(data)


class EmailField(TextField, serializers.EmailField):
    pass


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


class ItemSerializer(StrictSerializer):
    sku = TextField(max_length=40)
    quantity = WholeNumberField(min_value=1, max_value=MAX_QUANTITY)


class PlaceOrderSerializer(StrictSerializer):
    customer_email = EmailField(max_length=254)
    items = ItemSerializer(many=True, allow_empty=False)
    payment_token = TextField(max_length=200, required=False, default="", allow_blank=True)


class CancelSerializer(StrictSerializer):
    reason = TextField(max_length=1000)


class ProductSerializer(serializers.ModelSerializer[Product]):
    currency = serializers.SerializerMethodField()
    available = serializers.SerializerMethodField()

    class Meta:
        model = Product
        fields = ["sku", "name", "description", "price", "currency", "available"]

    def get_currency(self, product: Product) -> str:
        return settings.SHOP_CURRENCY

    def get_available(self, product: Product) -> int:
        stock = getattr(product, "stock", None)
        return stock.available if stock else 0


class LineSerializer(serializers.ModelSerializer[OrderLine]):
    amount = serializers.DecimalField(max_digits=16, decimal_places=2)

    class Meta:
        model = OrderLine
        fields = ["sku", "name", "quantity", "unit_price", "amount"]


class PaymentSerializer(serializers.ModelSerializer[Payment]):
    class Meta:
        model = Payment
        fields = ["state", "amount", "currency"]


class TrailStepSerializer(serializers.Serializer[TrailStep]):
    name = serializers.CharField()
    kind = serializers.CharField()
    status = serializers.CharField()
    attempts = serializers.IntegerField()
    ms = serializers.IntegerField(allow_null=True)
    error = serializers.CharField()
    started_at = serializers.DateTimeField()


class OrderSerializer(serializers.ModelSerializer[Order]):
    """An order with its trail, as `selectors.list_orders` reads it. The payment is for who placed the order
    and who may see payments; why it needs attention is for staff who may see that in the admin."""

    cancel_requested = serializers.SerializerMethodField()
    cancel_awaits_approval = serializers.SerializerMethodField()
    needs_attention = serializers.BooleanField(source="attention")
    attention_reasons = serializers.SerializerMethodField()
    lines = LineSerializer(many=True)
    payment = serializers.SerializerMethodField()
    trail = serializers.SerializerMethodField()
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
            "cancel_requested",
            "cancel_awaits_approval",
            "rolled_back_at",
            "failed_step",
            "failure",
            "needs_attention",
            "attention_reasons",
            "lines",
            "payment",
            "trail",
            "links",
        ]

    def get_cancel_requested(self, order: Order) -> bool:
        return order.cancel_requested_at is not None

    def get_cancel_awaits_approval(self, order: Order) -> bool:
        return previews.find_open_request(order) is not None

    def get_attention_reasons(self, order: Order) -> list[str]:
        may_see = self.context["request"].user.has_perms([SEE_FLAGS, SEE_OUTBOX])
        return selectors.list_attention_reasons(order) if may_see else []

    def get_payment(self, order: Order) -> dict[str, Any] | None:
        user = self.context["request"].user
        may_see = order.placed_by_id == user.pk or user.has_perm(SEE_PAYMENTS)
        payment = getattr(order, "payment", None)
        return PaymentSerializer(payment).data if payment and may_see else None

    def get_trail(self, order: Order) -> list[dict[str, Any]]:
        return [TrailStepSerializer(step).data for step in selectors.summarise_trail(order.trail.all())]

    def get_links(self, order: Order) -> dict[str, str]:
        request = self.context["request"]
        return {
            "self": reverse("api-order", args=[order.pk], request=request),
            "cancel": reverse("api-order-cancel", args=[order.pk], request=request),
        }
