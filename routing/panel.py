"""Many targets at once: what the router knows of them as columns, so that a choice among a thousand costs little more
than one among ten. Gives the same ranking as looking at each by itself; the figures of health are up to
REFRESH_SECONDS old, and whoever asks a target looks once more whether it rests."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from keys.auth import KeyRecord
from providers.formats.base import Dialect
from routing.eligibility import EMBEDDINGS, HEADROOM, Needs, unusable_because
from routing.health import Health
from routing.policy import Policy
from routing.scoring import Profile
from routing.snapshot import Snapshot

REFRESH_SECONDS: Final = 0.1
_Column = np.ndarray[Any, np.dtype[Any]]


class Ordered(NamedTuple):
    """The places of the eligible targets, best first, and of the others. `dearest` in nano-dollars and `slowest` in
    milliseconds: of the eligible ones."""

    best: list[int]
    others: list[int]
    dearest: float
    slowest: float


class Panel:
    """Of one snapshot's routable targets, in their order."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        targets = snapshot.routable
        self._places = {target.model_id: place for place, target in enumerate(targets)}
        self._weight = np.array([one.weight for one in targets], float)
        self._context = np.array([one.max_context_tokens for one in targets], float)
        self._input, self._output = (
            np.array([getattr(one.prices, name) if one.prices is not None else 0 for one in targets], float)
            for name in ("input", "output")
        )
        self._has_price = np.array([one.prices is not None for one in targets], bool)
        self._no_embedder = np.array([one.abilities != EMBEDDINGS for one in targets], bool)
        self._able: dict[str, _Column] = {}
        self._usable: dict[tuple[str, bool], _Column] = {}
        self._health: Health | None = None
        self._read_at = 0.0
        self._rests: _Column = np.zeros(0, bool)
        self._latency: _Column = np.zeros(0)
        self._failure: _Column = np.zeros(0)
        self._filter_latency: _Column = np.zeros(0)

    def _refresh(self, health: Health, now: float) -> None:
        if health is self._health and 0.0 <= now - self._read_at < REFRESH_SECONDS:
            return
        self._health, self._read_at = health, now
        targets = self.snapshot.routable
        rests = [bool(health.resting(one.provider.id, one.model_id, now)) for one in targets]
        stats = [health.stats(one.provider.id, one.model_id) for one in targets]
        self._rests = np.array(rests, bool)
        self._latency = np.array([one.latency_ms for one in stats])
        self._failure = np.array([one.failure for one in stats])
        self._filter_latency = np.array([one.latency_ms if one.calls else 0.0 for one in stats])

    def order(
        self,
        *,
        dialect: Dialect,
        needs: Needs,
        policy: Policy,
        key: KeyRecord,
        health: Health,
        vault_open: bool,
        now: float,
        profile: Profile,
        without: str = "",
    ) -> Ordered:
        """`without`: a model that is not looked at."""
        self._refresh(health, now)
        fits = self._usable_in(dialect, vault_open=vault_open) & (self._weight >= policy.min_weight)
        fits &= self._context >= needs.input_tokens * HEADROOM
        fits &= ~self._rests
        for ability in needs.abilities:
            fits &= self._having(ability)
        if dialect.family != "embeddings":
            fits &= self._no_embedder
        if key.allowed_models:
            allowed = np.zeros(len(fits), bool)
            allowed[[self._places[one] for one in key.allowed_models if one in self._places]] = True
            fits &= allowed
        cost = np.ceil((self._input * needs.input_tokens + self._output * needs.output_tokens) / 1000)
        if policy.max_budget_nano is not None:
            affordable = cost <= policy.max_budget_nano
            fits &= affordable & self._has_price if policy.budget_is_own else affordable | ~self._has_price
        if policy.max_latency_ms is not None:
            fits &= self._filter_latency <= policy.max_latency_ms
        others = ~fits
        if without in self._places:
            fits[self._places[without]] = others[self._places[without]] = False
        places, left = np.flatnonzero(fits), np.flatnonzero(others).tolist()
        if not len(places):
            return Ordered([], left, 0.0, 0.0)
        money = np.where(self._has_price, cost, 0)[places]
        dearest = float(money.max()) or 1.0
        latency = self._latency[places]
        slowest = float(latency.max()) or 1.0
        relative = np.where(self._has_price[places], money / dearest, 1.0)
        score = profile.cost * relative + profile.latency * (latency / slowest)
        score += profile.failure * self._failure[places]
        score -= profile.capability * (self._weight[places] / 10)
        return Ordered(places[np.argsort(score, kind="stable")].tolist(), left, dearest, slowest)

    def _having(self, ability: str) -> _Column:
        found = self._able.get(ability)
        if found is None:
            targets = self.snapshot.routable
            found = self._able[ability] = np.array([ability in one.abilities for one in targets], bool)
        return found

    def _usable_in(self, dialect: Dialect, *, vault_open: bool) -> _Column:
        found = self._usable.get((dialect.name, vault_open))
        if found is None:
            reasons = [unusable_because(one, dialect=dialect, vault_open=vault_open) for one in self.snapshot.routable]
            found = self._usable[dialect.name, vault_open] = np.array([not why for why in reasons], bool)
        return found


_PANELS: dict[str, Panel] = {}


def panel_of(snapshot: Snapshot) -> Panel:
    """The panel of the snapshot at hand is kept."""
    found = _PANELS.get("")
    if found is None or found.snapshot is not snapshot:
        found = _PANELS[""] = Panel(snapshot)
    return found
