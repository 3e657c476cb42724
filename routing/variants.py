"""Which of an alias's models a request goes to. Pure of I/O; it remembers whose turn it is."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from random import Random
from time import monotonic

from routing.affinity import Affinity, Conversation
from routing.policy import pick_variant
from routing.snapshot import Alias, Target


class Variants:
    def __init__(self, rng: Random, affinity: Affinity) -> None:
        self._rng = rng
        self._affinity = affinity
        self._claims: dict[str, dict[str, float]] = {}

    def pick(self, alias: Alias, key_id: str, talk: Conversation | None, targets: Mapping[str, Target]) -> Target:
        """By the alias's rule; a later turn of a conversation stays where it began, if that is among `targets`."""
        if talk is not None and (home := self._affinity.target(talk, monotonic(), targets)):
            for variant in alias.variants:
                if variant.target.model_id == home:
                    return variant.target
        match alias.sticky_by:
            case "api_key":
                digest = blake2b(f"{alias.name}\0{key_id}".encode(), digest_size=8).digest()
                return pick_variant(alias, draw=int.from_bytes(digest, "big") / 2**64)
            case "round_robin":
                return self._turn_of(alias)
        return pick_variant(alias, draw=self._rng.random())

    def _turn_of(self, alias: Alias) -> Target:
        """Smooth weighted round robin: each variant's claim grows by its share, and the largest claim is paid."""
        claims = self._claims.setdefault(alias.name, {})
        for variant in alias.variants:
            model_id = variant.target.model_id
            claims[model_id] = claims.get(model_id, 0.0) + variant.share
        chosen = max(alias.variants, key=lambda one: claims[one.target.model_id]).target
        claims[chosen.model_id] -= 1.0
        return chosen
