"""Which targets may answer a request, best first, and what was made of each. Pure: the same snapshot, statistics and
request give the same ranking."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

from keys.auth import KeyRecord
from providers.formats.base import Dialect
from routing.breaker import DOWN
from routing.eligibility import Needs, exclusion, expected_cost
from routing.health import Health
from routing.learning import Learner, Lesson
from routing.policy import Policy
from routing.scoring import Figures, scores
from routing.snapshot import Snapshot, Target
from telemetry.journal import Candidate

SHOWN: Final = 20  # candidates, and as many that were left out
MANY: Final = 64  # targets, from which on they are looked at together


class Ranking(NamedTuple):
    """`candidates`: what was looked at, the eligible ones first; short of what is too many to be shown."""

    targets: list[Target]
    candidates: list[Candidate]


def rank(
    snapshot: Snapshot,
    *,
    dialect: Dialect,
    needs: Needs,
    policy: Policy,
    key: KeyRecord,
    health: Health,
    vault_open: bool,
    now: float,
    hint: Target | None = None,
    home: str = "",
    learner: Learner | None = None,
    lesson: Lesson | None = None,
) -> Ranking:
    """All but `hint`, the named one. `home`: the model that the conversation is at, which goes before all others. With
    a `lesson` the `learner` orders them, by a draw."""
    if lesson is None and len(snapshot.routable) > MANY:
        return _rank_many(
            snapshot, dialect=dialect, needs=needs, policy=policy, key=key, health=health, vault_open=vault_open,
            now=now, hint=hint, home=home,
        )  # fmt: skip
    eligible: list[Target] = []
    figures: list[Figures] = []
    excluded: list[Candidate] = []
    for target in snapshot.routable:
        if target is hint:
            continue
        model_id, provider_id = target.model_id, target.provider.id
        stats = health.stats(provider_id, model_id)
        cost = expected_cost(target, needs, model_id == home)
        why = exclusion(
            target,
            dialect=dialect,
            needs=needs,
            policy=policy,
            key=key,
            resting=health.resting(provider_id, model_id, now),
            latency_ms=stats.latency_ms if stats.calls else 0.0,
            vault_open=vault_open,
            cost=cost,
        )
        if why:
            if len(excluded) < SHOWN:
                excluded.append(Candidate(model_id, provider_id, excluded=why))
            continue
        eligible.append(target)
        figures.append(Figures(cost, stats.latency_ms, stats.failure, target.weight))
    parts = scores(figures, snapshot.profiles[policy.mode])
    places = [one.score for one in parts]
    probabilities: Mapping[str, float] = {}
    if learner is not None and lesson is not None and eligible:
        choice = learner.choose(lesson, [(one, *figure[:2]) for one, figure in zip(eligible, figures, strict=True)])
        ranks = {model_id: float(place) for place, model_id in enumerate(choice.order)}
        places = [ranks[one.model_id] for one in eligible]
        probabilities = {choice.order[0]: choice.probability, **choice.probabilities}
    order = sorted(range(len(parts)), key=lambda one: (eligible[one].model_id != home, places[one]))
    if probabilities and order and eligible[order[0]].model_id == home:
        probabilities = {home: 1.0}  # nothing was left to chance
    shown = [
        Candidate(
            eligible[one].model_id,
            eligible[one].provider.id,
            *parts[one],
            probability=probabilities.get(eligible[one].model_id, 0.0),
        )
        for one in order[:SHOWN]
    ]
    return Ranking([eligible[one] for one in order], [*shown, *excluded])


def last_resort(
    snapshot: Snapshot,
    *,
    dialect: Dialect,
    needs: Needs,
    policy: Policy,
    key: KeyRecord,
    health: Health,
    vault_open: bool,
    now: float,
) -> Target | None:
    """Whom to ask when nobody is eligible: of those that are only down, the one whose rest ends first. It may be well
    again by now, while a refusal would help nobody."""
    found, soonest = None, inf
    for target in snapshot.routable:
        model_id, provider_id = target.model_id, target.provider.id
        if health.resting(provider_id, model_id, now) != DOWN:
            continue
        stats = health.stats(provider_id, model_id)
        why = exclusion(
            target, dialect=dialect, needs=needs, policy=policy, key=key, resting="", vault_open=vault_open,
            latency_ms=stats.latency_ms if stats.calls else 0.0, cost=expected_cost(target, needs),
        )  # fmt: skip
        rest = health.rest_seconds(provider_id, model_id, now)
        if not why and rest < soonest:
            found, soonest = target, rest
    return found


def _rank_many(
    snapshot: Snapshot,
    *,
    dialect: Dialect,
    needs: Needs,
    policy: Policy,
    key: KeyRecord,
    health: Health,
    vault_open: bool,
    now: float,
    hint: Target | None,
    home: str,
) -> Ranking:
    """The same by columns; only those that are shown are looked at one by one."""
    from routing.panel import panel_of  # numpy is loaded where there are many targets

    profile, routable = snapshot.profiles[policy.mode], snapshot.routable
    found = panel_of(snapshot).order(
        dialect=dialect, needs=needs, policy=policy, key=key, health=health, vault_open=vault_open, now=now,
        profile=profile, without=hint.model_id if hint is not None else "",
    )  # fmt: skip
    targets = [routable[place] for place in found.best]
    if home:
        targets.sort(key=lambda one: one.model_id != home)
    figures = []
    for target in targets[:SHOWN]:
        stats = health.stats(target.provider.id, target.model_id)
        cost = expected_cost(target, needs, target.model_id == home)
        figures.append(Figures(cost, stats.latency_ms, stats.failure, target.weight))
    parts = scores(figures, profile, dearest=found.dearest, slowest=found.slowest)
    shown = [Candidate(one.model_id, one.provider.id, *part) for one, part in zip(targets, parts, strict=False)]
    for place in found.others[:SHOWN]:
        target = routable[place]
        stats = health.stats(target.provider.id, target.model_id)
        why = exclusion(
            target,
            dialect=dialect,
            needs=needs,
            policy=policy,
            key=key,
            resting=health.resting(target.provider.id, target.model_id, now),
            latency_ms=stats.latency_ms if stats.calls else 0.0,
            vault_open=vault_open,
            cost=expected_cost(target, needs, target.model_id == home),
        )
        if why:  # it may have come back a moment ago
            shown.append(Candidate(target.model_id, target.provider.id, excluded=why))
    return Ranking(targets, shown)
