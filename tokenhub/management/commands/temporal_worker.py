"""`manage.py temporal_worker`: works on plans that Temporal drives."""

from __future__ import annotations

import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tokenhub.serving import require_migrations, require_settings


class Command(BaseCommand):
    help = "Works on plans that Temporal drives, until it is stopped."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        require_settings()
        for name, problem in settings.ENV.problems:
            self.stderr.write(f"{name}: {problem}.")
        if not settings.TOKENHUB_TEMPORAL_ENABLED:
            raise CommandError("The server gives Temporal nothing to do. Set TOKENHUB_TEMPORAL_ENABLED=true for both.")
        require_migrations()
        from orchestration.temporal.service import serve

        asyncio.run(serve())
