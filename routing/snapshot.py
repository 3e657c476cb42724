"""The configuration as the data plane sees it: built whole, then never changed. A change makes a new one. No Django."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keys.auth import KeyRecord
from providers.client import Headers, Url
from providers.types import TypeDefaults
from routing.pricing import Prices
from vault.keyring import SealedCredential


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One base address of a provider: where each dialect's calls go."""

    shown: str
    urls: Mapping[str, Url]


@dataclass(frozen=True, slots=True, eq=False)
class ProviderRecord:
    id: str
    type: str
    defaults: TypeDefaults
    dialects: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    headers: Headers
    needs_credential: bool
    credential: SealedCredential | None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A model at its provider. Identity is the object: two snapshots hold different targets for one model id."""

    model_id: str
    upstream_model: str
    provider: ProviderRecord
    weight: int
    max_context_tokens: int
    max_output_tokens: int | None
    abilities: frozenset[str]
    prices: Prices | None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """`targets` by model id: whatever may be named. `routable`: what the router may pick by itself."""

    version: int = -1
    targets: Mapping[str, Target] = field(default_factory=dict)
    routable: tuple[Target, ...] = ()
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    provider_count: int = 0
