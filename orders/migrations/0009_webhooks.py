"""Webhooks: the tables, what the database refuses to change of them, and what the roles may see and do."""

import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from orders.migrations._roles import extending

SEE = {
    "view_webhookendpoint": ("webhookendpoint", "Can view webhook endpoint"),
    "view_webhookdelivery": ("webhookdelivery", "Can view webhook delivery"),
    "view_webhookattempt": ("webhookattempt", "Can view webhook attempt"),
    "view_apiclient": ("apiclient", "Can view API client"),
    "view_apikey": ("apikey", "Can view API key"),
}
REDELIVER = {"redeliver_webhook": ("webhookdelivery", "Can have a webhook delivered again")}

ROLES = {
    "viewer": SEE,
    "support": SEE | REDELIVER,
    "finance": SEE,
    "manager": SEE | REDELIVER,
}

extend_roles = extending(SEE | REDELIVER, ROLES)


def refuse(table, name, event, function, when="true"):
    """A trigger that refuses `event` on the table's rows that are as `when` says."""
    return migrations.RunSQL(
        f"CREATE TRIGGER {name} BEFORE {event} ON orders_{table} FOR EACH ROW WHEN ({when}) "
        f"EXECUTE FUNCTION {function}()",
        f"DROP TRIGGER {name} ON orders_{table}",
    )


class Migration(migrations.Migration):

    dependencies = [
        ('orders', '0008_api_clients'),
        ("contenttypes", "0002_remove_content_type_name"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.AlterField(
            model_name='orderaction',
            name='kind',
            field=models.CharField(choices=[('place_order', 'Place'), ('cancel_order', 'Cancel'), ('request_cancel', 'Request Cancel'), ('approve_cancel', 'Approve Cancel'), ('reject_cancel', 'Reject Cancel'), ('withdraw_cancel', 'Withdraw Cancel'), ('ship_order', 'Ship'), ('retry_undo', 'Retry Undo'), ('resolve_undo', 'Resolve Undo'), ('resend_email', 'Resend Email'), ('acknowledge', 'Acknowledge'), ('redeliver_webhook', 'Redeliver Webhook')], max_length=20),
        ),
        migrations.CreateModel(
            name='WebhookDelivery',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('event_id', models.UUIDField()),
                ('redelivery', models.PositiveIntegerField(db_default=0, default=0)),
                ('event', models.CharField(choices=[('order.completed', 'order completed'), ('order.cancelled', 'order cancelled'), ('order.needs_attention', 'order needs attention')], max_length=30)),
                ('body', models.TextField()),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('delivered', 'Delivered'), ('failed', 'Failed'), ('withdrawn', 'Withdrawn')], db_default='waiting', default='waiting', max_length=10)),
                ('attempts', models.PositiveIntegerField(db_default=0, default=0)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('leased_until', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('delivered_at', models.DateTimeField(blank=True, null=True)),
                ('order', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='webhook_deliveries', to='orders.order')),
            ],
            options={
                'verbose_name_plural': 'webhook deliveries',
                'ordering': ['-id'],
                'permissions': [('redeliver_webhook', 'Can have a webhook delivered again')],
            },
        ),
        migrations.CreateModel(
            name='WebhookAttempt',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('ms', models.PositiveIntegerField()),
                ('status', models.PositiveSmallIntegerField(blank=True, null=True)),
                ('error', models.TextField(blank=True, db_default='', default='')),
                ('worker', models.CharField(max_length=120)),
                ('delivery', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='log', to='orders.webhookdelivery')),
            ],
            options={
                'ordering': ['id'],
            },
        ),
        migrations.CreateModel(
            name='WebhookEndpoint',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('url', models.CharField(max_length=500, verbose_name='URL')),
                ('events', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('order.completed', 'order completed'), ('order.cancelled', 'order cancelled'), ('order.needs_attention', 'order needs attention')], max_length=30), size=None)),
                ('secret', models.CharField(editable=False, max_length=100)),
                ('old_secrets', models.JSONField(db_default=[], default=list, editable=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('failing_since', models.DateTimeField(blank=True, editable=False, null=True)),
                ('disabled_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('disabled_by', models.CharField(blank=True, choices=[('client', 'the client'), ('receiver', 'the receiver'), ('staff', 'a member of staff')], db_default='', default='', editable=False, max_length=10)),
                ('disabled_because', models.CharField(blank=True, db_default='', default='', editable=False, max_length=300)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='webhook_endpoints', to='orders.apiclient')),
            ],
            options={
                'ordering': ['-created_at'],
            },
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='endpoint',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='deliveries', to='orders.webhookendpoint'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(('events__contained_by', ['order.completed', 'order.cancelled', 'order.needs_attention']), ('events__len__gt', 0)), name='webhook_events_known'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('disabled_at', None), ('disabled_by', '')), models.Q(('disabled_at__isnull', False), ('disabled_by__in', ['client', 'receiver', 'staff'])), _connector='OR'), name='webhook_disabled_by_somebody'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.UniqueConstraint(condition=models.Q(('disabled_at', None)), fields=('client', 'url'), name='webhook_live_once'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('state', 'waiting')), fields=['next_attempt_at'], name='webhook_due'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['state', '-id'], name='webhook_by_state'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['endpoint', '-id'], name='webhook_by_endpoint'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('state', 'waiting'), _negated=True), fields=['next_attempt_at'], name='webhook_ended'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.UniqueConstraint(fields=('event_id', 'endpoint', 'redelivery'), name='webhook_delivery_once'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(('event__in', ['order.completed', 'order.cancelled', 'order.needs_attention'])), name='webhook_event_known'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['waiting', 'delivered', 'failed', 'withdrawn'])), name='webhook_state_known'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('delivered_at__isnull', False), ('state', 'delivered')), models.Q(models.Q(('state', 'delivered'), _negated=True), ('delivered_at', None)), _connector='OR'), name='webhook_delivered_has_a_time'),
        ),
        refuse("webhookendpoint", "keep_rows", "DELETE", "refuse_delete"),
        # Housekeeping deletes what has served its time, and nothing that is new.
        refuse(
            "webhookdelivery",
            "keep_rows",
            "DELETE",
            "refuse_delete",
            "OLD.state = 'waiting' OR OLD.created_at > now() - interval '1 day'",
        ),
        refuse(
            "webhookdelivery",
            "frozen",
            "UPDATE OF endpoint_id, order_id, event_id, redelivery, event, body, created_at",
            "refuse_change",
        ),
        refuse("webhookattempt", "append_only", "UPDATE", "refuse_change"),
        refuse(
            "webhookattempt", "keep_rows", "DELETE", "refuse_delete", "OLD.at > now() - interval '1 day'"
        ),
        # Backwards the permissions go with their tables; the groups stay.
        migrations.RunPython(extend_roles, migrations.RunPython.noop),
    ]
