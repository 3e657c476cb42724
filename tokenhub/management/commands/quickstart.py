"""`manage.py quickstart`: from an empty data folder to a served gateway with something to try at once. `make run` calls
it. A second run finds everything in place and only serves."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from keys import services as keys
from keys.models import ClientKey
from routing import services as routing
from routing.models import Model
from tokenhub import login
from tokenhub.serving import listen_address, require_free, require_settings
from vault import services as vault

FIRST_MODEL = "sandbox/swift"


class Command(BaseCommand):
    help = (
        "Prepares the database, an administrator, a first client key and, unless TOKENHUB_SANDBOX is false, sandbox "
        "models; then serves."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--listen", default=settings.TOKENHUB_LISTEN_ADDR, metavar="ADDR:PORT")
        parser.add_argument("--workers", type=int, default=settings.TOKENHUB_WORKERS, metavar="N")

    def handle(self, *args: Any, listen: str, workers: int, **options: Any) -> None:
        require_settings()
        listen = listen_address(listen)
        require_free(listen)  # before a key is shown that nobody could use
        with _untold("telemetry.audit"):
            call_command("migrate", verbosity=0)
            login.ensure_admin()
            if settings.TOKENHUB_SANDBOX:
                routing.install_sandbox()
            banner = _banner(listen)
        call_command("serve", listen=listen, workers=workers, when_ready=lambda: self.stdout.write(banner))


@contextmanager
def _untold(name: str) -> Iterator[None]:
    """What is set up here is told by the greeting; lines of the log about it would only stand in its way."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _banner(listen: str) -> str:
    base = login.public_url(listen)
    lines = ["", f"TokenHub is ready at {base}", ""]
    if login.somebody_has_a_password():
        lines += [f"  Admin       {base}/admin/"]
    else:
        link = login.link_url(login.new_link(), listen=listen)
        lines += ["  Log in      (once, within ten minutes; then set a password)", f"    {link}"]
    lines += [f"  Docs        {base}/docs/", ""]
    if vault.status().initialized and not settings.TOKENHUB_VAULT_PASSWORD:
        where = f"{base}/admin/vault/vaultstate/"
        lines.insert(-1, f"  Vault       locked: open it at {where} for providers with a credential")
    if ClientKey.objects.lasting().exists():
        lines += ["  Client key  made on an earlier run; `manage.py keys create NAME` makes another.", ""]
        return "\n".join(lines)
    issued = keys.issue(name="first key", owner=login.ADMIN_NAME)
    lines += ["  Client key  (shown this once)", f"    {issued.plaintext}", "", f"  {_try_it()}"]
    lines += [
        f"    curl -i {base}/v1/chat/completions \\",
        f"      -H 'Authorization: Bearer {issued.plaintext}' \\",
        "      -H 'Content-Type: application/json' \\",
        f"""      -d '{{"model": "{_first_model()}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'""",
        "",
    ]
    return "\n".join(lines)


def _try_it() -> str:
    if settings.TOKENHUB_SANDBOX or Model.objects.filter(enabled=True).exists():
        return "Try it"
    return "Try it      (once a provider and a model are set up, behind the login link: there is no sandbox here)"


def _first_model() -> str:
    return FIRST_MODEL if settings.TOKENHUB_SANDBOX else "auto"
