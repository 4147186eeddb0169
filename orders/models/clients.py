"""Machine clients of the API: who they are, their keys, what they have asked for, and how often they may."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orders.models.order import Order

# How a client's name ends in the history of orders; no user's name can.
API_MARK = " (API)"


class ApiClient(models.Model):
    """A program that orders through the API: a shop, a till, a partner. It sees its own orders only."""

    name = models.CharField(max_length=100, unique=True)
    is_active = models.BooleanField(
        "active", default=True, help_text="Off: all its keys are refused until this is on again."
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Empty: as many as API_REQUESTS_PER_MINUTE says."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "API client"
        constraints = [
            models.CheckConstraint(
                name="client_rate_positive",
                condition=Q(requests_per_minute=None) | Q(requests_per_minute__gt=0),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def actor(self) -> str:
        """The client as the history of an order names it."""
        return f"{self.name}{API_MARK}"

    @property
    def is_authenticated(self) -> bool:
        """What DRF asks of whoever a request comes from: this one has shown a key."""
        return True


class Scope(models.TextChoices):
    """What a key may do."""

    READ = "read", "read its orders"
    PLACE = "place", "place orders"
    CANCEL = "cancel", "cancel its orders"
    WEBHOOKS = "webhooks", "register webhooks"


class ApiKey(models.Model):
    """A key of a client. The key itself is shown once and not kept: only its SHA-256 is.

    A key has 256 random bits, so that a slow hash would protect nothing that a fast one does not.
    """

    client = models.ForeignKey(ApiClient, on_delete=models.PROTECT, related_name="keys")
    name = models.CharField(max_length=100, help_text="Where it is used, for example: web shop, production.")
    # The beginning of the key, to tell keys apart by; no secret.
    prefix = models.CharField(max_length=20, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=10, choices=Scope))
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, editable=False, related_name="+"
    )
    # To about a minute.
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    revoked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, editable=False, related_name="+"
    )

    class Meta:
        ordering = ["client__name", "id"]
        verbose_name = "API key"
        constraints = [
            models.CheckConstraint(
                name="key_scopes_known", condition=Q(scopes__contained_by=Scope.values, scopes__len__gt=0)
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"


class IdempotentRequest(models.Model):
    """A request that was carried out under an Idempotency-Key, and the answer it got.

    Written in the transaction that carried it out, so that either both are there or neither is.
    """

    client = models.ForeignKey(ApiClient, on_delete=models.PROTECT, related_name="+")
    method = models.CharField(max_length=10)
    path = models.CharField(max_length=200)
    key = models.CharField(max_length=255)
    # SHA-256 of the canonical body: the same key with another body is a mistake of the client.
    fingerprint = models.CharField(max_length=64)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="+")
    status = models.PositiveSmallIntegerField()
    location = models.CharField(max_length=300)
    body = models.TextField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="idempotent_request_once", fields=["client", "method", "path", "key"]
            )
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotent_request_by_age")]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.key}"


class RateLimit(models.Model):
    """When a caller's allowance is whole again: one row per client or address (GCRA's arrival time)."""

    subject = models.CharField(max_length=100, primary_key=True)
    full_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["full_at"], name="rate_limit_by_age")]

    def __str__(self) -> str:
        return self.subject
