"""`manage.py probe_providers`: one pass over all providers, now. What it finds counts for running servers, too."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from providers.models import Provider
from routing.health_store import health_report
from routing.probes import Finding, probe_in_no_server


class Command(BaseCommand):
    help = "Asks every enabled provider whether it is there, and prints what it finds."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            findings, store = probe_in_no_server()
            states = {one["provider_id"]: one["state"] for one in health_report(store=store)["providers"]}
            names = list(Provider.objects.filter(enabled=True).values_list("id", flat=True))
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}") from None
        if not names:
            self.stdout.write("There is no enabled provider.")
            return
        found = {one.provider_id: one for one in findings}
        rows = [("provider", "state", "ms", "what")]
        rows += [_row(name, states.get(name, ""), found.get(name)) for name in names]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for provider, state, ms, what in rows:
            line = f"{provider:{widths[0]}}  {state:{widths[1]}}  {ms:>{widths[2]}}  {what}"
            self.stdout.write(line.rstrip())


def _row(name: str, state: str, finding: Finding | None) -> tuple[str, str, str, str]:
    if finding is None:
        return name, state, "", "not probed"
    if finding.skipped:
        return name, state, "", f"not probed: {finding.skipped}"
    return name, state, f"{finding.ms:.0f}", finding.text or "alive"
