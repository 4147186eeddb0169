"""Every mail about an order, as it was sent."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models import Order


class EmailKind(models.TextChoices):
    CONFIRMATION = "confirmation"
    CANCELLATION = "cancellation"


class EmailState(models.TextChoices):
    PENDING = "pending"
    SENT = "sent"
    SETTLED_BY_HAND = "settled_by_hand"
    # A copy: refused by the mail server, or not taken before its deadline.
    REFUSED = "refused"
    # A copy of a confirmation whose order was cancelled before it could be sent.
    WITHDRAWN = "withdrawn"


class EmailMessage(models.Model):
    """One mail per order and kind, and a copy for each time a person has it sent again.

    SMTP delivers at least once: a crash between the server's acceptance and our commit sends the mail
    again under the same Message-ID, which mail readers show once.
    """

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="emails")
    kind = models.CharField(max_length=12, choices=EmailKind)
    # 0 is the saga's mail; 1, 2 ... were asked for by a person, each with a Message-ID of its own.
    copy = models.PositiveIntegerField(default=0, db_default=0)
    state = models.CharField(max_length=15, choices=EmailState, default=EmailState.PENDING)
    message_id = models.CharField(max_length=200, unique=True)
    recipient = models.EmailField()
    subject = models.CharField(max_length=200)
    text = models.TextField()
    html = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="email_once_per_kind", fields=["order", "kind", "copy"]),
            models.CheckConstraint(name="email_kind_known", condition=Q(kind__in=EmailKind.values)),
            models.CheckConstraint(
                name="email_sent_has_a_time", condition=~Q(state="sent") | Q(sent_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} mail: {self.state}"
