"""What the scheduled audits of the books have found: never changed, and deleted when it is old."""

from django.db import models
from django.db.models.functions import Now

from orders.models.order import Order


class AuditRun(models.Model):
    """One audit of all books."""

    started_at = models.DateTimeField(db_default=Now())
    seconds = models.FloatField()
    orders = models.PositiveIntegerField("orders looked at")
    # How many violations there were in all; of each rule the first are kept as rows.
    violations = models.PositiveIntegerField()
    # How many of each rule that was asked: {"stock_on_hand": 0, ...}.
    rules = models.JSONField()
    # What could not be asked, and why: {"gateway": "..."}.
    left_out = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        verbose_name = "audit"

    def __str__(self) -> str:
        return f"Audit {self.pk}"


class AuditViolation(models.Model):
    """One thing that an audit found, in a sentence."""

    run = models.ForeignKey(AuditRun, on_delete=models.CASCADE, related_name="found")
    rule = models.CharField(max_length=40)
    sentence = models.TextField()
    # Empty where no one order is concerned, or the order is not there.
    order = models.ForeignKey(
        Order, on_delete=models.PROTECT, null=True, blank=True, related_name="audit_violations"
    )
    facts = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.sentence
