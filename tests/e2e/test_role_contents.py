"""What a role sees on the pages it may open, and what the migration makes of the roles."""

import re
from types import SimpleNamespace
from typing import Any

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from inventory.models import Hold, Product
from orders.models import (
    Order,
)
from tests.e2e.doors import (
    LIST,
    ROLLED_BACK,
    page_of,
    restore_roles,
)
from tests.e2e.roles import (
    GROUPS,
    audit_roles,
    enter,
    list_permissions,
    make_secrets,
    read_pages,
    roles,
    webhook_roles,
)
from tests.processes import PROJECT

# --- what a page shows is up to the role, too -----------------------------------------------------------


def test_what_a_role_may_not_see_is_on_none_of_its_pages(counter: None, settings: Any) -> None:
    restore_roles()
    order, undone = make_secrets(settings)
    assert read_pages("warehouse", order, undone) == {}
    on_page = {"charge", "refund reason", "flag", "mail"}
    assert read_pages("viewer", order, undone) == {
        "front page": {"refund reason", "flag"},
        "front fragment": {"refund reason", "flag"},
        "export": {"given back"},
        "rollbacks": {"given back", "cancel reason"},
        "order": on_page,
        "fragment": on_page,
        "history": {"refund reason"},
        "undone order": {"given back", "cancel reason"},
    }


def test_a_role_is_told_what_it_needs_of_what_it_may_not_see(counter: None, settings: Any) -> None:
    restore_roles()
    order, undone = make_secrets(settings)
    Hold.objects.create(
        order=undone, product=Product.objects.get(sku="HEAD-ANC"), quantity=2, state="released"
    )
    warehouse, viewer = enter("warehouse"), enter("viewer")
    page = warehouse.get(page_of(order)).content.decode()
    assert "This order needs attention." in page
    assert "A cancel of this order awaits approval" in page
    rollbacks = warehouse.get(ROLLED_BACK).content.decode()
    assert "a member of staff" in rollbacks
    assert "2 units" in rollbacks
    for browser, found in ((warehouse, []), (viewer, [order.pk])):
        searched = browser.get(LIST, {"q": order.payment.charge_id})
        assert [each.pk for each in searched.context["cl"].result_list] == found
        assert ("payment reference" in searched.content.decode()) == bool(found)


# --- the roles ------------------------------------------------------------------------------------------


def test_the_document_says_what_the_roles_may_do(counter: None) -> None:
    restore_roles()
    table = (PROJECT / "docs" / "backoffice.md").read_text().split("## Roles")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in lines[0][1:]]
    assert heads == GROUPS
    told: dict[str, set[str]] = {role: set() for role in GROUPS}
    for what, *cells in lines[2:]:
        for role, cell in zip(heads, cells, strict=True):
            if cell.strip() == "yes":
                told[role] |= set(re.findall(r"`(\w+)`", what))
    for role in GROUPS:
        held = {permission.split(".")[1] for permission in list_permissions(role)}
        assert {name for name in held if not name.startswith("view_")} == told[role]
    seen = {f"orders.{name}" for name in (*webhook_roles.SEE, *audit_roles.SEE)}
    assert list_permissions("viewer") == set(roles.SEE_ALL) | seen


def test_making_the_roles_leaves_a_group_of_that_name_as_it_is(counter: None) -> None:
    restore_roles()
    before = {role: list_permissions(role) for role in GROUPS}
    Group.objects.get(name="manager").permissions.set(Permission.objects.filter(codename="delete_order"))
    Group.objects.get(name="finance").delete()
    restore_roles()
    assert Group.objects.filter(name__in=GROUPS).count() == len(GROUPS)
    after = {role: list_permissions(role) for role in GROUPS}
    assert after == {**before, "manager": {"orders.delete_order"}}


def test_an_upgrade_lets_everybody_go_on_doing_what_they_could_do_before(db: None) -> None:
    # As the release before this one has left its permissions, with a group that is called like a role.
    Group.objects.all().delete()
    known = {permission.split(".")[1] for permission in roles.ROLES["manager"]}
    new = [name for name in known if not re.match("view_|add_|change_|cancel_order|ship_order", name)]
    Permission.objects.filter(codename__in=new).delete()
    of_orders = ContentType.objects.get_for_model(Order)
    Permission.objects.create(codename="repair_order", content_type=of_orders, name="Can repair")
    before = {permission.codename: permission for permission in Permission.objects.all()}
    support = Group.objects.create(name="support")
    support.permissions.set([before["cancel_order"], before["repair_order"]])
    people = {
        name: User.objects.create(username=name)
        for name in ("repair_order", "cancel_order", "change_product", "ship_order")
    }
    for name, user in people.items():
        user.user_permissions.add(before[name])

    # By its operations: a way back through the schema cannot be taken within a test's transaction.
    then = MigrationExecutor(connection).loader.project_state(("orders", "0004_roles")).apps
    for operation in roles.Migration.operations:
        operation.code(then, SimpleNamespace(connection=connection))

    held = {name: User.objects.get(username=name).get_all_permissions() for name in people}
    assert held == {
        "repair_order": {"orders.retry_undo", "orders.resolve_undo"},
        "cancel_order": {"orders.cancel_order", "orders.refund_order"},
        "change_product": {"inventory.change_product", "inventory.adjust_stock"},
        "ship_order": {"orders.ship_order"},
    }
    assert list_permissions("support") == held["repair_order"] | held["cancel_order"]
    assert list_permissions("finance") == set(roles.ROLES["finance"])
    assert not Permission.objects.filter(codename="repair_order").exists()


def test_the_permissions_the_migration_makes_are_those_django_would_make(counter: None) -> None:
    def read() -> set[tuple[str, str, str]]:
        return set(
            Permission.objects.filter(content_type__app_label__in=apps_of_ours).values_list(
                "content_type__model", "codename", "name"
            )
        )

    def make() -> None:
        ContentType.objects.clear_cache()
        for label in apps_of_ours:
            create_permissions(apps.get_app_config(label), verbosity=0)

    apps_of_ours = ("orders", "inventory", "payments", "notifications")
    by_django = read()
    ContentType.objects.filter(app_label__in=apps_of_ours).delete()  # and their permissions
    restore_roles()
    by_migration = read()
    assert by_migration
    assert by_migration < by_django
    make()
    assert read() == by_django
