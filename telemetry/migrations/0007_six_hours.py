from time import time

from django.db import migrations

HOUR, DAY = 3600, 86_400
DAYS = 9
"""As far back as rows of six hours are read."""


def roll_up_again(apps, schema_editor):
    """Days that were rolled up before there were rows of six hours."""
    sample, level, mark = (apps.get_model("telemetry", name) for name in ("Sample", "SeriesLevel", "SeriesUnrolled"))
    today = int(time()) // DAY * DAY
    kept = level.objects.filter(span=HOUR).values_list("pruned_until", flat=True).first() or 0
    for day in range(today - DAYS * DAY, today, DAY):
        if day >= kept and sample.objects.filter(span=HOUR, at__gte=day, at__lt=day + DAY).exists():
            mark.objects.get_or_create(span=DAY, at=day)


def keep_in_the_row(apps, schema_editor):
    """Sketches of new rows: outside, each is looked up for itself, and a month takes four times as long to read."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE telemetry_sample SET (toast_tuple_target = 8160)")


def keep_outside(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE telemetry_sample RESET (toast_tuple_target)")


class Migration(migrations.Migration):

    dependencies = [
        ('telemetry', '0006_captures'),
    ]

    operations = [
        migrations.RunPython(keep_in_the_row, keep_outside),
        migrations.RunPython(roll_up_again, migrations.RunPython.noop),
    ]
