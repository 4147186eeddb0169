"""Results of audits: the tables, which the database does not let change, and who may see them."""

import importlib

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

SEE = {
    "view_auditrun": ("auditrun", "Can view audit"),
    "view_auditviolation": ("auditviolation", "Can view audit violation"),
}
ROLES = {"viewer": SEE, "support": SEE, "finance": SEE, "manager": SEE}


def extend_roles(apps, schema_editor):
    """Give the roles what they need for the new pages. A group that no longer holds what 0004 gave it, or
    that only happens to be called like a role, is somebody's own and stays as it is."""
    using = schema_editor.connection.alias
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    before = importlib.import_module("orders.migrations.0004_roles").ROLES
    permissions = {}
    for codename, (model, name) in SEE.items():
        kind, _ = ContentType.objects.using(using).get_or_create(app_label="orders", model=model)
        permissions[codename], _ = Permission.objects.using(using).get_or_create(
            content_type=kind, codename=codename, defaults={"name": name}
        )
    for group in apps.get_model("auth", "Group").objects.using(using).filter(name__in=ROLES):
        held = group.permissions.values_list("content_type__app_label", "codename")
        if set(before[group.name]) <= {f"{app}.{codename}" for app, codename in held}:
            group.permissions.add(*(permissions[codename] for codename in ROLES[group.name]))


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
