"""Results of audits: the tables, which the database does not let change, and who may see them."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from orders.migrations._roles import extending

SEE = {
    "view_auditrun": ("auditrun", "Can view audit"),
    "view_auditviolation": ("auditviolation", "Can view audit violation"),
}
ROLES = {"viewer": SEE, "support": SEE, "finance": SEE, "manager": SEE}

extend_roles = extending(SEE, ROLES)


def refuse_update(table):
    """A trigger that refuses to change what was found. Old results are deleted."""
    return migrations.RunSQL(
        f"CREATE TRIGGER frozen BEFORE UPDATE ON orders_{table} FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        f"DROP TRIGGER frozen ON orders_{table}",
    )


class Migration(migrations.Migration):

    dependencies = [
        ('orders', '0010_orders_by_client'),
        ("contenttypes", "0002_remove_content_type_name"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditRun',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('seconds', models.FloatField()),
                ('orders', models.PositiveIntegerField(verbose_name='orders looked at')),
                ('violations', models.PositiveIntegerField()),
                ('rules', models.JSONField()),
                ('left_out', models.JSONField(default=dict)),
            ],
            options={
                'verbose_name': 'audit',
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='AuditViolation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('rule', models.CharField(max_length=40)),
                ('sentence', models.TextField()),
                ('facts', models.JSONField(default=dict)),
                ('order', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='audit_violations', to='orders.order')),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='found', to='orders.auditrun')),
            ],
            options={
                'ordering': ['id'],
            },
        ),
        refuse_update("auditrun"),
        refuse_update("auditviolation"),
        # Backwards the permissions go with their tables; the groups stay.
        migrations.RunPython(extend_roles, migrations.RunPython.noop),
    ]
