"""The background work, once: what there is to do, how often, and where. Threads of the workers
(tokenhub/job_scheduler.py) and Celery (tokenhub/celery.py) run the same. Knows neither, and loads no code of a job.

What must happen within a second is no job: ingestion of the journal, the look at the snapshot's version, the sending of
webhooks and the settling of leases are threads of every worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, Final

from django.conf import settings


class Scope(StrEnum):
    HOST = "host"
    """Once on each host: it needs the host's files."""
    INSTALLATION = "installation"


@dataclass(frozen=True, slots=True)
class Job:
    """`path`: module and function, which takes nothing, may be called at any time and any number of times, and says in
    a sentence what came of it. `first_seconds`: until the first run of a fresh installation. A run that takes longer
    than `limit_seconds` is given up."""

    name: str
    does: str
    every_seconds: int
    path: str
    scope: Scope = Scope.INSTALLATION
    first_seconds: int = 60
    limit_seconds: int = 600

    def load(self) -> Callable[[], str]:
        module, _, name = self.path.partition(":")
        function: Any = getattr(import_module(module), name)
        found: Callable[[], str] = function
        return found


_PROBES: Final[int] = settings.TOKENHUB_PROBE_SECONDS

SCHEDULE: Final = (
    Job(
        "probe_providers",
        "Asks every enabled provider whether it is there.",
        _PROBES,
        "tokenhub.chores:probe_providers",
        first_seconds=_PROBES,
    ),
    Job(
        "ingest_journal",
        "Sees that this host's journal is read into the request log, and reads it where nobody else does.",
        60,
        "tokenhub.chores:ingest_journal",
        scope=Scope.HOST,
    ),
    Job("rollup", "Rolls the time series up: minutes to hours, hours to days.", 60, "tokenhub.chores:rollup"),
    Job(
        "prune",
        "Drops what is older than its retention.",
        3600,
        "tokenhub.chores:prune",
        limit_seconds=14_400,
    ),
    Job(
        "update_prices",
        "Compares models' prices with the catalogue; takes them over where TOKENHUB_PRICE_UPDATES says so.",
        86_400,
        "tokenhub.chores:update_prices",
        first_seconds=600,
    ),
    Job(
        "key_rotation_reminders",
        "Tells of client keys whose rotation is due.",
        300,
        "tokenhub.chores:key_rotation_reminders",
        first_seconds=0,
    ),
    Job("webhooks", "Sends the deliveries that are due and that no worker has sent.", 60, "tokenhub.chores:webhooks"),
    Job(
        "fold_posterior",
        "Folds what the bandit learned into one row, from which workers start.",
        600,
        "tokenhub.chores:fold_posterior",
        first_seconds=600,
    ),
)
JOBS: Final = {job.name: job for job in SCHEDULE}
