#!/usr/bin/env python3
"""What the time series take to answer what dashboards ask. Milliseconds of CPU of the process that asks, as Markdown.

    bench/tsdb.py [--series 40] [--database postgres://…]

A week of minutes and three months of hours and days, of 40 series with five requests a minute each (two
million requests a week). Medians of five; the folder is a temporary one, the database empty."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
ROUNDS = 5
MINUTE, HOUR, DAY = 60, 3600, 86_400
END = 1_764_028_800
QUESTIONS = (
    ("requests a minute, an hour", "requests", "sum", HOUR, MINUTE, ()),
    ("cost of a day by model, 5 minutes", "cost_usd", "sum", DAY, 300, ("model_id",)),
    ("95th percentile of a day, 5 minutes", "latency_ms", "p95", DAY, 300, ()),
    ("95th percentile of a day by model, 5 minutes", "latency_ms", "p95", DAY, 300, ("model_id",)),
    ("errors of a day by class, 5 minutes", "errors", "sum", DAY, 300, ("error_class",)),
    ("tokens of a week by provider, an hour", "output_tokens", "sum", 7 * DAY, HOUR, ("provider_id",)),
    ("95th percentile of a week by model, an hour", "latency_ms", "p95", 7 * DAY, HOUR, ("model_id",)),
    ("cost of 90 days by project, a day", "cost_usd", "sum", 90 * DAY, DAY, ("project",)),
    ("95th percentile of 90 days by model, a day", "latency_ms", "p95", 90 * DAY, DAY, ("model_id",)),
    ("95th percentile of 90 days by model, 6 hours", "latency_ms", "p95", 90 * DAY, 6 * HOUR, ("model_id",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--database", default="", help="an empty one; without it, SQLite in the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenhub-tsdb-") as name:
        os.environ |= {"DJANGO_SETTINGS_MODULE": "tokenhub.settings", "TOKENHUB_DATA_DIR": name}
        if options.database:
            os.environ["TOKENHUB_DATABASE_URL"] = options.database
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", "telemetry", verbosity=0)
        fill(options.series)
        measure()


def fill(series: int) -> None:
    from django.db import connection, transaction

    from telemetry.models import Series
    from telemetry.tsdb.store import digest_of, put
    from telemetry.tsdb.totals import Labels

    labels = [
        Labels(
            f"org/model-{one % 12}", f"provider-{one % 4}", f"project-{one % 5}", "normal", "timeout" * (one % 10 == 0)
        )
        for one in range(series)
    ]
    Series.objects.bulk_create(Series(id=digest_of(one), **one._asdict()) for one in labels)
    rng = random.Random(1)
    for span, days, requests in ((MINUTE, 7, 5), (HOUR, 90, 300), (DAY, 90, 7200)):
        made = [_totals(rng, requests) for _ in range(50)]
        for begin in range(END - days * DAY, END, 200 * span):
            with transaction.atomic():
                put({
                    (span, at, digest_of(one)): rng.choice(made)
                    for at in range(begin, min(END, begin + 200 * span), span)
                    for one in labels
                })  # fmt: skip
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def _totals(rng: random.Random, requests: int) -> object:
    from telemetry.tsdb.totals import Totals

    totals = Totals()
    totals.requests = requests
    for measure in totals.measures:
        measure.waiting = [int(rng.lognormvariate(6.5, 0.8)) for _ in range(requests)]
    totals.row()
    return totals


def measure() -> None:
    from django.db import connection

    from telemetry.models import Sample

    print(f"{Sample.objects.count():,} rows on {connection.vendor}\n\n| question | points | CPU ms |\n|---|---|---|")
    for what, points, milliseconds in answers():
        print(f"| {what} | {points:,} | {milliseconds:.0f} |")


def answers() -> Iterator[tuple[str, int, float]]:
    from telemetry.tsdb.metrics import METRICS
    from telemetry.tsdb.query import Question, ask

    for what, metric, aggregate, length, step, group_by in QUESTIONS:
        question = Question(METRICS[metric], aggregate, END - length, END, step, group_by)
        times = []
        for _ in range(ROUNDS):
            started = process_time()
            answer = ask(question)
            times.append((process_time() - started) * 1000)
        yield what, sum(len(line.points) for line in answer.lines), median(times)


if __name__ == "__main__":
    main()
