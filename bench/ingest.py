#!/usr/bin/env python3
"""How many journal lines per second become rows, with everything that follows from them. As Markdown.

    bench/ingest.py [--lines 50000] [--database postgres://…]

Lines of 12 models, 5 projects and 2 modes, in the order of time, 50 a second; every other one is charged to a budget.
The best of three rounds: the machine's noise only adds. The folder is a temporary one, the database empty."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
ROUNDS = 3
PER_SECOND = 50
START = 1_764_000_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--database", default="", help="an empty one; without it, SQLite in the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenhub-ingest-") as name:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "tokenhub.settings", "TOKENHUB_DATA_DIR": name, "TOKENHUB_LOG_LEVEL": "warning",
        }  # fmt: skip
        if options.database:
            os.environ["TOKENHUB_DATABASE_URL"] = options.database
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        measure(Path(name) / "journal", options.lines)


def measure(journal: Path, lines: int) -> None:
    from decimal import Decimal

    from django.db import connection

    from keys.bank import DatabaseBank
    from keys.models import Budget, Every, Subject
    from telemetry import ingest

    budget = Budget.objects.create(subject=Subject.INSTALLATION, amount_usd=Decimal(1_000_000), every=Every.TOTAL)
    grant = DatabaseBank(holder="bench", host="bench").grant(budget.pk, "", most=10**14, least=1)
    journal.mkdir()
    best, least = 0.0, float("inf")
    for number in range(ROUNDS):
        written = write(journal, lines, number, grant.lease, grant.period)
        started, busy = perf_counter(), process_time()
        assert ingest.ingest_all(journal) == lines
        best = max(best, lines / (perf_counter() - started))
        least = min(least, (process_time() - busy) / lines * 1e6)
    print("| database | lines | bytes a line | rows/s | CPU µs a row |\n|---|---|---|---|---|")
    print(f"| {connection.vendor} | {lines:,} | {written // lines} | {best:,.0f} | {least:.0f} |")


def write(journal: Path, lines: int, number: int, lease: str, period: int) -> int:
    """A segment that its writer has left. Its bytes."""
    from telemetry.journal import Attempt, Candidate, Charge, Entry, encode_line

    rng = random.Random(number)
    path = journal / f"bench-1-{number}-aa.journal"
    with path.open("wb") as file:
        for line in range(lines):
            model = rng.randrange(12)
            name, provider = f"org/model-{model}", f"provider-{model % 4}"
            failed = rng.random() < 0.03
            cost = rng.randrange(10_000, 90_000_000)
            stream = rng.random() < 0.5
            latency = int(rng.lognormvariate(6.5, 0.8))
            entry = Entry(
                id=str(UUID(int=number << 64 | line)),
                at=START + (number * lines + line) * 1_000_000 // PER_SECOND,
                endpoint="/v1/chat/completions",
                status=502 if failed else 200,
                key_id=str(UUID(int=rng.randrange(20))),
                key_name="application",
                project=f"project-{rng.randrange(5)}",
                dialect="openai-chat",
                requested_model="auto",
                mode=rng.choice(("normal", "cheap")),
                model=name,
                provider=provider,
                reason="routed",
                error_class="transient" if failed else "",
                error_code="upstream_error" if failed else "",
                stream=stream,
                input_tokens=0 if failed else rng.randrange(10, 9000),
                cached_input_tokens=0 if failed or rng.random() < 0.7 else rng.randrange(10),
                output_tokens=0 if failed else rng.randrange(1, 900),
                estimated_cost_nano=50_000,
                cost_nano=None if failed else cost,
                latency_ms=latency,
                first_chunk_ms=latency // 3 if stream and not failed else None,
                attempt_list=[Attempt(name, provider, "transient" if failed else "", 502 if failed else 200, latency)],
                candidates=[Candidate(name, provider, 0.5, 0.2, 0.5, 0.1, 0.3), Candidate("b", "b", excluded="down")],
                charges=[Charge(lease, period, cost)] if line % 2 and not failed else [],
            )
            file.write(encode_line(entry))
    return path.stat().st_size


if __name__ == "__main__":
    main()
