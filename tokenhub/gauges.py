"""What `/metrics` tells of things that no counter knows: budgets, the journal's backlog, the vault, the database. Read
when somebody asks, in a thread. A database that does not answer in time costs these figures, not the others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final

from django.conf import settings
from django.db import close_old_connections
from django.db.models import F, FloatField, Q
from django.db.models.functions import Cast
from django.db.utils import DatabaseError
from django.utils import timezone

from keys.models import NANO, Budget, BudgetPeriod
from routing.runtime import journal_folder
from telemetry.journal import segments
from telemetry.logs import EventLogger
from telemetry.metrics import Series, alone
from telemetry.models import JournalSegment
from vault.keyring import KEYRING
from vault.models import VaultState

log = EventLogger(__name__)
MAX_BUDGETS: Final = 200
WAIT_SECONDS: Final = 3.0


class Gauges:
    """One reader at a time, however many ask."""

    def __init__(self) -> None:
        self._reading: asyncio.Future[dict[str, Series]] | None = None

    async def read(self) -> dict[str, Series]:
        """Belongs to the event loop."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(_read))
        found: dict[str, Series] = {}
        is_up = 0
        with suppress(TimeoutError, DatabaseError, OSError):
            found, is_up = await asyncio.wait_for(asyncio.shield(self._reading), WAIT_SECONDS), 1
        return (
            found
            | alone({"tokenhub_database_up": is_up, "tokenhub_vault_unlocked": int(KEYRING.is_open)})
            | {"tokenhub_info": [((settings.VERSION,), 1)]}
        )


GAUGES: Final = Gauges()


def _read() -> dict[str, Series]:
    """Raises DatabaseError."""
    try:
        return (
            budgets()
            | backlog(journal_folder())
            | alone({"tokenhub_vault_initialized": int(VaultState.objects.exists())})
        )
    finally:
        close_old_connections()


def budgets() -> dict[str, Series]:
    """The fullest of the budgets by their number, and those that nobody spends of, as far as there is room."""
    now = timezone.now()
    current = (
        BudgetPeriod.objects.filter(
            Q(ends_at__isnull=True) | Q(ends_at__gt=now), starts_at__lte=now, every=F("budget__every")
        )
        .annotate(share=Cast("settled_nano", FloatField()) / (Cast("budget__amount_usd", FloatField()) + 1e-9))
        .order_by("-share", "budget_id")
        .values_list("budget_id", "settled_nano", "leased_nano")[:MAX_BUDGETS]
    )
    spent = {pk: (settled, leased) for pk, settled, leased in current}
    shown = list(Budget.objects.filter(pk__in=list(spent)))
    shown += Budget.objects.exclude(pk__in=list(spent)).order_by("pk")[: MAX_BUDGETS - len(shown)]
    amounts, settled, leased = list[Series](([], [], []))
    for one in shown:
        key = (str(one.pk), one.subject, one.every)
        amounts.append((key, int(one.amount_usd * NANO)))
        settled.append((key, spent.get(one.pk, (0, 0))[0]))
        leased.append((key, spent.get(one.pk, (0, 0))[1]))
    return {
        "tokenhub_budget_amount_usd": amounts,
        "tokenhub_budget_spent_usd": settled,
        "tokenhub_budget_leased_usd": leased,
    } | alone({"tokenhub_budgets_unlisted": max(0, Budget.objects.count() - len(shown))})


def backlog(folder: Path) -> dict[str, Series]:
    """Of the journal, what is not in the request log yet."""
    offsets = dict(JournalSegment.objects.values_list("name", "offset"))
    waiting, oldest = 0, 0.0
    for segment in segments(folder):
        offset = offsets.get(segment.name, 0)
        with suppress(OSError):  # ingested and deleted meanwhile
            size = segment.path.stat().st_size - offset
            if size <= 0:
                continue
            waiting += size
            entries, _, _ = segment.read(offset, 1)
            if entries:
                oldest = max(oldest, time() - entries[0].at / 1e6)
    return alone({"tokenhub_journal_lag_bytes": waiting, "tokenhub_journal_lag_seconds": oldest})
