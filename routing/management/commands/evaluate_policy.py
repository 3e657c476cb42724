"""`manage.py evaluate_policy`: what another policy would have cost and scored on the logged traffic."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from routing.errors import ApiError
from routing.replay import MAX_ROWS, replay, shown
from routing.snapshot_build import build_snapshot

LABELS = {"ips": "inverse propensity", "snips": "the same, self-normalised", "dr": "doubly robust"}


class Command(BaseCommand):
    help = "What other policies would have cost and scored on the logged requests of a period, with 95 % intervals."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "policies",
            nargs="*",
            default=["logged"],
            help="a mode, model:ID, random, logged (as it was); several to compare",
        )
        parser.add_argument("--days", type=float, default=30.0, help="the last so many days (30)")
        parser.add_argument("--from", dest="since", help="instead: from this day or time on")
        parser.add_argument("--to", dest="until", help="up to this day or time")
        parser.add_argument("--max-rows", type=int, default=MAX_ROWS, help=f"the newest so many requests ({MAX_ROWS})")
        parser.add_argument("--json", action="store_true", help="as the admin API answers")

    def handle(self, **options: Any) -> None:
        until = _moment(options["until"], "--to") or timezone.now()
        if options["days"] <= 0 or options["max_rows"] <= 0:
            raise CommandError("--days and --max-rows must be above 0.")
        since = _moment(options["since"], "--from") or until - timedelta(days=options["days"])
        profiles = build_snapshot().profiles
        try:
            results = [
                shown(replay(one, profiles, since=since, until=until, max_rows=options["max_rows"]))
                for one in options["policies"]
            ]
        except ApiError as problem:
            raise CommandError(f"{problem.message} {problem.hint}".rstrip()) from None
        if options["json"]:
            self.stdout.write(json.dumps(results, indent=2))
            return
        for result in results:
            self._tell(result)

    def _tell(self, result: dict[str, Any]) -> None:
        self.stdout.write(self.style.MIGRATE_HEADING(result["policy"]))
        if result["reward"] is not None:
            self.stdout.write(f"{result['rows']} requests, which tell as much as {result['effective_rows']:.0f}")
            self.stdout.write(f"{'':28}{'reward':>28}{'dollars per 1,000 requests':>34}")
        for name, label in LABELS.items() if result["reward"] is not None else ():
            reward, cost = result["reward"][name], result["cost_usd"][name]
            self.stdout.write(
                f"{label:28}{reward['value']:10.4f} ({reward['low']:.4f} to {reward['high']:.4f})"
                f"{1000 * cost['value']:12.4f} ({1000 * cost['low']:.4f} to {1000 * cost['high']:.4f})"
            )
        for why, count in result["left_out"].items():
            self.stdout.write(f"left out: {count} requests, {why}")
        for warning in result["warnings"]:
            self.stdout.write(self.style.WARNING(warning))
        self.stdout.write("")


def _moment(text: str | None, name: str) -> datetime | None:
    if not text:
        return None
    try:
        found = parse_datetime(text)
        day = parse_date(text) if found is None else None
    except ValueError:
        found = day = None
    if found is None and day is not None:
        found = datetime(day.year, day.month, day.day)  # noqa: DTZ001  made aware below
    if found is None:
        raise CommandError(f"{name} must be a day or a time such as 2026-11-01 or 2026-11-01T12:00.")
    return timezone.make_aware(found) if timezone.is_naive(found) else found
