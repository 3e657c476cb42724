"""`manage.py budgets list|set|remove|release-host`: budgets from the shell."""

from __future__ import annotations

from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from keys import bank, services
from keys.management.commands.keys import find_key
from keys.models import NANO, Budget, Every, Subject


class Command(BaseCommand):
    help = "Shows and sets what client keys, projects and the whole installation may spend."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="every budget, and what is spent of it")
        put = actions.add_parser("set", help="set the budget of somebody")
        put.add_argument("amount", help="in dollars, such as 25 or 0.50")
        put.add_argument("--every", choices=Every.values, default=Every.MONTH)
        for action in (put, actions.add_parser("remove", help="remove the budget of somebody")):
            whose = action.add_mutually_exclusive_group(required=True)
            whose.add_argument("--key", help="a client key's prefix, id or name")
            whose.add_argument("--project", help="its name")
            whose.add_argument("--installation", action="store_true")
        release = actions.add_parser("release-host", help="return the leases of a host that is gone for good")
        release.add_argument("host", help="as `list` names it")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        match action:
            case "list":
                self._list()
            case "set":
                self._set(options)
            case "remove":
                subject, subject_id = _whose(options)
                services.set_budget(subject=subject, subject_id=subject_id, amount_usd=None)
                self.stdout.write("Removed.")
            case "release-host":
                count = bank.release_host(options["host"])
                self.stdout.write(f"{count} leases of {options['host']} returned.")

    def _list(self) -> None:
        for one in services.standings(Budget.objects.all()):
            end = f", until {one.resets_at:%Y-%m-%d %H:%M %Z}" if one.resets_at is not None else ""
            over = f", ${one.overrun_usd:f} overrun" if one.overrun_usd else ""
            self.stdout.write(f"{one.budget}: ${one.spent_usd:f} spent ({one.percent:.1f} %){over}{end}")
            for host, nano in bank.leased_by_host(one.budget).items():
                self.stdout.write(f"    ${nano / NANO:.6f} leased by host {host}")

    def _set(self, options: dict[str, Any]) -> None:
        try:
            amount = Decimal(options["amount"])
        except InvalidOperation:
            raise CommandError(f"{options['amount']!r} is not an amount in dollars, such as 25 or 0.50.") from None
        subject, subject_id = _whose(options)
        try:
            services.set_budget(subject=subject, subject_id=subject_id, amount_usd=amount, every=options["every"])
        except ValidationError as problem:
            raise CommandError(" ".join(problem.messages)) from None
        self.stdout.write("Set. Running servers follow within a second.")


def _whose(options: dict[str, Any]) -> tuple[str, str]:
    if options["key"]:
        return Subject.KEY, str(find_key(options["key"]).pk)
    if options["project"]:
        return Subject.PROJECT, options["project"]
    return Subject.INSTALLATION, ""
