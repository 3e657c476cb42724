"""What another policy would have cost and scored on the logged requests of a period. Synchronous Django: reads the
request log in chunks and calls nobody.

Only choices that were left to chance can tell: those of the mode `thompson`, whose probabilities are in the log. The
reward of a choice is what is known of it by now, clients' feedback included; a first choice that failed is worth 0,
whoever answered after it. Its cost is that of the whole request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db.models import QuerySet

from routing.errors import ApiError
from routing.evaluation import Estimate, Logged, Report, evaluate
from routing.learning import MODE
from routing.models import Feedback
from routing.scoring import Profile
from telemetry.models import RequestLog

LOGGED: Final = "logged"
RANDOM: Final = "random"
MODEL_PREFIX: Final = "model:"
MAX_ROWS: Final = 50_000
CHUNK: Final = 1_000
COUNTED: Final = 100_000
"""Requests that cannot tell are counted so far."""
CLIP: Final = 50.0
FEW_ROWS: Final = 100
MUCH_UNSUPPORTED: Final = 0.05


class Choice(NamedTuple):
    """One logged decision: what every candidate looked like then (cost, latency, failure, capability, from 0 to 1), and
    how probable it was."""

    logged: Logged
    figures: Mapping[str, tuple[float, float, float, float]]
    probabilities: Mapping[str, float]


Policy = Callable[[Choice], Mapping[str, float] | str]


class Replay(NamedTuple):
    """`left_out`: why requests of the period tell nothing, and how many. `warnings`: sentences."""

    policy: str
    report: Report | None
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]


def replay(
    policy: str, profiles: Mapping[str, Profile], *, since: datetime, until: datetime, max_rows: int = MAX_ROWS
) -> Replay:
    """`policy`: a mode but `thompson`, `model:ID`, `random`, or `logged` as it was. The newest requests count. Raises
    ApiError for a policy that there is not."""
    return replays([policy], profiles, since=since, until=until, max_rows=max_rows)[0]


def replays(
    policies: Sequence[str],
    profiles: Mapping[str, Profile],
    *,
    since: datetime,
    until: datetime,
    max_rows: int = MAX_ROWS,
) -> list[Replay]:
    """Several policies on the same requests, which are read once. Raises ApiError."""
    targets = [_target(policy, profiles) for policy in policies]
    rows = RequestLog.objects.filter(mode=MODE, created_at__gte=since, created_at__lt=until).order_by("-created_at")
    others = RequestLog.objects.filter(created_at__gte=since, created_at__lt=until).exclude(mode=MODE).order_by()
    left_out = {
        "decided without chance": others[:COUNTED].count(), "chosen with certainty": 0, "reward not known": 0
    }  # fmt: skip
    choices = _choices(rows, profiles[MODE], left_out, max_rows)
    left_out = {why: count for why, count in left_out.items() if count}
    if not choices:
        return [Replay(policy, None, left_out, (_NOTHING,)) for policy in policies]
    by_row = {id(one.logged): one for one in choices}
    found = []
    for policy, target in zip(policies, targets, strict=True):
        report = evaluate([one.logged for one in choices], _of_row(target, by_row), clip=CLIP)
        found.append(Replay(policy, report, left_out, _warnings(report)))
    return found


def _of_row(target: Policy, by_row: Mapping[int, Choice]) -> Callable[[Logged], Mapping[str, float] | str]:
    return lambda row: target(by_row[id(row)])


_NOTHING: Final = (
    "No request of this period can tell: none was decided by chance. Let a part of the traffic use the mode thompson."
)


def _warnings(report: Report) -> tuple[str, ...]:
    found = []
    if report.unsupported > MUCH_UNSUPPORTED:
        found.append(
            f"In {report.unsupported:.0%} of its choices the policy takes models that were never chosen in such a"
            " context: nothing is known of them."
        )
    if report.effective_rows < FEW_ROWS:
        found.append(f"The log tells as much as {report.effective_rows:.0f} requests would: too few to rely on.")
    if report.clipped:
        found.append(f"{report.clipped} rare choices count less than they should, so that none decides alone.")
    return tuple(found)


# -- from the log ----------------------------------------------------------------------------------------------------
def _choices(rows: QuerySet[RequestLog], profile: Profile, left_out: dict[str, int], max_rows: int) -> list[Choice]:
    found: list[Choice] = []
    chunk: list[RequestLog] = []
    wanted = rows.only("request_id", "model_id", "status", "cost_usd", "detail")[:max_rows]
    for row in wanted.iterator(CHUNK):
        chunk.append(row)
        if len(chunk) == CHUNK:
            _read(chunk, profile, left_out, found)
            chunk = []
    _read(chunk, profile, left_out, found)
    return found


def _read(rows: list[RequestLog], profile: Profile, left_out: dict[str, int], found: list[Choice]) -> None:
    said = dict(
        Feedback.objects.filter(request_id__in=[row.request_id for row in rows], reward__isnull=False).values_list(
            "request_id", "reward"
        )
    )
    for row in rows:
        candidates = [one for one in row.detail.get("candidates", ()) if not one.get("excluded")]
        if not candidates:
            left_out["reward not known"] += 1
            continue
        chosen, probability = str(candidates[0]["model"]), float(candidates[0].get("probability") or 0.0)
        if not 0.0 < probability < 1.0:
            left_out["chosen with certainty"] += 1
            continue
        reward = _reward(row, chosen, said)
        if reward is None:
            left_out["reward not known"] += 1
            continue
        logged = Logged(
            context=row.detail.get("context", ""),
            candidates=tuple(str(one["model"]) for one in candidates),
            chosen=chosen,
            probability=probability,
            reward=reward,
            cost=float(row.cost_usd or 0),
        )
        figures = {str(one["model"]): _figures(one, profile) for one in candidates}
        odds = {str(one["model"]): float(one.get("probability") or 0.0) for one in candidates}
        whole = sum(odds.values())
        found.append(Choice(logged, figures, {name: share / whole for name, share in odds.items()}))


def _reward(row: RequestLog, chosen: str, said: Mapping[UUID, float | None]) -> float | None:
    if row.model_id != chosen:
        return 0.0
    value = said.get(row.request_id)
    value = row.detail.get("reward") if value is None else value
    if value is None:
        return 0.0 if row.status >= 500 else None
    return min(max(float(value), 0.0), 1.0)


def _figures(candidate: Mapping[str, Any], profile: Profile) -> tuple[float, float, float, float]:
    """Without the weights that the mode gave them; a part that it did not weigh is not known, and counts as 0."""
    cost, latency, failure, capability = (
        float(candidate.get(name) or 0.0) / weight if (weight := getattr(profile, name)) else 0.0
        for name in ("cost", "latency", "failure", "capability")
    )
    return cost, latency, failure, capability


# -- policies ----------------------------------------------------------------------------------------------------------
def _target(policy: str, profiles: Mapping[str, Profile]) -> Policy:
    """Raises ApiError."""
    if policy == LOGGED:
        return lambda choice: choice.probabilities
    if policy == RANDOM:
        return lambda choice: dict.fromkeys(choice.figures, 1.0 / len(choice.figures))
    if policy.startswith(MODEL_PREFIX):
        model = policy[len(MODEL_PREFIX) :]
        return lambda choice: model if model in choice.figures else choice.probabilities
    if policy in profiles and policy != MODE:
        profile = profiles[policy]
        return lambda choice: min(choice.figures, key=lambda one: _score(profile, *choice.figures[one]))
    modes = ", ".join(name for name in profiles if name != MODE)
    raise ApiError(
        "invalid_request",
        f"There is no policy {policy[:60]!r} to be evaluated.",
        param="policy",
        hint=f"Policies: {LOGGED}, {RANDOM}, {MODEL_PREFIX}ID, {modes}.",
    )


def _score(profile: Profile, cost: float, latency: float, failure: float, capability: float) -> float:
    return profile.cost * cost + profile.latency * latency + profile.failure * failure - profile.capability * capability


# -- as JSON -----------------------------------------------------------------------------------------------------------
def shown(result: Replay) -> dict[str, Any]:
    """`{"policy", "rows", "effective_rows", "unsupported", "clipped", "reward", "cost_usd", "left_out", "warnings"}`;
    reward and cost are means per request, by estimator (`ips`, `snips`, `dr`): `{"value", "low", "high"}`."""
    report = result.report

    def estimates(values: Mapping[str, Estimate]) -> dict[str, Any]:
        return {name: one._asdict() for name, one in values.items()}

    return {
        "policy": result.policy,
        "rows": report.rows if report else 0,
        "effective_rows": round(report.effective_rows, 1) if report else 0.0,
        "unsupported": round(report.unsupported, 4) if report else None,
        "clipped": report.clipped if report else 0,
        "reward": estimates(report.reward) if report else None,
        "cost_usd": estimates(report.cost) if report else None,
        "left_out": dict(result.left_out),
        "warnings": list(result.warnings),
    }
