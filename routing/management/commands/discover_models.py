"""`manage.py discover_models PROVIDER`: which models a provider has, and making models of them."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.utils import DatabaseError

from providers import discovery
from providers.models import Provider
from routing import importing
from routing.importing import Offered
from telemetry.money import per_million
from vault.services import open_from_environment


class Command(BaseCommand):
    help = "Lists the models of a provider, with prices of the catalogue; --import makes models of them."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", help="its id")
        parser.add_argument("--import", action="store_true", dest="take", help="make models of all that can be routed")
        parser.add_argument("--model", action="append", default=[], help="make a model of this one; repeatable")
        parser.add_argument("--disabled", action="store_true", help="what is made is not enabled yet")
        parser.add_argument("--json", action="store_true", help="print the list as JSON")

    def handle(self, **options: Any) -> None:
        try:
            self._handle(options)
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}") from None

    def _handle(self, options: dict[str, Any]) -> None:
        provider = Provider.objects.filter(pk=options["provider"]).first()
        if provider is None:
            known = ", ".join(Provider.objects.values_list("id", flat=True)) or "none"
            raise CommandError(f"There is no provider {options['provider']!r}. There are: {known}.")
        open_from_environment()
        look = discovery.best(discovery.look(provider))
        if look.problem is not None:
            raise CommandError(f"{look.address}: {look.message} {look.hint}")
        offers = importing.offered(provider, look.models)
        if strange := importing.unknown(offers, options["model"]):
            raise CommandError(f"{strange!r} is not in the list of {provider.pk}.")
        if options["take"] or options["model"]:
            taken = importing.take(
                provider=provider, offers=offers, only=options["model"] or None, enabled=not options["disabled"]
            )
            for one in taken:
                self.stdout.write(f"{one.state:8}  {one.id}  {one.reason}".rstrip())
            return
        if options["json"]:
            self.stdout.write(json.dumps([_plain(one) for one in offers], indent=2))
            return
        rows = [("model", "kind", "context", "$/M in", "$/M out", "here as"), *map(_row, offers)]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        for row in rows:
            self.stdout.write("  ".join(f"{one:{width}}" for one, width in zip(row, widths, strict=True)).rstrip())


def _plain(offer: Offered) -> dict[str, Any]:
    listed = offer.listed
    return {
        "id": offer.id,
        "upstream_model": listed.id,
        "kind": listed.kind,
        "imported": offer.imported,
        "max_context_tokens": offer.max_context_tokens,
        "max_output_tokens": listed.max_output_tokens,
        "abilities": list(offer.abilities),
        **{name: float(price) for name, price in offer.prices.items()},
    }


def _row(offer: Offered) -> tuple[str, ...]:
    prices = [f"{per_million(offer.prices[name]):f}" if name in offer.prices else "?" for name in _SHOWN]
    context = str(offer.max_context_tokens or "?")
    return offer.listed.id, offer.listed.kind, context, *prices, offer.id if offer.imported else "-"


_SHOWN = ("input_per_1k", "output_per_1k")
