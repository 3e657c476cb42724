"""`manage.py vault init|status|unlock|lock|rotate`. Passwords come by prompt, from a file or from the environment,
never as an argument: arguments are visible to every process."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from getpass import getpass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from vault import services
from vault.control import ControlClient
from vault.errors import ServerNotRunning, VaultError


class Command(BaseCommand):
    help = "Makes, opens, closes the vault of providers' credentials, or changes its password."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        texts = {
            "init": "make the vault",
            "status": "whether there is one, and whether it is open",
            "unlock": "open it in the running server",
            "lock": "wipe its key from the running server's memory",
            "rotate": "change the password; every secret is sealed anew",
        }
        for name, text in texts.items():
            action = actions.add_parser(name, help=text)
            if name in {"init", "unlock", "rotate"}:
                action.add_argument("--password-file", type=Path, metavar="FILE")
            if name == "rotate":
                action.add_argument("--new-password-file", type=Path, metavar="FILE")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        client = ControlClient(Path(settings.TOKENHUB_DATA_DIR) / "vault.sock")
        try:
            self._act(action, client, options)
        except ServerNotRunning as problem:
            raise CommandError(f"{problem.message} `manage.py serve` starts it.") from None
        except VaultError as problem:
            raise CommandError(problem.message) from None

    def _act(self, action: str, client: ControlClient, options: dict[str, Any]) -> None:
        file: Path | None = options.get("password_file")
        match action:
            case "init":
                services.initialize(password=_password(file, "New vault password: ", is_new=True))
                self.stdout.write("The vault is made. A running server needs `manage.py vault unlock`.")
            case "status":
                self._status(client)
            case "unlock":
                client.status()  # nobody should type a password in vain
                client.unlock(password=_password(file, "Vault password: "))
                self.stdout.write("The vault is open.")
            case "lock":
                client.lock()
                self.stdout.write("The vault is locked.")
            case "rotate":
                old = _password(file, "Present vault password: ")
                new = _password(
                    options["new_password_file"], "New vault password: ", is_new=True, use_environment=False
                )
                try:
                    count = client.rotate(old_password=old, new_password=new).secrets
                except ServerNotRunning:
                    count = services.rotate(old_password=old, new_password=new)
                self.stdout.write(f"The password is changed; {count} secrets are sealed anew.")

    def _status(self, client: ControlClient) -> None:
        try:
            state, server = client.status(), "running"
        except ServerNotRunning:
            state, server = services.status(), "not running"
        opened = "locked" if state.locked else "open"
        self.stdout.write(f"server: {server}")
        self.stdout.write(f"vault: {opened if state.initialized else 'not made yet'}")
        self.stdout.write(f"secrets: {state.secrets}")


def _password(file: Path | None, prompt: str, *, is_new: bool = False, use_environment: bool = True) -> str:
    """From the file, the environment or a person, in this order. Raises CommandError."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise CommandError(f"{file} cannot be read: {problem}.") from None
    if use_environment and settings.TOKENHUB_VAULT_PASSWORD:
        return str(settings.TOKENHUB_VAULT_PASSWORD)
    if not sys.stdin.isatty():
        raise CommandError("There is nobody to ask for the password: give it with --password-file.")
    password = getpass(prompt)
    if is_new and getpass("The same again: ") != password:
        raise CommandError("The two passwords differ. Nothing was changed.")
    return password
