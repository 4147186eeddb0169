"""The database refuses to delete holds."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("inventory", "0003_low_stock"), ("orders", "0005_keep_rows")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER keep_rows BEFORE DELETE ON inventory_hold "
            "FOR EACH ROW EXECUTE FUNCTION refuse_delete()",
            "DROP TRIGGER keep_rows ON inventory_hold",
        ),
    ]
