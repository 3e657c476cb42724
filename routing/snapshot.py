"""The configuration as the data plane sees it: built whole, then never changed. A change makes a new one. No Django."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from math import inf

from keys.auth import BudgetRecord, KeyRecord
from providers.client import Headers, Url
from providers.formats.anthropic_messages import NAME as ANTHROPIC
from providers.formats.base import Dialect
from providers.formats.reasoning import is_openai_reasoner
from providers.formats.registry import DIALECTS
from providers.types import TYPES, TypeDefaults
from routing.policy import Policy
from routing.pricing import HIDDEN_TOKENS, Bound, Prices
from routing.scoring import PROFILES, Profile
from vault.keyring import SealedCredential

RESPONSES = "openai-responses"
OPENAI_URL = TYPES["openai"].base_url  # its chat completions neither give reasoning nor take it back


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
    bound: Bound | None = field(init=False, repr=False)
    """Of one call's cost, where one step can tell it."""
    may_cache_for_an_hour: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        bound = self.prices.bound(HIDDEN_TOKENS) if self.prices is not None else None
        object.__setattr__(self, "bound", bound)
        object.__setattr__(self, "may_cache_for_an_hour", ANTHROPIC in self.provider.dialects)

    def dialect_for(self, client: Dialect, missing: Container[str] = ()) -> Dialect | None:
        """The one to call it in: the client's own where its provider speaks it, else the first of the same family.
        `missing`: those that it is said to speak, and does not."""
        provider = self.provider
        if not provider.endpoints:
            return None
        urls = provider.endpoints[0].urls
        if client.name in urls and client.name not in missing:
            return client
        if client.family != "chat":
            return None
        if RESPONSES in urls and provider.endpoints[0].shown == OPENAI_URL and is_openai_reasoner(self.upstream_model):
            return DIALECTS[RESPONSES]
        chat = (DIALECTS[name] for name in urls if DIALECTS[name].family == "chat" and name not in missing)
        return next(chat, None)


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One of an alias. `share`: its part of the traffic, 0 to 1; a shadow's are parts of their own."""

    target: Target
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Alias:
    name: str
    sticky_by: str
    variants: tuple[Variant, ...]
    shadows: tuple[Variant, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """`targets` by model id: whatever may be named, beside `aliases`. `routable`: what the router may pick by itself.
    `profiles`: the weights of each mode. `default_policy`: what holds where neither the request nor its key says more.
    `budgets`: the installation's own."""

    version: int = -1
    targets: Mapping[str, Target] = field(default_factory=dict)
    routable: tuple[Target, ...] = ()
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=lambda: PROFILES)
    default_policy: Policy = field(default_factory=lambda: Policy("normal"))
    provider_count: int = 0
    budgets: tuple[BudgetRecord, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Of orchestration, in place of the built-in ones."""
    is_capturing: bool = False
    """Whether anything is to be captured; `capture_key` seals it, and is None until there is one."""
    capture_key: SealedCredential | None = None
    stale_at: float = inf
    """When a price of another date begins, in seconds since 1970."""
