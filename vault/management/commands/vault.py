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
from django.db.utils import DatabaseError

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
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None

    def _act(self, action: str, client: ControlClient, options: dict[str, Any]) -> None:
        file: Path | None = options.get("password_file")
        match action:
            case "init":
                services.initialize(password=_password(file, "New vault password: ", is_new=True))
                self.stdout.write("The vault is made. A running server needs `manage.py vault unlock`.")
            case "status":
                self._status(client)
            case "unlock":
                is_new = not client.status().initialized  # also: nobody should type a password in vain
                prompt = "New vault password: " if is_new else "Vault password: "
                client.unlock(password=_password(file, prompt, is_new=is_new))
                self.stdout.write("The vault is open.")
            case "lock":
                client.lock()
                self.stdout.write("The vault is locked.")
            case "rotate":
                self._rotate(client, file, options["new_password_file"])

    def _rotate(self, client: ControlClient, file: Path | None, new_file: Path | None) -> None:
        old = _password(file, "Present vault password: ")
        new = _password(new_file, "New vault password: ", is_new=True, use_environment=False)
        try:
            count = client.rotate(old_password=old, new_password=new).secrets
        except ServerNotRunning:
            count = services.rotate(old_password=old, new_password=new)
        self.stdout.write(f"The password is changed; {count} secrets are sealed anew.")
        if settings.TOKENHUB_VAULT_PASSWORD:
            self.stdout.write("Change TOKENHUB_VAULT_PASSWORD, or its file, too: it opens the vault at the next start.")

    def _status(self, client: ControlClient) -> None:
        try:
            state, server = client.status(), "running"
        except ServerNotRunning:
            state, server = services.status(), "not running"
        except VaultError as problem:
            state, server = services.status(), f"not known. {problem.message}"
        opened = "locked" if state.locked else "open"
        self.stdout.write(f"server: {server}")
        self.stdout.write(f"vault: {opened if state.initialized else 'not made yet'}")
        self.stdout.write(f"secrets: {state.secrets}")


def _password(file: Path | None, prompt: str, *, is_new: bool = False, use_environment: bool = True) -> str:
    """From the file, the environment or a person, in this order. Raises CommandError."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip("\r\n")
        except UnicodeDecodeError:  # its text quotes a byte
            raise CommandError(f"{file} is no text in UTF-8. Is it the right file?") from None
        except OSError as problem:
            raise CommandError(f"{file} cannot be read: {problem.strerror}.") from None
    if use_environment and settings.TOKENHUB_VAULT_PASSWORD:
        return _utf8(settings.TOKENHUB_VAULT_PASSWORD)
    if not sys.stdin.isatty():
        which = "--password-file" if use_environment else "--new-password-file"
        raise CommandError(f"There is nobody to ask for the password: give it with {which}.")
    try:
        password = getpass(prompt)
        if is_new and getpass("The same again: ") != password:
            raise CommandError("The two passwords differ. Nothing was changed.")
    except (EOFError, KeyboardInterrupt):
        raise CommandError("No password was given. Nothing was changed.") from None
    return _utf8(password)


def _utf8(password: str) -> str:
    try:
        password.encode("utf-8")
    except UnicodeEncodeError:
        raise CommandError("The password is no text in UTF-8. Give it with a file.") from None
    return password
