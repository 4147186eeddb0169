"""The database refuses to delete payments."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("payments", "0003_references"), ("orders", "0005_keep_rows")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER keep_rows BEFORE DELETE ON payments_payment "
            "FOR EACH ROW EXECUTE FUNCTION refuse_delete()",
            "DROP TRIGGER keep_rows ON payments_payment",
        ),
    ]
