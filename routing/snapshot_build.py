"""Database to Snapshot. Synchronous Django; runs in the poller's thread and never on the event loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from math import inf
from urllib.parse import urljoin

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keys.auth import BudgetRecord, KeyRecord
from keys.limit_table import owner_of
from keys.limits import Bucket, Limits
from keys.models import Budget, ClientKey, Limited, Project, Subject
from providers.client import Url
from providers.formats.registry import DIALECTS
from providers.models import CredentialStore, Provider, ProviderType
from providers.types import TYPES, api_root
from routing.changes import PROMPTS
from routing.models import PRICE_FIELDS, ConfigVersion, Model, Price, RoutingDefaults, RoutingProfile
from routing.models import Alias as AliasRow
from routing.policy import Policy
from routing.pricing import NANO, Prices
from routing.scoring import PROFILES, Profile
from routing.snapshot import Alias, Endpoint, ProviderRecord, Snapshot, Target, Variant
from telemetry.logs import EventLogger
from vault import capture_key
from vault.keyring import SealedCredential
from vault.services import sealed_credentials

log = EventLogger(__name__)
SANDBOX_URL = Url.parse("http://sandbox.invalid/")  # never resolved: the sandbox has no network


def config_version() -> int:
    return ConfigVersion.objects.filter(pk=1).values_list("version", flat=True).first() or 0


@transaction.atomic
def build_snapshot() -> Snapshot:
    """One consistent reading of everything; a row that cannot be used is left out and logged, the rest still serves."""
    version = config_version()
    credentials = sealed_credentials()
    providers: dict[str, ProviderRecord] = {}
    for row in Provider.objects.filter(enabled=True):
        if row.type == ProviderType.SANDBOX and not settings.TOKENHUB_SANDBOX:
            continue
        try:
            providers[row.id] = _provider(row, credentials.get(row.secret_name))
        except (ValueError, KeyError) as problem:
            log.error("provider_unusable", provider=row.id, reason=str(problem))
    now = timezone.now()
    dated: dict[str, list[Price]] = {}
    for price in Price.objects.order_by("starts_at"):
        dated.setdefault(price.model_id, []).append(price)
    coming = [one.starts_at.timestamp() for prices in dated.values() for one in prices if one.starts_at > now]
    targets = {
        row.id: _target(row, providers[row.provider_id], dated.get(row.id, ()), now)
        for row in Model.objects.filter(enabled=True)
        if row.provider_id in providers
    }
    budgets = _budgets()
    groups = list(Project.objects.all())
    projects = {row.pk: limits_of("project", row.pk, f"The project {row.pk!r}", row) for row in groups}
    capturing = frozenset(row.pk for row in groups if row.capture)
    profiles = {**PROFILES, **{row.name: _profile(row) for row in RoutingProfile.objects.all()}}
    aliases, keys = _aliases(targets), _keys(budgets, projects, capturing)
    return Snapshot(
        version=version,
        stale_at=min(coming, default=inf),
        targets=targets,
        routable=_routable(providers, list(targets.values())),
        keys=keys,
        aliases=aliases,
        capture_key=credentials.get(capture_key.NAME),
        is_capturing=(
            bool(settings.TOKENHUB_JUDGE_MODEL)
            or any(one.capture for one in keys.values())
            or any(one.shadows for one in aliases.values())
        ),
        profiles=profiles,
        default_policy=default_policy(profiles),
        provider_count=len(providers),
        budgets=budgets.get((Subject.INSTALLATION, ""), ()),
        prompts={name: text for source in PROMPTS for name, text in source().items()},
    )


def _aliases(targets: Mapping[str, Target]) -> dict[str, Alias]:
    """Those with a variant that can be served. A model's own name goes before an alias."""
    found: dict[str, Alias] = {}
    for row in AliasRow.objects.filter(enabled=True).prefetch_related("variants"):
        rows = [one for one in row.variants.all() if one.model_id in targets and one.weight]
        total = sum(one.weight for one in rows if not one.is_shadow)
        variants = tuple(Variant(targets[one.model_id], one.weight / total) for one in rows if not one.is_shadow)
        shadows = tuple(Variant(targets[one.model_id], min(one.weight / 100, 1.0)) for one in rows if one.is_shadow)
        if variants and row.name not in targets:
            found[row.name] = Alias(row.name, row.sticky_by, variants, shadows)
    return found


def default_policy(profiles: Collection[str]) -> Policy:
    """The environment's, but for what the database sets. A mode whose profile was deleted is none."""
    mode, dollars, latency_ms = (value for value, _ in RoutingDefaults.current().effective().values())
    if mode not in profiles:
        log.error("default_mode_unknown", mode=mode)
        mode = settings.TOKENHUB_DEFAULT_MODE
    return Policy(mode=mode, max_budget_nano=int(dollars * NANO) or None, max_latency_ms=latency_ms or None)


def _profile(row: RoutingProfile) -> Profile:
    return Profile(row.cost, row.latency, row.failure, row.capability)


def _routable(providers: Mapping[str, ProviderRecord], targets: Sequence[Target]) -> tuple[Target, ...]:
    """Sandbox models leave the stage as soon as there is a real provider, even before its first model."""
    if all(provider.type == ProviderType.SANDBOX for provider in providers.values()):
        return tuple(targets)
    return tuple(target for target in targets if target.provider.type != ProviderType.SANDBOX)


