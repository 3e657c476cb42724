"""`manage.py serve`: the production server."""

from __future__ import annotations

import socket
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from tokenhub.env import address


class Command(BaseCommand):
    help = "Serves the API and the admin until it is stopped."
    requires_system_checks = ()  # they import every URL and template; `manage.py check` runs them

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default=settings.TOKENHUB_LISTEN_ADDR, metavar="ADDR:PORT")
        parser.add_argument("--workers", type=int, default=settings.TOKENHUB_WORKERS, metavar="N")

    def handle(self, *args: Any, listen: str, workers: int, **options: Any) -> None:
        for name, problem in settings.ENV.problems:
            self.stderr.write(f"{name}: {problem}.")
        try:
            listen = address(listen)
        except ValueError as problem:
            raise CommandError(f"--listen: {problem}.") from None
        if not 1 <= workers <= 256:
            raise CommandError("--workers: a number from 1 to 256 is needed.")
        _require_migrations()
        _require_free(listen)
        from vault.services import open_from_environment

        open_from_environment()
        from tokenhub.server import Server

        sys.argv = sys.argv[:1]  # gunicorn would read the rest as its own
        Server(listen=listen, workers=workers).run()


def _require_migrations() -> None:
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as problem:
        raise CommandError(f"The database cannot be used: {problem}. TOKENHUB_DATABASE_URL says where it is.") from None
    if pending:
        raise CommandError(f"The database lacks {len(pending)} migrations. Run `manage.py migrate` first.")


def _require_free(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as problem:
            raise CommandError(
                f"{listen} cannot be used ({problem.strerror}). Stop what listens there, or give another address with "
                "--listen or TOKENHUB_LISTEN_ADDR."
            ) from None
