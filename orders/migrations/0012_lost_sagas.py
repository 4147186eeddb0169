"""Lost sagas: the message that starts a rollback in their place, their line in the trail, and whose turn it is
to look for them."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('orders', '0011_audits'),
    ]

    operations = [
        migrations.CreateModel(
            name='RepairRound',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('due_at', models.DateTimeField()),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='outboxmessage',
            name='outbox_kind_known',
        ),
        migrations.RemoveConstraint(
            model_name='trailentry',
            name='trail_kind_known',
        ),
        migrations.AlterField(
            model_name='outboxmessage',
            name='kind',
            field=models.CharField(choices=[('start', 'Start'), ('signal', 'Signal'), ('repair', 'Repair')], max_length=6),
        ),
        migrations.AlterField(
            model_name='trailentry',
            name='kind',
            field=models.CharField(choices=[('step', 'Step'), ('undo', 'Undo'), ('saga', 'Saga')], max_length=4),
        ),
        migrations.AddConstraint(
            model_name='outboxmessage',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['start', 'signal', 'repair'])), name='outbox_kind_known'),
        ),
        migrations.AddConstraint(
            model_name='trailentry',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['step', 'undo', 'saga'])), name='trail_kind_known'),
        ),
    ]
