"""What the migrations that give roles new permissions share. Not a migration: its name begins with _."""

import importlib


def extending(permissions_of, roles):
    """A RunPython that makes the permissions, {codename: (model, name)}, and gives each role its codenames.

    A group that no longer holds what 0004 gave it, or that only happens to be called like a role, is
    somebody's own and stays as it is.
    """

    def extend_roles(apps, schema_editor):
        using = schema_editor.connection.alias
        ContentType = apps.get_model("contenttypes", "ContentType")
        Permission = apps.get_model("auth", "Permission")
        before = importlib.import_module("orders.migrations.0004_roles").ROLES
        permissions = {}
        for codename, (model, name) in permissions_of.items():
            kind, _ = ContentType.objects.using(using).get_or_create(app_label="orders", model=model)
            permissions[codename], _ = Permission.objects.using(using).get_or_create(
                content_type=kind, codename=codename, defaults={"name": name}
            )
        for group in apps.get_model("auth", "Group").objects.using(using).filter(name__in=roles):
            held = group.permissions.values_list("content_type__app_label", "codename")
            if set(before[group.name]) <= {f"{app}.{codename}" for app, codename in held}:
                group.permissions.add(*(permissions[codename] for codename in roles[group.name]))

    return extend_roles
