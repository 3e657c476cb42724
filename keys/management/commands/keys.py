"""`manage.py keys list|create|rotate|revoke`: client keys from the shell."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from keys import services
from keys.auth import KEY_PREFIX
from keys.models import ClientKey, Scope

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    help = "Lists, creates, renews and revokes client keys. A key is shown once, when it is made."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="every key, newest first")
        create = actions.add_parser("create", help="make a key and print it")
        create.add_argument("name", help="which application uses it")
        create.add_argument("--owner", default="")
        create.add_argument("--project", default="")
        create.add_argument("--scope", action="append", default=[], choices=Scope.values, help="default: every scope")
        create.add_argument("--model", action="append", default=[], help="an allowed model id; default: every model")
        create.add_argument("--expires-in", metavar="720h", help="2s, 30m, 720h or 30d; default: never")
        create.add_argument("--rotation-days", type=int, help="a new secret is due after so many days; default: never")
        rotate = actions.add_parser("rotate", help="a new secret in place of the old one")
        which = rotate.add_mutually_exclusive_group(required=True)
        which.add_argument("key", nargs="?", help="its prefix, id or name")
        which.add_argument("--due", action="store_true", help="every enabled key whose rotation is due")
        rotate.add_argument("--grace", metavar="24h", help="for so long the old secret works, too; default: not at all")
        actions.add_parser("revoke", help="refuse it from now on").add_argument("key", help="its prefix, id or name")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        match action:
            case "list":
                self._list()
            case "create":
                self._create(options)
            case "rotate":
                self._rotate(options)
            case "revoke":
                key = find_key(options["key"])
                services.revoke(key=key)
                self.stdout.write(f"{key} is refused from now on.")

    def _rotate(self, options: dict[str, Any]) -> None:
        grace = _duration("--grace", options["grace"]) if options["grace"] is not None else None
        due = ClientKey.objects.all().due(timezone.now()) if options["due"] else [find_key(options["key"])]
        left = []
        for key in due:
            try:
                self._show(services.reissue(key=key, grace=grace))
            except services.SecretChanged:
                left.append(key.name)
        if left:
            names = ", ".join(left)
            raise CommandError(f"Left alone, as somebody rotated or deleted them at the same moment: {names}.")
        if not due:
            self.stdout.write("No rotation is due.")

    def _list(self) -> None:
        for key in ClientKey.objects.all():
            state = "enabled" if key.enabled else "disabled"
            if key.expires_at is not None:
                over = key.expires_at <= timezone.now()
                state += f", {'expired' if over else 'expires'} {key.expires_at:%Y-%m-%d %H:%M}"
            if (due := key.rotation_due_at) is not None:
                state += f", {'rotation due since' if due <= timezone.now() else 'rotation due'} {due:%Y-%m-%d}"
            scopes = ", ".join(key.scopes) or "every scope"
            self.stdout.write(f"{key.key_prefix}…  {key.name}  [{state}]  {scopes}  id {key.id}")

    def _create(self, options: dict[str, Any]) -> None:
        expires_at = None
        if options["expires_in"] is not None:
            expires_at = _from_now(options["expires_in"])
        try:
            issued = services.issue(
                name=options["name"],
                owner=options["owner"],
                project=options["project"],
                scopes=options["scope"],
                allowed_models=options["model"],
                rotation_days=options["rotation_days"],
                expires_at=expires_at,
            )
        except ValidationError as problem:
            raise CommandError("; ".join(problem.messages)) from None
        self._show(issued)

    def _show(self, issued: services.IssuedKey) -> None:
        self.stderr.write("Keep it now: it is not shown again.")
        self.stdout.write(issued.plaintext)


def find_key(wanted: str) -> ClientKey:
    text = wanted.rstrip("…")
    tells_apart = len(text) > len(KEY_PREFIX)  # every key begins with `tokenhub_`
    found = [
        key
        for key in ClientKey.objects.all()
        if text in {str(key.id), key.name} or (tells_apart and key.key_prefix.startswith(text))
    ]
    if len(found) != 1:
        what = "No client key" if not found else f"{len(found)} client keys"
        raise CommandError(f"{what} match {wanted!r}. `manage.py keys list` shows them; their id is unambiguous.")
    return found[0]


def _duration(option: str, text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise CommandError(f"{option}: {text!r} is no duration such as 2s, 30m, 720h or 30d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _from_now(duration: str) -> datetime:
    try:
        return timezone.now() + _duration("--expires-in", duration)
    except OverflowError:
        raise CommandError(f"--expires-in: {duration} ends after the year 9999. Leave it out for never.") from None
