from django.db import migrations


def take_out(apps, schema_editor):
    """Requests at once without requests per second: they would hold up each change of what has them."""
    for name in ("ClientKey", "Project"):
        rows = apps.get_model("keys", name).objects.using(schema_editor.connection.alias)
        rows.filter(rate_limit_rps=None).exclude(rate_limit_burst=None).update(rate_limit_burst=None)


class Migration(migrations.Migration):

    dependencies = [
        ('keys', '0008_playground_keys'),
    ]

    operations = [
        migrations.RunPython(take_out, migrations.RunPython.noop),
    ]
