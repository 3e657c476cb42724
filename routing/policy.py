"""What a request asks of the router: a mode, ceilings, a model or none. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from keys.auth import KeyRecord
from routing.errors import ApiError
from routing.pricing import NANO
from routing.scoring import PROFILES
from routing.words import AUTO, MODE_PREFIX

if TYPE_CHECKING:  # a snapshot holds the policy that is the default
    from routing.snapshot import Alias, Snapshot, Target

MAX_BUDGET_USD = 100.0
MAX_LATENCY_MS = 300_000
MAX_WEIGHT = 10


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_budget_nano` and `max_latency_ms` filter what the router picks, never a named model. `deadline_ms` is a
    latency that the client itself sent; `budget_is_own` says that it sent the budget too."""

    mode: str
    max_budget_nano: int | None = None
    max_latency_ms: int | None = None
    min_weight: int = 0
    deadline_ms: int | None = None
    budget_is_own: bool = False
    allow_fallback: bool = True


def with_mode(policy: Policy, mode: str, *, param: str, profiles: Collection[str] = PROFILES.keys()) -> Policy:
    """`profiles`: the modes that there are."""
    if mode not in profiles:
        raise ApiError(
            "invalid_request", f"There is no mode {mode[:40]!r}.", param=param, hint="Modes: " + ", ".join(profiles)
        )
    return replace(policy, mode=mode)


def with_limits(
    policy: Policy,
    *,
    max_budget_usd: float | None = None,
    max_latency_ms: float | None = None,
    min_weight: float | None = None,
    names: tuple[str, str, str],
) -> Policy:
    """`names`: how the client called the three, for the error's `param`."""
    if max_budget_usd is not None:
        _check(max_budget_usd, MAX_BUDGET_USD, names[0])
        policy = replace(policy, max_budget_nano=int(max_budget_usd * NANO), budget_is_own=True)
    if max_latency_ms is not None:
        _check(max_latency_ms, MAX_LATENCY_MS, names[1])
        own = int(max_latency_ms) or None
        policy = replace(policy, max_latency_ms=own, deadline_ms=own)
    if min_weight is not None:
        _check(min_weight, MAX_WEIGHT, names[2])
        policy = replace(policy, min_weight=math.ceil(min_weight))
    return policy


def _check(value: float, maximum: float, name: str) -> None:
    if not 0 <= value <= maximum:  # false for NaN too
        raise ApiError("invalid_request", f"{name} must be a number from 0 to {maximum:g}.", param=name)


HEADER_NAMES = ("X-TokenHub-Max-Budget-USD", "X-TokenHub-Max-Latency-MS", "X-TokenHub-Min-Weight")
_LIMIT_HEADERS = tuple(name.lower().encode() for name in HEADER_NAMES)
_POLICY_HEADERS = (b"x-tokenhub-fallback", b"x-tokenhub-mode", *_LIMIT_HEADERS)


def from_headers(policy: Policy, headers: Mapping[bytes, bytes], profiles: Collection[str] = PROFILES.keys()) -> Policy:
    """The policy with what the X-TokenHub-* headers say. Raises ApiError for a bad value."""
    if headers.keys().isdisjoint(_POLICY_HEADERS):
        return policy
    if fallback := headers.get(b"x-tokenhub-fallback"):
        if fallback.strip().lower() != b"none":
            raise ApiError("invalid_request", "X-TokenHub-Fallback knows only `none`.", param="X-TokenHub-Fallback")
        policy = replace(policy, allow_fallback=False)
    if mode := headers.get(b"x-tokenhub-mode"):
        policy = with_mode(policy, mode.decode("latin-1").strip(), param="X-TokenHub-Mode", profiles=profiles)
    values = []
    for shown, name in zip(HEADER_NAMES, _LIMIT_HEADERS, strict=True):
        raw = headers.get(name)
        try:
            values.append(None if raw is None else float(raw))
        except ValueError:
            raise ApiError("invalid_request", f"{shown} must be a number.", param=shown) from None
    if values == [None, None, None]:
        return policy
    return with_limits(
        policy, max_budget_usd=values[0], max_latency_ms=values[1], min_weight=values[2], names=HEADER_NAMES
    )


class Choice(NamedTuple):
    """What a name in a request stands for: a target, an alias as far as the key may use it, or neither: the router
    decides."""

    policy: Policy
    hint: Target | None = None
    alias: Alias | None = None


def choose(snapshot: Snapshot, name: str, policy: Policy, key: KeyRecord) -> Choice:
    """Never a silent substitute: raises ApiError."""
    target = snapshot.targets.get(name)
    if target is not None:
        if not key.may_use(name):
            raise ApiError(
                "model_not_allowed",
                f"This client key may not use the model {name!r}.",
                param="model",
                hint=_hint(usable_names(snapshot, key)),
            )
        return Choice(policy, target)
    if name in AUTO:
        return Choice(policy)
    if (alias := snapshot.aliases.get(name)) is not None:
        return Choice(policy, alias=_usable_alias(snapshot, alias, key))
    if name.startswith(MODE_PREFIX) and (mode := name[len(MODE_PREFIX) :]) in snapshot.profiles:
        return Choice(replace(policy, mode=mode))
    usable = usable_names(snapshot, key)
    otherwise = _hint(usable) if snapshot.targets else "No model is configured: the operator adds one in the admin."
    modes = [MODE_PREFIX + mode for mode in ("auto", *snapshot.profiles)]
    nearest = get_close_matches(name[:200], usable + modes, n=3, cutoff=0.5)
    raise ApiError(
        "model_not_found",
        f"There is no model {name[:200]!r} here.",
        param="model",
        hint=f"Did you mean {', '.join(nearest)}?" if nearest else otherwise,
    )


def _usable_alias(snapshot: Snapshot, alias: Alias, key: KeyRecord) -> Alias:
    """A key may use an alias that it names, whatever its variants are; otherwise the variants that it may use."""
    if key.may_use(alias.name):
        return alias
    variants = tuple(one for one in alias.variants if key.may_use(one.target.model_id))
    if not variants:
        raise ApiError(
            "model_not_allowed",
            f"This client key may not use the alias {alias.name!r}.",
            param="model",
            hint=_hint(usable_names(snapshot, key)),
        )
    total = sum(one.share for one in variants)
    return replace(alias, variants=tuple(replace(one, share=one.share / total) for one in variants))


def pick_variant(alias: Alias, *, draw: float) -> Target:
    """`draw` from 0 to below 1: the same draw gives the same variant as long as the alias stays as it is."""
    for variant in alias.variants:
        draw -= variant.share
        if draw < 0:
            return variant.target
    return alias.variants[-1].target


def usable_names(snapshot: Snapshot, key: KeyRecord | None) -> list[str]:
    """Models and aliases that the key may name; all of them without one."""
    if key is None:
        return [*snapshot.targets, *snapshot.aliases]
    aliases = [
        name
        for name, alias in snapshot.aliases.items()
        if key.may_use(name) or any(key.may_use(one.target.model_id) for one in alias.variants)
    ]
    return [*(one for one in snapshot.targets if key.may_use(one)), *aliases]


def _hint(usable: list[str]) -> str:
    if not usable:
        return "No model is available to this key; ask the operator."
    more = ", …" if len(usable) > 5 else ""
    return f"Available: {', '.join(sorted(usable)[:5])}{more}. `auto` lets the router decide."
