"""Orders and their lines."""

import uuid
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now


class OrderStatus(models.TextChoices):
    PENDING = "pending"
    CREATED = "created"
    COMPLETED = "completed"
    SHIPPED = "shipped"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


# The one table of allowed moves. Every move is a conditional UPDATE (orders.services.move_order).
ALLOWED_MOVES: dict[str, frozenset[str]] = {
    OrderStatus.PENDING: frozenset({OrderStatus.CREATED, OrderStatus.CANCELLING}),
    OrderStatus.CREATED: frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLING}),
    OrderStatus.COMPLETED: frozenset({OrderStatus.SHIPPED, OrderStatus.CANCELLING}),
    OrderStatus.CANCELLING: frozenset({OrderStatus.CANCELLED}),
    OrderStatus.SHIPPED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}

NEXT_NUMBER = models.Func(
    models.Value("orders_order_number_seq"), function="nextval", output_field=models.BigIntegerField()
)


_ADD = """
    INSERT INTO orders_order
        (id, customer_email, status, currency, total, payment_token, placed_by_id, client_id,
         failed_step, failure_type, failure)
    VALUES (%s, %s, 'pending', %s, %s, %s, %s, %s, '', '', '')
    ON CONFLICT (id) DO NOTHING
    RETURNING number, accepted_at
"""


class OrderQuerySet(models.QuerySet["Order"]):
    def with_attention(self) -> "OrderQuerySet":
        """Annotate `attention`: an open flag, or a message Temporal has not been told for too long."""
        # Here, because the tables of these point at this one's.
        from orders.models.outbox import OutboxMessage
        from orders.models.people import AttentionFlag

        overdue = OutboxMessage.objects.overdue().filter(order=models.OuterRef("pk"))
        raised = AttentionFlag.objects.filter(order=models.OuterRef("pk"), cleared_at=None)
        return self.annotate(attention=models.Exists(raised) | models.Exists(overdue))

    def add(self, order: "Order") -> bool:
        """Insert a new order, unless there is one of its id already. Returns whether it was inserted."""
        values: list[Any] = [
            order.pk,
            order.customer_email,
            order.currency,
            order.total,
            order.payment_token,
            order.placed_by_id,
            order.client_id,
        ]
        with connection.cursor() as cursor:
            cursor.execute(_ADD, values)
            row = cursor.fetchone()
        if row is None:
            return False
        order.number, order.accepted_at = row
        # As after save(): it is a stored one from here on.
        order._state.adding, order._state.db = False, self.db
        return True


class Order(models.Model):
    """What a customer buys. Prices and total are frozen when the order is accepted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.BigIntegerField(unique=True, editable=False, db_default=NEXT_NUMBER)
    customer_email = models.EmailField()
    status = models.CharField(max_length=10, choices=OrderStatus, default=OrderStatus.PENDING)
    currency = models.CharField(max_length=3)
    total = models.DecimalField(max_digits=12, decimal_places=2)
    # A gateway's token for the card; card data itself never enters.
    payment_token = models.CharField(max_length=200)
    placed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    # The machine client that placed it by the API; empty for orders of staff and of the storefront.
    client = models.ForeignKey(
        "orders.ApiClient",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="orders",
        db_index=False,  # order_by_client serves
    )
    accepted_at = models.DateTimeField(db_default=Now(), editable=False)
    completed_at = models.DateTimeField(null=True, blank=True)
    shipped_at = models.DateTimeField(null=True, blank=True)
    # A cancel that `complete_order` must lose to; who and why stand in the action it points at.
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    # Why the rollback began; empty until then.
    rollback_started_at = models.DateTimeField(null=True, blank=True)
    rolled_back_at = models.DateTimeField(null=True, blank=True)
    failed_step = models.CharField(max_length=60, blank=True, default="")
    failure_type = models.CharField(max_length=60, blank=True, default="")
    failure = models.TextField(blank=True, default="")

    objects = OrderQuerySet.as_manager()

    class Meta:
        ordering = ["-accepted_at", "-number"]
        constraints = [
            models.CheckConstraint(name="order_total_not_negative", condition=Q(total__gte=0)),
            models.CheckConstraint(name="order_status_known", condition=Q(status__in=OrderStatus.values)),
            models.CheckConstraint(
                name="order_rollback_has_a_start",
                condition=~Q(status__in=["cancelling", "cancelled"]) | Q(rollback_started_at__isnull=False),
            ),
            models.CheckConstraint(
                name="order_cancelled_has_an_end",
                condition=~Q(status="cancelled") | Q(rolled_back_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(fields=["status", "accepted_at"], name="order_by_status"),
            models.Index(fields=["-accepted_at", "-number"], name="order_newest_first"),
            models.Index(fields=["total"], name="order_by_total"),
            models.Index(
                fields=["-rollback_started_at"],
                name="order_rollbacks",
                condition=Q(rollback_started_at__isnull=False),
            ),
            models.Index(
                fields=["client", "-number"], name="order_by_client", condition=Q(client__isnull=False)
            ),
        ]
        permissions = [
            ("cancel_order", "Can cancel an order"),
            ("refund_order", "Can cancel an order whose payment has been taken"),
            ("approve_refund", "Can approve a cancel whose refund is above the limit"),
            ("ship_order", "Can mark an order as shipped"),
            ("retry_undo", "Can retry a stuck undo and acknowledge what was found"),
            ("resolve_undo", "Can resolve a stuck undo by hand"),
            ("resend_email", "Can send a mail to the customer again"),
        ]

    def __str__(self) -> str:
        return f"Order {self.number}"


class OrderLine(models.Model):
    """One SKU times a quantity at a frozen unit price."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="lines")
    sku = models.CharField("SKU", max_length=40)
    name = models.CharField(max_length=200)
    unit_price = models.DecimalField(max_digits=10, decimal_places=2)
    quantity = models.PositiveIntegerField()

    class Meta:
        ordering = ["sku"]
        constraints = [
            models.UniqueConstraint(name="line_once_per_sku", fields=["order", "sku"]),
            models.CheckConstraint(name="line_quantity_positive", condition=Q(quantity__gt=0)),
            models.CheckConstraint(name="line_price_not_negative", condition=Q(unit_price__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku}"

    @property
    def amount(self) -> Decimal:
        """Unit price times quantity."""
        return self.unit_price * self.quantity


class Rollback(Order):
    """An order whose rollback has begun: the history of everything undone, as a list of its own."""

    class Meta:
        proxy = True
        ordering = ["-rollback_started_at"]
