"""What must hold before the server starts, said in plain sentences."""

from __future__ import annotations

import socket

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from tokenhub.env import address


def listen_address(text: str) -> str:
    try:
        return address(text)
    except ValueError as problem:
        raise CommandError(f"--listen: {problem}.") from None


def require_settings() -> None:
    if fatal := settings.ENV.fatal:
        raise CommandError("; ".join(f"{name}: {problem}" for name, problem in fatal) + ".")


def require_migrations() -> None:
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as problem:
        raise CommandError(f"The database cannot be used: {problem}. TOKENHUB_DATABASE_URL says where it is.") from None
    if pending:
        raise CommandError(f"The database lacks {len(pending)} migrations. Run `manage.py migrate` first.")


def require_free(listen: str) -> None:
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
