"""Snapshots, targets and client keys for tests of pure code."""

from __future__ import annotations

from collections.abc import Iterable

from keys.auth import KeyRecord
from providers.client import Url
from providers.types import TYPES
from routing.pricing import Prices
from routing.snapshot import Endpoint, ProviderRecord, Snapshot, Target
from vault.keyring import SealedCredential

NOW = 1_000.0


def key(*, models: Iterable[str] = (), allow_fallback: bool = True) -> KeyRecord:
    """`models`: the only ones that it may use; none: all."""
    return KeyRecord(
        id="k1", name="app", project="", tags=(), scopes=frozenset(), allowed_models=frozenset(models),
        allow_fallback=allow_fallback, enabled=True, expires_at=None,
    )  # fmt: skip


def provider(
    id_: str = "p1",
    *,
    type_: str = "openai",
    urls: Iterable[str] = ("https://one.example/v1",),
    dialects: tuple[str, ...] = ("openai-chat",),
    needs_credential: bool = False,
    credential: SealedCredential | None = None,
) -> ProviderRecord:
    endpoints = tuple(Endpoint(url, {dialect: Url.parse(f"{url}/{dialect}") for dialect in dialects}) for url in urls)
    return ProviderRecord(
        id=id_, type=type_, defaults=TYPES[type_], dialects=dialects, endpoints=endpoints, headers=[],
        needs_credential=needs_credential, credential=credential,
    )  # fmt: skip


def prices(input_: int, output: int) -> Prices:
    """Nano-dollars per 1,000 tokens."""
    return Prices(input=input_, output=output, cached_input=input_, cache_write=input_, reasoning=output)


def target(
    model_id: str = "m1",
    *,
    at: ProviderRecord | None = None,
    upstream_model: str = "",
    weight: int = 5,
    context: int = 100_000,
    max_output: int | None = None,
    abilities: Iterable[str] = (),
    priced: Prices | None = None,
) -> Target:
    return Target(
        model_id=model_id, upstream_model=upstream_model or model_id, provider=at or provider(), weight=weight,
        max_context_tokens=context, max_output_tokens=max_output, abilities=frozenset(abilities), prices=priced,
    )  # fmt: skip


def snapshot(*targets: Target) -> Snapshot:
    return Snapshot(version=1, targets={one.model_id: one for one in targets}, routable=targets, provider_count=1)
