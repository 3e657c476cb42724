"""`manage.py serve`: the production server."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tokenhub.serving import listen_address, require_free, require_migrations, require_settings


class Command(BaseCommand):
    help = "Serves the API and the admin until it is stopped."
    requires_system_checks = ()  # they import every URL and template; `manage.py check` runs them
    stealth_options = ("when_ready",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default=settings.TOKENHUB_LISTEN_ADDR, metavar="ADDR:PORT")
        parser.add_argument("--workers", type=int, default=settings.TOKENHUB_WORKERS, metavar="N")

    def handle(
        self, *args: Any, listen: str, workers: int, when_ready: Callable[[], object] | None = None, **options: Any
    ) -> None:
        require_settings()
        for name, problem in settings.ENV.problems:
            self.stderr.write(f"{name}: {problem}.")
        listen = listen_address(listen)
        if not 1 <= workers <= 256:
            raise CommandError("--workers: a number from 1 to 256 is needed.")
        require_migrations()
        require_free(listen)
        from tokenhub import admin_token
        from vault.services import open_from_environment

        open_from_environment()
        admin_token.prepare()
        from tokenhub.server import Server

        sys.argv = sys.argv[:1]  # gunicorn would read the rest as its own
        Server(listen=listen, workers=workers, when_ready=when_ready).run()
