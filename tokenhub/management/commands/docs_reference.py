"""`manage.py docs_reference`: writes the pages of the documentation that are made from the code."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from tokenhub.reference import PAGES


class Command(BaseCommand):
    help = "Writes the pages of the documentation that are made from the code: commands, endpoints of the admin API."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        for name, page in PAGES.items():
            (settings.BASE_DIR / name).write_text(page(), encoding="utf-8")
            self.stdout.write(name)
