"""What /metrics reads from the database and the journal's folder."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from time import time

import pytest
from django.utils import timezone

from keys.models import Budget, BudgetPeriod
from telemetry.ingest import ingest_all
from telemetry.journal import Entry, Journal
from telemetry.metrics import Series
from tokenhub.gauges import MAX_BUDGETS, backlog, budgets

pytestmark = pytest.mark.django_db


def single(found: dict[str, Series], name: str) -> float:
    ((_, value),) = found[name]
    assert not isinstance(value, list)
    return value


def test_the_backlog_is_what_the_request_log_lacks_and_how_old_that_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    hour_ago = int((time() - 3600) * 1e6)
    journal.append(Entry(id=f"{1:032x}", at=hour_ago, endpoint="/v1", status=200))
    journal.append(Entry(id=f"{2:032x}", at=int(time() * 1e6), endpoint="/v1", status=200))
    (path,) = tmp_path.glob("*.journal")
    found = backlog(tmp_path)
    assert single(found, "tokenhub_journal_lag_bytes") == path.stat().st_size
    assert 3590 < single(found, "tokenhub_journal_lag_seconds") < 3700
    assert ingest_all(tmp_path) == 2
    found = backlog(tmp_path)
    assert single(found, "tokenhub_journal_lag_bytes") == single(found, "tokenhub_journal_lag_seconds") == 0
    journal.append(Entry(id=f"{3:032x}", at=int(time() * 1e6), endpoint="/v1", status=200))
    assert 0 <= single(backlog(tmp_path), "tokenhub_journal_lag_seconds") < 600
    journal.close()


def test_of_many_budgets_the_fullest_are_shown() -> None:
    count = MAX_BUDGETS + 30
    Budget.objects.bulk_create(
        Budget(subject="project", subject_id=f"p{number}", amount_usd=Decimal(number + 1), every="total")
        for number in range(count)
    )
    made = list(Budget.objects.order_by("pk"))
    now = timezone.now()
    BudgetPeriod.objects.bulk_create(
        BudgetPeriod(budget=one, every="total", starts_at=now, settled_nano=one.amount_nano * number // count)
        for number, one in enumerate(made[:-5])
    )
    found = budgets()
    shown = [key[0] for key, _ in found["tokenhub_budget_spent_usd"]]
    assert set(shown) == {str(one.pk) for one in made[-5 - MAX_BUDGETS : -5]}
    assert len(found["tokenhub_budget_amount_usd"]) == MAX_BUDGETS
    assert single(found, "tokenhub_budgets_unlisted") == 30


def test_only_the_current_period_counts() -> None:
    one = Budget.objects.create(subject="installation", amount_usd=Decimal("2.5"), every="day")
    now = timezone.now()
    day = timedelta(days=1)
    BudgetPeriod.objects.create(budget=one, every="day", starts_at=now - 2 * day, ends_at=now - day, settled_nano=7)
    assert found_for(one) == (2_500_000_000, 0, 0)
    BudgetPeriod.objects.create(
        budget=one, every="day", starts_at=now - day / 2, ends_at=now + day / 2, settled_nano=5, leased_nano=3
    )
    assert found_for(one) == (2_500_000_000, 5, 3)


def found_for(one: Budget) -> tuple[object, ...]:
    found = budgets()
    names = ("tokenhub_budget_amount_usd", "tokenhub_budget_spent_usd", "tokenhub_budget_leased_usd")
    return tuple(dict(found[name])[str(one.pk), "installation", "day"] for name in names)
