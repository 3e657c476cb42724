"""`manage.py env_example`: every setting with its meaning and default, as deploy/.env.example."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

HEAD = """\
# Every setting of TokenHub, made by `manage.py env_example`. Take the lines that you need;
# docs/reference/settings.md tells more. Each can also be read from a file: TOKENHUB_X_FILE=/path.
"""


def text() -> str:
    variables = settings.ENV.variables.values()
    return "\n".join(
        [HEAD, *(f"# {one.help} (default: {one.default or 'empty'})\n#{one.name}=\n" for one in variables)]
    )


class Command(BaseCommand):
    help = "Prints every setting with its meaning and default, as a file of variables."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(text(), ending="")
