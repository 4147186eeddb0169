"""The roles of staff: groups with permissions, and what the permissions of before have become.

docs/backoffice.md has the table.
"""

from django.db import migrations

SEE_STOCK = [
    "orders.view_order",
    "orders.view_orderline",
    "orders.view_rollback",
    "orders.view_trailentry",
    "inventory.view_product",
    "inventory.view_stockitem",
    "inventory.view_hold",
    "inventory.view_stockmovement",
]
SEE_ALL = [
    *SEE_STOCK,
    "orders.view_attentionflag",
    "orders.view_cancelrequest",
    "orders.view_orderaction",
    "orders.view_outboxmessage",
    "payments.view_payment",
    "payments.view_paymentevent",
    "notifications.view_emailmessage",
]
SUPPORT = [
    "orders.add_order",
    "orders.cancel_order",
    "orders.refund_order",
    "orders.retry_undo",
    "orders.resend_email",
]
WAREHOUSE = ["orders.ship_order", "inventory.adjust_stock"]
FINANCE = [
    "orders.cancel_order",
    "orders.refund_order",
    "orders.approve_refund",
    "orders.retry_undo",
    "orders.resolve_undo",
]
MANAGER = [*SUPPORT, *WAREHOUSE, *FINANCE, "inventory.add_product", "inventory.change_product"]

ROLES = {
    "viewer": SEE_ALL,
    "support": [*SEE_ALL, *SUPPORT],
    "warehouse": [*SEE_STOCK, *WAREHOUSE],
    "finance": [*SEE_ALL, *FINANCE],
    "manager": [*SEE_ALL, *MANAGER],
}

# What it takes now to do what one permission was enough for before.
HEIRS = {
    "orders.repair_order": ["orders.retry_undo", "orders.resolve_undo"],
    "orders.cancel_order": ["orders.refund_order"],
    "inventory.change_product": ["inventory.adjust_stock"],
}


def list_permissions(apps, using):
    """Every permission the roles name, by its name. What is not there yet is made, as Django would.

    Django makes permissions only after the last migration; it finds these and leaves them as they are.
    """
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    wanted = {permission for permissions in ROLES.values() for permission in permissions}
    found = {}
    for app_label in ("orders", "inventory", "payments", "notifications"):
        for model in apps.get_app_config(app_label).get_models():
            opts = model._meta
            names = {
                f"{action}_{opts.model_name}": f"Can {action} {opts.verbose_name_raw}"
                for action in opts.default_permissions
            } | dict(opts.permissions)
            for codename, name in names.items():
                if f"{app_label}.{codename}" not in wanted:
                    continue
                # A proxy such as Rollback has a content type, and so permissions, of its own.
                kind, _ = ContentType.objects.using(using).get_or_create(
                    app_label=app_label, model=opts.model_name
                )
                found[f"{app_label}.{codename}"], _ = Permission.objects.using(using).get_or_create(
                    content_type=kind, codename=codename, defaults={"name": name}
                )
    if missing := wanted - set(found):
        raise LookupError(f"There are no such permissions: {sorted(missing)}")
    return found


def make_roles(apps, schema_editor):
    """Make the groups that are missing and give each its permissions. A group that is there already is
    somebody's own, whatever its name, and the people in it gain nothing."""
    using = schema_editor.connection.alias
    permissions = list_permissions(apps, using)
    for role, names in ROLES.items():
        group, is_new = apps.get_model("auth", "Group").objects.using(using).get_or_create(name=role)
        if is_new:
            group.permissions.add(*(permissions[name] for name in names))


def hand_on_permissions(apps, schema_editor):
    """Give users and groups what they now need for what they could do before, and delete `repair_order`,
    which nothing asks for any more."""
    using = schema_editor.connection.alias
    permissions = list_permissions(apps, using)
    Group, User = apps.get_model("auth", "Group"), apps.get_model("auth", "User")
    for name, heirs in HEIRS.items():
        app_label, codename = name.split(".")
        held = {"content_type__app_label": app_label, "codename": codename}
        before = apps.get_model("auth", "Permission").objects.using(using).filter(**held)
        given = [permissions[heir] for heir in heirs]
        for group in Group.objects.using(using).filter(permissions__in=before):
            group.permissions.add(*given)
        for user in User.objects.using(using).filter(user_permissions__in=before):
            user.user_permissions.add(*given)
        if name not in permissions:
            before.delete()


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0003_back_office"),
        ("inventory", "0003_low_stock"),
        ("payments", "0003_references"),
        ("notifications", "0002_copies"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    # Backwards the groups stay: people are in them.
    operations = [
        migrations.RunPython(hand_on_permissions, migrations.RunPython.noop),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
    ]
