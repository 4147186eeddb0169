"""The database refuses to delete what happened: orders, their lines, their history, cancel requests."""

from django.db import migrations

FUNCTION = """
CREATE FUNCTION refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never deleted: they say what happened', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""
TABLES = ["order", "orderline", "trailentry", "cancelrequest", "attentionflag"]


class Migration(migrations.Migration):
    dependencies = [("orders", "0004_roles")]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION refuse_delete()"),
        *(
            migrations.RunSQL(
                f"CREATE TRIGGER keep_rows BEFORE DELETE ON orders_{table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_delete()",
                f"DROP TRIGGER keep_rows ON orders_{table}",
            )
            for table in TABLES
        ),
    ]
