"""A process that wants a job again and again, until it has run it so many times:

    python -m tests.jobs.contender RUNS SECONDS

Whether anybody else is at it at the same time, a lock of PostgreSQL's own tells, which has nothing to do with leases.
Prints how often it ran, and how often it was refused, as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta

import psycopg

HOST = "a-host"
WITNESS = 8_101
SECONDS = 0.0


def works() -> str:
    with psycopg.connect(os.environ["TOKENHUB_DATABASE_URL"], autocommit=True) as alone:
        row = alone.execute("SELECT pg_try_advisory_lock(%s)", [WITNESS]).fetchone()
        assert row is not None
        if not row[0]:
            print("NOT ALONE", flush=True)
        print("at it", flush=True)
        time.sleep(SECONDS)
    return "Done."


def main() -> None:
    global SECONDS
    runs, SECONDS = int(sys.argv[1]), float(sys.argv[2])
    import django

    django.setup()
    from tokenhub.job_runs import run
    from tokenhub.jobs import JOBS

    this = sys.modules[__name__]
    sys.modules["tests.jobs.contender"] = this
    job = replace(JOBS["rollup"], path="tests.jobs.contender:works")
    ran = refused = 0
    while ran < runs:
        if run(job, host=HOST, early=timedelta(days=1)):
            ran += 1
        else:
            refused += 1
            time.sleep(0.001)
    print(json.dumps({"ran": ran, "refused": refused}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
    main()
