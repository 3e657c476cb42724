"""Which budgets refuse requests now, told from the log: a bar at 98 % does not show that the rest pays for
nothing. A few look-ups by index for a page of budgets; not for the data plane."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from django.db.models import OuterRef, QuerySet, Subquery

from keys.models import Budget, Subject
from keys.services import Standing
from telemetry.models import RequestLog


def refusing(standings: Iterable[Standing]) -> set[int]:
    """Ids of the budgets that refused the newest request which they concern, and could not pay for it now either."""
    by_id = {one.budget.pk: one for one in standings}
    newest: dict[int, int] = {}
    for subject in {one.budget.subject for one in by_id.values()}:
        rows = Budget.objects.filter(pk__in=by_id, subject=subject).annotate(newest=Subquery(_newest(subject)))
        newest |= {pk: row for pk, row in rows.values_list("pk", "newest") if row is not None}
    refused = RequestLog.objects.filter(pk__in=set(newest.values()), error_code="budget_exceeded")
    told = {pk: detail.get("refusal") or {} for pk, detail in refused.values_list("pk", "detail")}
    return {pk for pk, row in newest.items() if row in told and _cannot_pay(by_id[pk], told[row])}


def _newest(subject: str) -> QuerySet[RequestLog, int]:
    rows = RequestLog.objects.order_by("-created_at")
    match Subject(subject):
        case Subject.KEY:
            rows = rows.filter(api_key_id=OuterRef("subject_id"))
        case Subject.PROJECT:
            rows = rows.filter(project=OuterRef("subject_id"), project__gt="")  # the index leaves the others out
        case Subject.INSTALLATION:
            pass
    return rows.values_list("pk", flat=True)[:1]


def _cannot_pay(standing: Standing, refusal: dict[str, object]) -> bool:
    needed = Decimal(str(refusal.get("needed_usd") or 0))
    budget = standing.budget
    return refusal.get("budget") == budget.whose and budget.amount_usd - standing.spent_usd < needed
