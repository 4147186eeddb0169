"""The request that decided what Temporal is told.

By itself: a transaction that locked the outbox and then the orders would wait for one that holds them the other
way round, and the database would end either of them.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0006_list_by_total")]

    operations = [
        migrations.AddField(
            model_name="outboxmessage",
            name="request_id",
            field=models.CharField(blank=True, db_default="", default="", max_length=100),
        ),
    ]
