"""What the admin's pages tell of budgets and of what is spent of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlencode

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from keys import services
from keys.models import Budget, ClientKey, Project, Subject
from keys.refusals import refusing
from telemetry import spending
from telemetry.money import dollars

REFUSES = "refuses requests now"


def budget_told(standing: services.Standing | None) -> str | None:
    return None if standing is None else f"{dollars(standing.budget.amount_usd)} per {standing.budget.every}"


def spent_told(standing: services.Standing | None, *, refuses: bool = False) -> SafeString | None:
    """With a bar, green to red by the browser itself. `refuses`: what is left of it paid for nothing lately."""
    if standing is None:
        return None
    percent, text = (
        f"{min(standing.percent, 100.0):.1f}",
        f"{dollars(standing.spent_usd)} ({standing.percent:.0f}\u00a0%)",
    )
    meter = '<meter class="w-24" min="0" max="100" low="80" high="95" optimum="0" value="{}" aria-label="{}"></meter>'
    told = format_html(meter + ' <span class="whitespace-nowrap">{}</span>', percent, f"spent: {text}", text)
    if refuses:
        told = format_html('{} <span class="pg-badge pg-bad">{}</span>', told, REFUSES)
    return format_html("<span>{}</span>", told)


def has_budget(key: ClientKey) -> bool:
    return Budget.objects.filter(subject=Subject.KEY, subject_id=str(key.pk)).exists()


@dataclass(frozen=True, slots=True)
class Money:
    budgets: SafeString
    spent: str
    """This month."""


def money_of(whose: ClientKey | Project) -> Money:
    """Looked up once, for a page asks for each of its fields several times."""
    known: Money | None = whose.__dict__.get("_money")
    if known is None:
        known = Money(_budgets_of(whose), dollars(_spent_by(whose)))
        whose.__dict__["_money"] = known
    return known


def spent_by_projects(names: Collection[str]) -> dict[str, Decimal]:
    """In dollars, this month: by the client keys that each has now."""
    projects = dict(ClientKey.objects.filter(project__in=names).values_list("pk", "project"))
    spent = spending.spent([str(pk) for pk in projects], spending.month_of(timezone.now()))
    found: defaultdict[str, Decimal] = defaultdict(Decimal)
    for pk, project in projects.items():
        found[project] += spent.get(str(pk), Decimal(0))
    return found


def _spent_by(whose: ClientKey | Project) -> Decimal:
    if isinstance(whose, Project):
        return spent_by_projects([whose.name]).get(whose.name, Decimal(0))
    return spending.spent([str(whose.pk)], spending.month_of(timezone.now())).get(str(whose.pk), Decimal(0))


def _budgets_of(whose: ClientKey | Project) -> SafeString:
    """Every one that a request of it must hold, each with its page; and the way to one of its own."""
    own = Subject.PROJECT if isinstance(whose, Project) else Subject.KEY
    concerned = Q(subject=own, subject_id=str(whose.pk)) | Q(subject=Subject.INSTALLATION)
    if isinstance(whose, ClientKey) and whose.project:
        concerned |= Q(subject=Subject.PROJECT, subject_id=whose.project)
    standings = services.standings(Budget.objects.filter(concerned))
    refuse = refusing(standings)
    rows = [
        (
            reverse("admin:keys_budget_change", args=[one.budget.pk]),
            f"{budget_told(one)} of {one.budget.whose}",
            spent_told(one, refuses=one.budget.pk in refuse),
        )
        for one in standings
    ]
    link = '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>'
    told = format_html_join("", "<p>" + link + ": {}</p>", rows)
    if any(one.budget.subject == own for one in standings):
        return told
    add = f"{reverse('admin:keys_budget_add')}?{urlencode({'whose': f'{own}:{whose.pk}'})}"
    return format_html("{}<p>None of its own. " + link + "</p>", told, add, "Give it one")
