"""`manage.py prune`: one pass over what is kept for a time only."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from telemetry.retention import prune_once


class Command(BaseCommand):
    help = "Drops what is older than its retention, beside a running server, too, which does so by itself."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{prune_once()} removed.")