def _provider(row: Provider, credential: SealedCredential | None) -> ProviderRecord:
    defaults = TYPES[row.type]
    dialects = tuple(row.dialects) or defaults.dialects
    bases = [row.base_url or defaults.base_url, *row.endpoints]
    usable = [name for name in dialects if name in DIALECTS]
    usable += [name for name, dialect in DIALECTS.items() if dialect.implied_by in usable]
    if row.type == ProviderType.SANDBOX:
        endpoints = [Endpoint("sandbox", dict.fromkeys(usable, SANDBOX_URL))]
    else:
        endpoints = [
            Endpoint(base, {name: Url.parse(urljoin(api_root(base) + "/", DIALECTS[name].path)) for name in usable})
            for base in bases
        ]
    return ProviderRecord(
        id=row.id,
        type=row.type,
        defaults=defaults,
        dialects=dialects,
        endpoints=tuple(endpoints),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in defaults.extra_headers.items()],
        needs_credential=row.cred_store == CredentialStore.VAULT,
        credential=credential if row.cred_store == CredentialStore.VAULT else None,
    )


def _target(row: Model, provider: ProviderRecord, dated: Sequence[Price], now: datetime) -> Target:
    return Target(
        model_id=row.id,
        upstream_model=row.upstream_model or row.id,
        provider=provider,
        weight=row.weight,
        max_context_tokens=row.max_context_tokens,
        max_output_tokens=row.max_output_tokens,
        abilities=frozenset(row.abilities),
        prices=prices_of(row, dated, now),
    )


def prices_of(row: Model, dated: Sequence[Price], now: datetime) -> Prices | None:
    """Those that hold now. `dated`: of this model, oldest first."""
    begun = [one for one in dated if one.starts_at <= now]
    base: Model | Price = row
    tiers: dict[int, Price] = {}
    for one in begun:
        if one.above_input_tokens:
            tiers[one.above_input_tokens] = one
        else:
            base = one
    if isinstance(base, Price):
        tiers = {above: one for above, one in tiers.items() if one.starts_at >= base.starts_at}
    values = {name: getattr(base, name) for name in PRICE_FIELDS}
    prices = Prices.from_dollars(**values)
    if prices is None:
        return None
    found = []
    for above, one in tiers.items():
        own = {name: getattr(one, name) for name in PRICE_FIELDS if getattr(one, name) is not None}
        tier = Prices.from_dollars(**{**values, **own})
        assert tier is not None  # noqa: S101  it has at least what the base has
        found.append((above, tier))
    return prices.with_tiers(found)


def limits_of(kind: str, name: str, whose: str, row: Limited) -> tuple[Limits, ...]:
    """None where nothing is limited."""
    rps, rpm, tpm = row.rate_limit_rps, row.rate_limit_rpm, row.rate_limit_tpm
    if not (rps or rpm or tpm or row.max_concurrent):
        return ()
    return (
        Limits(
            owner_of(kind, f"{name}\0{rps}/{row.rate_limit_burst}/{rpm}/{tpm}"),  # a changed limit begins anew
            whose,
            second=Bucket(rps, float(row.rate_limit_burst or max(rps, 1.0))) if rps else None,
            minute=Bucket(rpm / 60, float(rpm)) if rpm else None,
            tokens=Bucket(tpm / 60, float(tpm)) if tpm else None,
            concurrent=row.max_concurrent or 0,
            project=name if kind == "project" else "",
        ),
    )


ProjectLimits = Mapping[str, tuple[Limits, ...]]
Budgets = Mapping[tuple[str, str], tuple[BudgetRecord, ...]]


def _budgets() -> Budgets:
    """By what they concern: kind, and id or name."""
    return {
        (row.subject, row.subject_id): (BudgetRecord(row.pk, row.amount_nano, row.every, row.whose),)
        for row in Budget.objects.all()
    }


def _keys(budgets: Budgets, projects: ProjectLimits, capturing: frozenset[str]) -> dict[str, KeyRecord]:
    """By digest; a secret that was replaced lasts as long as its grace."""
    found: dict[str, KeyRecord] = {}
    for row in ClientKey.objects.servable():
        record = found[row.digest] = _key(row, budgets, projects, capturing)
        if row.old_digest and row.old_digest_until is not None:
            until = row.old_digest_until.timestamp()
            ends = until if record.expires_at is None else min(until, record.expires_at)
            found.setdefault(row.old_digest, replace(record, expires_at=ends))
    return found


def _key(row: ClientKey, budgets: Budgets, projects: ProjectLimits, capturing: frozenset[str]) -> KeyRecord:
    return KeyRecord(
        id=str(row.id),
        name=row.name,
        project=row.project,
        tags=tuple(str(tag) for tag in row.tags),
        scopes=frozenset(row.scopes),
        allowed_models=frozenset(row.allowed_models),
        allow_fallback=row.allow_fallback,
        allow_directives=row.allow_directives,
        enabled=row.enabled,
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        budgets=(
            *budgets.get((Subject.KEY, str(row.id)), ()),
            *(budgets.get((Subject.PROJECT, row.project), ()) if row.project else ()),
            *budgets.get((Subject.INSTALLATION, ""), ()),
        ),
        limits=limits_of("key", str(row.id), "This client key", row) + projects.get(row.project, ()),
        capture=row.capture or row.project in capturing,
    )
