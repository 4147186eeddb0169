"""The database refuses to delete mails."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("notifications", "0002_copies"), ("orders", "0005_keep_rows")]

    operations = [
        migrations.RunSQL(
            "CREATE TRIGGER keep_rows BEFORE DELETE ON notifications_emailmessage "
            "FOR EACH ROW EXECUTE FUNCTION refuse_delete()",
            "DROP TRIGGER keep_rows ON notifications_emailmessage",
        ),
    ]
