"""Finds a client's orders. The index is built while orders are placed, however many there are already."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("orders", "0009_webhooks")]

    operations = [
        # Of a try that was cut short there is an index that serves nobody.
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS order_by_client", migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name="order",
            index=models.Index(
                condition=models.Q(("client__isnull", False)),
                fields=["client", "-number"],
                name="order_by_client",
            ),
        ),
    ]
