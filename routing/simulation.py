"""What the router would do with a request of that kind, with today's configuration: nobody is called. Pure."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from keys.auth import KeyRecord
from providers.formats.registry import DIALECTS
from routing.eligibility import EXPECTED_OUTPUT_TOKENS, Needs, expected_cost, unusable_because
from routing.errors import ApiError
from routing.health import Health
from routing.policy import Choice, choose, with_limits, with_mode
from routing.pricing import NANO
from routing.ranking import last_resort, rank
from routing.snapshot import Snapshot, Target
from routing.words import LAST_RESORT
from telemetry.journal import Candidate

ANYBODY: Final = KeyRecord("", "", "", (), frozenset(), frozenset(), True, True, None)
_LIMITS: Final = ("max_budget_usd", "max_latency_ms", "min_weight")


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """As the API and the command take it. `api_key_id`: as that client key would be served; none: no restriction."""

    mode: str | None = None
    token_count: int = 1000
    output_tokens: int = EXPECTED_OUTPUT_TOKENS
    max_budget_usd: float | None = None
    max_latency_ms: float | None = None
    min_weight: float | None = None
    model_hint: str = ""
    abilities: list[str] = []
    api_key_id: str | None = None


def simulate(
    question: Question,
    snapshot: Snapshot,
    health: Health,
    *,
    vault_open: bool,
    now: float,
) -> dict[str, Any]:
    """`{"decision", "eligible", "excluded"}`; the decision is None when nobody could answer. Raises ApiError."""
    policy = snapshot.default_policy
    if question.mode is not None:
        policy = with_mode(policy, question.mode, param="mode", profiles=snapshot.profiles)
    policy = with_limits(
        policy,
        max_budget_usd=question.max_budget_usd,
        max_latency_ms=question.max_latency_ms,
        min_weight=question.min_weight,
        names=_LIMITS,
    )
    for name in ("token_count", "output_tokens"):
        if not 0 <= getattr(question, name) <= 1 << 31:
            raise ApiError("invalid_request", f"{name} must be a whole number of at least 0.", param=name)
    key = _key(snapshot, question.api_key_id)
    chosen = choose(snapshot, question.model_hint, policy, key)
    needs = Needs(question.token_count, question.output_tokens, frozenset(question.abilities))
    ranking = rank(
        snapshot,
        dialect=DIALECTS["openai-chat"],
        needs=needs,
        policy=chosen.policy,
        key=key,
        health=health,
        vault_open=vault_open,
        now=now,
    )
    target, reason = _decision(chosen, ranking.targets, health, vault_open=vault_open, now=now)
    if target is None:
        target, reason = last_resort(
            snapshot, dialect=DIALECTS["openai-chat"], needs=needs, policy=chosen.policy, key=key, health=health,
            vault_open=vault_open, now=now,
        ), LAST_RESORT  # fmt: skip
    cost = expected_cost(target, needs) if target is not None else None
    return {
        "decision": target
        and {
            "model_id": target.model_id,
            "provider_id": target.provider.id,
            "reason": reason,
            "estimated_cost_usd": None if cost is None else cost / NANO,
        },
        "eligible": [shown(one) for one in ranking.candidates if not one.excluded],
        "excluded": [shown(one) for one in ranking.candidates if one.excluded],
    }


def _key(snapshot: Snapshot, key_id: str | None) -> KeyRecord:
    if key_id is None:
        return ANYBODY
    found = next((one for one in snapshot.keys.values() if one.id == key_id), None)
    if found is None:
        raise ApiError("not_found", f"There is no client key {key_id[:60]!r}.", param="api_key_id")
    return found


def _decision(
    chosen: Choice, ranked: list[Target], health: Health, *, vault_open: bool, now: float
) -> tuple[Target | None, str]:
    """A named model is asked first, as long as it can be called and does not rest beside others that could answer."""
    hint, reason = chosen.hint, "model-hint"
    if chosen.alias is not None:
        hint, reason = max(chosen.alias.variants, key=lambda one: one.share).target, "alias-variant"
    if hint is not None:
        others = [one for one in ranked if one is not hint]
        usable = not unusable_because(hint, dialect=DIALECTS["openai-chat"], vault_open=vault_open)
        if usable and not (health.resting(hint.provider.id, hint.model_id, now) and others):
            return hint, reason
        ranked = others
    if not ranked:
        return None, ""
    return ranked[0], f"routed-weight-{ranked[0].weight}"


def shown(one: Candidate) -> dict[str, Any]:
    """A candidate as the API and the log show it."""
    return {
        "model_id": one.model,
        "provider_id": one.provider,
        "score": None if one.excluded or not math.isfinite(one.score) else one.score,
        "parts": None
        if one.excluded
        else {"cost": one.cost, "latency": one.latency, "failure": one.failure, "capability": one.capability},
        "probability": one.probability or None,
        "excluded_reason": one.excluded or None,
    }
