"""The ledger is append-only: the database refuses to change or delete its rows."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("inventory", "0001_products_and_stock"), ("orders", "0002_append_only")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON inventory_stockmovement "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
            "DROP TRIGGER append_only ON inventory_stockmovement",
        ),
    ]
