"""`manage.py login_link`: a fresh one-time login link."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from tokenhub.login import ensure_admin, link_url, new_link


class Command(BaseCommand):
    help = "Prints a link that logs one browser in as administrator, once, within ten minutes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default=settings.TOKENHUB_LISTEN_ADDR, metavar="ADDR:PORT")

    def handle(self, *args: Any, listen: str, **options: Any) -> None:
        ensure_admin()
        self.stdout.write(link_url(new_link(), listen=listen))
