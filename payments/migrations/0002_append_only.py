"""The ledger is append-only: the database refuses to change or delete its rows."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("payments", "0001_payments"), ("orders", "0002_append_only")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON payments_paymentevent "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
            "DROP TRIGGER append_only ON payments_paymentevent",
        ),
    ]
