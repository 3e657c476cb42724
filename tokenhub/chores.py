"""What the jobs of tokenhub/jobs.py do. Each may run at any time, on any host, twice at once, and be killed in between;
each says in a sentence what came of it. Synchronous Django; raises DatabaseError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.utils import timezone

from keys import playground
from keys.services import tell_due
from orchestration import store
from routing import catalogue, idempotency_store, learning_store
from routing.probes import load_subjects, probe_in_no_server
from routing.runtime import journal_folder, serving
from telemetry import captures, ingest, retention
from telemetry import webhooks as telemetry_webhooks
from telemetry.journal import segments
from telemetry.models import JournalSegment
from telemetry.tsdb import upkeep
from tokenhub import login


# -- probes ----------------------------------------------------------------------------------------------------------
def probe_providers() -> str:
    """In a worker over the connections of its traffic; elsewhere over fresh ones, and with a vault that is opened by
    this process's own password."""
    if (worker := serving()) is not None:
        findings = worker.probe(load_subjects())
    else:
        findings, _ = probe_in_no_server()
    skipped = [one for one in findings if one.skipped]
    dead = [one.provider_id for one in findings if one.error is not None]
    told = [f"{len(findings) - len(skipped)} providers asked"]
    if dead:
        told.append(f"{len(dead)} failed: {', '.join(sorted(dead)[:5])}")
    if skipped:
        told.append(f"{len(skipped)} skipped: {', '.join(sorted({one.skipped for one in skipped}))}")
    return "; ".join(told) + "."


# -- the journal -----------------------------------------------------------------------------------------------------
def ingest_journal() -> str:
    """A pass over this host's journal, unless a worker is at it anyway."""
    folder = journal_folder()
    lease = ingest.Lease(folder)
    try:
        if not lease.take():
            return f"A worker of this host is at it, twice a second; {_waiting_bytes()} bytes wait."
        rows = ingest.ingest_all(folder)
        for sweep in ingest.SWEEPS:
            sweep(folder)
    finally:
        lease.release()
    return f"{rows} requests taken into the log."


def _waiting_bytes() -> int:
    read = dict(JournalSegment.objects.values_list("name", "offset"))
    waiting = 0
    for segment in segments(journal_folder()):
        try:
            waiting += max(0, segment.path.stat().st_size - read.get(segment.name, 0))
        except FileNotFoundError:  # read to its end by now
            continue
    return waiting


# -- keeping house ---------------------------------------------------------------------------------------------------
def rollup() -> str:
    return f"{upkeep.roll_up()} hours and days rolled up."


_WORDS: Final[dict[Callable[[], int], str]] = {
    retention.prune_log: "rows or months of the request log",
    retention.prune_series: "rows of the time series",
    telemetry_webhooks.prune: "deliveries of webhooks",
    store.prune: "runs of /v1/plan",
    login.prune_sessions: "sessions",
    playground.prune: "keys of the playground",
    captures.prune: "captured requests",
    idempotency_store.prune: "answers kept for repeats",
}


def prune() -> str:
    """All of them, even if one fails: its error is raised at the end."""
    dropped: list[str] = []
    failure: Exception | None = None
    for pruner in retention.PRUNERS:
        try:
            if number := pruner():
                dropped.append(f"{number} {_WORDS.get(pruner, pruner.__name__)}")
        except Exception as problem:
            failure = failure or problem
    if failure is not None:
        raise failure
    return f"Dropped: {', '.join(dropped)}." if dropped else "There was nothing to drop."


def fold_posterior() -> str:
    return f"{learning_store.fold()} rows folded into one."


# -- for people --------------------------------------------------------------------------------------------------------
def update_prices() -> str:
    """Raises CatalogueUnusable."""
    if settings.TOKENHUB_PRICE_UPDATES == "apply":
        return f"The prices of {len(catalogue.apply())} models were taken over."
    differing = [offer.model.pk for offer in catalogue.offers() if offer.is_applicable]
    if not differing:
        return "All prices are as in the catalogue."
    more = ", …" if len(differing) > 5 else ""
    return f"{len(differing)} models would get other prices: {', '.join(differing[:5])}{more}."


def key_rotation_reminders() -> str:
    return f"{tell_due(timezone.now())} keys became due."


def webhooks() -> str:
    sent = 0
    while telemetry_webhooks.send_next():
        sent += 1
    return f"{sent} deliveries attempted."
