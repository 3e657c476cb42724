"""How an alias's variants do beside one another, from its newest requests. Bounded whatever the log holds: at most ROWS
of them, found by the index of aliases and moments.

A request counts for the variant that was asked first: one that failed is its failure, whoever answered then. Requests
that reached nobody, and those whose client left, say nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db.models import FloatField, OuterRef, QuerySet, Subquery
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce

from routing import comparing
from routing.models import Alias, Feedback
from telemetry.models import RequestLog
from telemetry.search import equal

ROWS: Final = 5_000
SHADOW: Final = "shadow"


@dataclass(slots=True)
class Variant:
    """`share`: of the alias's requests as it is set now, in percent; None of a model that is no variant any more."""

    model_id: str
    is_shadow: bool
    share: float | None = None
    requests: int = 0
    successes: int = 0
    latencies: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class Results(NamedTuple):
    variants: list[Variant]
    since: datetime | None
    is_capped: bool


def results(alias: Alias, *, now: datetime, days: int) -> Results:
    """The variant with the largest share first: the others are compared with it."""
    found, rows = _set_up(alias), list(rows_of(alias.name, now, days))
    for first, model, status, code, left, reason, latency, cost, reward, _ in rows:
        if not first or left:
            continue
        is_shadow = reason == SHADOW
        variant = found.setdefault((first, is_shadow), Variant(first, is_shadow))
        variant.requests += 1
        if model != first or status >= 400 or code:
            continue
        variant.successes += 1
        variant.latencies.append(latency)
        if cost is not None:
            variant.costs.append(float(cost))
        if reward is not None:
            variant.rewards.append(reward)
    order = sorted(found.values(), key=lambda one: (one.is_shadow, one.share is None, -(one.share or 0), one.model_id))
    return Results(order, rows[-1][-1] if rows else None, len(rows) == ROWS)


def rows_of(alias: str, now: datetime, days: int) -> QuerySet[RequestLog, tuple[Any, ...]]:
    """The newest first."""
    said = Feedback.objects.filter(request_id=OuterRef("request_id"))
    return (
        RequestLog.objects.filter(equal("alias", alias).lead, created_at__gte=now - timedelta(days=days))
        .order_by("-created_at")
        .annotate(
            first=KT("detail__attempts__0__model"),
            reward=Coalesce(
                Subquery(said.values("reward")[:1]),
                Subquery(said.values("score")[:1]),
                Cast(KT("detail__reward"), FloatField()),
            ),
        )
        .values_list(
            "first", "model_id", "status", "error_code", "client_disconnected", "routing_reason", "latency_ms",
            "cost_usd", "reward", "created_at",
        )[:ROWS]
    )  # fmt: skip


def _set_up(alias: Alias) -> dict[tuple[str, bool], Variant]:
    rows = list(alias.variants.all())
    total = sum(one.weight for one in rows if not one.is_shadow) or 1
    return {
        (one.model_id, one.is_shadow): Variant(
            one.model_id, one.is_shadow, one.weight if one.is_shadow else 100 * one.weight / total
        )
        for one in rows
    }


# -- as a page shows it ------------------------------------------------------------------------------------------------
def shown(variants: Iterable[Variant]) -> list[dict[str, Any]]:
    """With the first as what the others are compared with."""
    listed = list(variants)
    return [_shown(one, listed[0] if index else None) for index, one in enumerate(listed)]


def _shown(one: Variant, base: Variant | None) -> dict[str, Any]:
    success = comparing.share(one.successes, one.requests)
    return {
        "model_id": one.model_id,
        "is_shadow": one.is_shadow,
        "share": one.share,
        "requests": one.requests,
        "success": success and {name: 100 * value for name, value in success._asdict().items()},
        "reach": success and 100 * (success.high - success.low),
        "p50": comparing.percentile(one.latencies, 50),
        "p95": comparing.percentile(one.latencies, 95),
        "cost": comparing.mean(one.costs),
        "reward": comparing.mean(one.rewards),
        "rewards": len(one.rewards),
        "hints": hints(one, base) if base is not None else [],
    }


def hints(one: Variant, base: Variant) -> list[tuple[str, str]]:
    """What differs from the other beyond chance: a kind (good, bad or empty), and words."""
    if min(one.requests, base.requests) < comparing.FEW:
        return [("", f"too few requests to compare; {comparing.FEW} of each are needed")]
    shares = (one.successes, one.requests), (base.successes, base.requests)
    rate, base_rate = one.successes / one.requests, base.successes / base.requests
    asked = (
        ("fails less", "fails more", comparing.chance_of_shares(*shares), rate > base_rate),
        ("faster", "slower", *_means(one.latencies, base.latencies, less=True)),
        ("cheaper", "dearer", *_means(one.costs, base.costs, less=True)),
        ("more reward", "less reward", *_means(one.rewards, base.rewards, less=False)),
    )
    told = []
    for better, worse, chance, is_better in asked:
        if chance is None or chance >= comparing.LIKELY:
            continue
        sure = "" if chance < comparing.SURE else "probably "
        told.append(("good" if is_better else "bad", sure + (better if is_better else worse)))
    return told or [("", "no difference beyond chance")]


def _means(one: list[float], base: list[float], *, less: bool) -> tuple[float | None, bool]:
    """How likely chance alone made the difference; whether it is for the better."""
    chance = comparing.chance_of_means(one, base)
    if chance is None:
        return None, False
    lower = sum(one) / len(one) < sum(base) / len(base)
    return chance, lower == less
