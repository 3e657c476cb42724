"""`manage.py update_prices`: what the price catalogue would change; with --apply it does."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from routing import catalogue
from routing.catalogue import CatalogueUnusable, Offer

STATES = {
    "new": "no price yet",
    "changed": "differs from the catalogue",
    "kept": "set here, and kept; the catalogue differs",
    "same": "as in the catalogue",
    "unknown": "not in the catalogue",
}


class Command(BaseCommand):
    help = "Compares models' prices with the catalogue of the package genai-prices. Prices set by hand are kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("models", nargs="*", metavar="MODEL", help="only these; default: all")
        parser.add_argument("--apply", action="store_true", help="take over new and changed prices")

    def handle(self, *args: Any, models: list[str], apply: bool, **options: Any) -> None:
        try:
            found = catalogue.offers()
            known = {one.model.pk for one in found}
            if unknown := [one for one in models if one not in known]:
                raise CommandError(f"There is no model {unknown[0]!r}.")
            wanted = [one for one in found if not models or one.model.pk in models]
            for offer in wanted:
                self._tell(offer)
            count = sum(one.is_applicable for one in wanted)
            if apply:
                count = len(catalogue.apply(only={one.model.pk for one in wanted}))
        except CatalogueUnusable as problem:
            raise CommandError(problem.message) from None
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        if apply:
            self.stdout.write(f"The prices of {count} models are taken over.")
        elif count:
            self.stdout.write(f"{count} models would get other prices: --apply does it.")
        else:
            self.stdout.write("There is nothing to take over.")

    def _tell(self, offer: Offer) -> None:
        name = f" ({offer.catalogue_id})" if offer.catalogue_id else ""
        self.stdout.write(f"{offer.model.pk}{name}: {STATES[offer.state]}")
        for what, now, then in offer.told:
            self.stdout.write(f"    {what}: {now} -> {then} per million tokens")
        if offer.other:
            self.stdout.write(f"    costs more that is not counted: {', '.join(offer.other)}")
