"""The payment of an order and the append-only ledger of what happened to the money."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models import Order


class PaymentState(models.TextChoices):
    STARTED = "started"
    CHARGED = "charged"
    DECLINED = "declined"
    # Nothing is owed to the customer: never charged and closed, refunded, or settled outside.
    CLOSED = "closed"
    REFUNDED = "refunded"
    SETTLED_OUTSIDE = "settled_outside"


class Payment(models.Model):
    """One per order. The row is written before the gateway is called."""

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="payment")
    state = models.CharField(max_length=15, choices=PaymentState, default=PaymentState.STARTED)
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    currency = models.CharField(max_length=3)
    token = models.CharField(max_length=200)
    charge_id = models.CharField(max_length=80, blank=True, default="")

    class Meta:
        constraints = [
            models.CheckConstraint(name="payment_amount_not_negative", condition=Q(amount__gte=0)),
            models.CheckConstraint(name="payment_state_known", condition=Q(state__in=PaymentState.values)),
        ]
        indexes = [models.Index(fields=["charge_id"], name="payment_by_charge", condition=~Q(charge_id=""))]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}: {self.state}"


class EventKind(models.TextChoices):
    CHARGED = "charged"
    DECLINED = "declined"
    CLOSED = "closed"
    REFUNDED = "refunded"
    SETTLED_OUTSIDE = "settled_outside"


class PaymentEvent(models.Model):
    """One thing that happened to the money, signed from the shop's side. Append-only, each kind once."""

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="events")
    kind = models.CharField(max_length=15, choices=EventKind)
    # Positive for money taken, negative for money given back, zero otherwise.
    amount = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    # The gateway's id, its decline code, or the reference a person gave.
    reference = models.CharField(max_length=200, blank=True, default="")
    note = models.TextField(blank=True, default="")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="payment_event_once", fields=["payment", "kind"]),
            models.CheckConstraint(
                name="payment_event_signs",
                condition=(
                    Q(kind="charged", amount__gte=0)
                    | Q(kind__in=["refunded", "settled_outside"], amount__lte=0)
                    | Q(kind__in=["declined", "closed"], amount=0)
                ),
            ),
        ]
        indexes = [
            models.Index(fields=["at"], name="payment_event_by_time"),
            models.Index(fields=["reference"], name="payment_event_by_reference", condition=~Q(reference="")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"
