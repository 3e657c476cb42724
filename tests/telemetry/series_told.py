"""Requests in two parts, some of them late, and all that the time series tell in between. Run as a process, it uses the
database of its environment, and prints that as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

START, DAY = 1_764_028_800, 86_400


def told(folder: Path) -> list[Any]:
    from telemetry.ingest import ingest_all
    from telemetry.tsdb.upkeep import prune, roll_up

    found: list[Any] = []
    for late in (False, True):
        _write(folder, late=late)
        ingest_all(folder)
        found += [_everything(), roll_up(START + 3 * DAY), _everything()]
        found += _overview()
    found += [prune(START + 10 * DAY), _everything()]
    told: list[Any] = json.loads(json.dumps(found))
    return told


def _write(folder: Path, *, late: bool) -> None:
    from telemetry.journal import Entry, encode_line

    with (folder / "host-1-1-aa.journal").open("wb") as file:
        for number in range(100):
            entry = Entry(
                id=str(UUID(int=late << 32 | number)),
                at=(START + late * 7000 + number * 977) * 1_000_000,
                endpoint="chat",
                status=502 if number % 7 == 0 else 200,
                error_class="transient" if number % 7 == 0 else "",
                model=f"m{number % 3}",
                latency_ms=number * number,
                cost_nano=number * 123_456_789,
                input_tokens=number,
                output_tokens=1,
                reward=number / 100,
            )
            file.write(encode_line(entry))


def _overview() -> list[Any]:
    """What the dashboard shows of all that."""
    from telemetry.tsdb.overview import WINDOWS, failing, overview

    found: list[Any] = [failing(until=START + 7200, minutes=60)]
    for by in ("model_id", "error_class"):
        for window in WINDOWS.values():
            shown = overview(until=START + 2 * DAY - 1000, window=window, by=by)
            figures = [shown.now, shown.before, *(one for _, *both in shown.groups for one in both)]
            found += [[one.requests, one.errors, one.cost_nano, one.tokens, one.latency_ms(95)] for one in figures]
    return found


def _everything() -> list[Any]:
    from telemetry.tsdb.metrics import METRICS
    from telemetry.tsdb.query import Question, ask

    return [
        ask(Question(METRICS[name], agg, START, START + 2 * DAY, step, group_by=by)).lines
        for name in ("requests", "errors", "latency_ms", "cost_usd", "reward")
        for agg in METRICS[name].aggregates
        for step, by in ((1800, ()), (DAY, ("model_id", "error_class")))
    ]


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tokenhub.settings"
    import django

    django.setup()
    print(json.dumps(told(Path(sys.argv[1]))))
