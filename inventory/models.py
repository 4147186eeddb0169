"""Products, stock, holds, and the append-only ledger that explains every number of them."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from orders.models import Order


class Product(models.Model):
    """Something the shop sells."""

    sku = models.CharField("SKU", max_length=40, unique=True)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True, default="")
    price = models.DecimalField(max_digits=10, decimal_places=2)
    is_active = models.BooleanField("on sale", default=True)
    low_stock_at = models.PositiveIntegerField(
        "low stock at",
        default=5,
        db_default=5,
        help_text="Needs attention once this many units or fewer are available.",
    )

    class Meta:
        ordering = ["sku"]
        constraints = [models.CheckConstraint(name="product_price_not_negative", condition=Q(price__gte=0))]
        permissions = [("adjust_stock", "Can book stock in and correct the count")]

    def __str__(self) -> str:
        return f"{self.sku} - {self.name}"


class StockItem(models.Model):
    """How much of a product is on hand, and how much of that is held for orders."""

    product = models.OneToOneField(Product, on_delete=models.PROTECT, related_name="stock")
    on_hand = models.IntegerField(default=0)
    reserved = models.IntegerField(default=0)
    available = models.GeneratedField(
        expression=F("on_hand") - F("reserved"), output_field=models.IntegerField(), db_persist=True
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="stock_reserved_within_on_hand", condition=Q(reserved__gte=0, reserved__lte=F("on_hand"))
            )
        ]

    def __str__(self) -> str:
        return f"{self.product_id}: {self.on_hand} on hand, {self.reserved} held"


class HoldState(models.TextChoices):
    HELD = "held"
    RELEASED = "released"
    SOLD = "sold"
    SETTLED_BY_HAND = "settled_by_hand"


class Hold(models.Model):
    """Stock reserved for one order. Unique per order and product: reserving twice is impossible."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="holds")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="holds")
    quantity = models.PositiveIntegerField()
    state = models.CharField(max_length=15, choices=HoldState, default=HoldState.HELD)

    class Meta:
        ordering = ["product__sku"]
        constraints = [
            models.UniqueConstraint(name="hold_once_per_order", fields=["order", "product"]),
            models.CheckConstraint(name="hold_quantity_positive", condition=Q(quantity__gt=0)),
            models.CheckConstraint(name="hold_state_known", condition=Q(state__in=HoldState.values)),
        ]
        indexes = [models.Index(fields=["product"], name="hold_open", condition=Q(state="held"))]

    def __str__(self) -> str:
        return f"{self.quantity} of {self.product_id} for {self.order_id}: {self.state}"


class MovementKind(models.TextChoices):
    RECEIVED = "received"
    ADJUSTED = "adjusted"
    RESERVED = "reserved"
    RELEASED = "released"
    SOLD = "sold"
    SETTLED_BY_HAND = "settled_by_hand"


class StockMovement(models.Model):
    """One signed change of stock. Append-only: the database refuses changes. The sums equal the stock."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="movements")
    order = models.ForeignKey(
        Order, on_delete=models.PROTECT, related_name="stock_movements", null=True, blank=True
    )
    kind = models.CharField(max_length=15, choices=MovementKind)
    on_hand_change = models.IntegerField(default=0)
    reserved_change = models.IntegerField(default=0)
    note = models.CharField(max_length=200, blank=True, default="")
    # Who booked it; empty for what a saga did.
    actor = models.CharField(max_length=200, blank=True, default="", db_default="")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                name="movement_signs",
                condition=(
                    Q(kind="received", on_hand_change__gt=0, reserved_change=0)
                    | Q(kind="adjusted", reserved_change=0)
                    | Q(kind="reserved", on_hand_change=0, reserved_change__gt=0)
                    | Q(kind__in=["released", "settled_by_hand"], on_hand_change=0, reserved_change__lt=0)
                    | Q(kind="sold", on_hand_change__lt=0, reserved_change=F("on_hand_change"))
                ),
            ),
            models.UniqueConstraint(
                name="movement_once_per_order", fields=["order", "product", "kind"], condition=~Q(order=None)
            ),
        ]

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.product_id}: {self.on_hand_change:+d} on hand, {self.reserved_change:+d} held"
        )
