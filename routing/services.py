"""Every change of models. Field errors come as Django's ValidationError."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.core.exceptions import ValidationError
from django.db import transaction

from providers.models import CredentialStore, Provider, ProviderType
from providers.sandbox import SANDBOX_MODELS
from routing.models import PRICE_FIELDS, Alias, Model, Price, PriceSource, RoutingDefaults, RoutingProfile
from routing.scoring import PROFILES
from tokenhub import turn

SANDBOX_PROVIDER_ID = "sandbox"


@transaction.atomic
def save(*, model: Model, price_source: str | None = None) -> None:
    """Prices that differ from the stored ones are the operator's from now on, unless they are said to be another's.
    Raises ValidationError."""
    model.full_clean()
    stored = Model.objects.filter(pk=model.pk).first()
    if stored is not None and any(getattr(stored, one) != getattr(model, one) for one in PRICE_FIELDS):
        model.price_source = PriceSource.OPERATOR
    model.price_source = price_source or model.price_source
    model.save()


@transaction.atomic
def switch(*, models: Collection[str], enabled: bool) -> int:
    """How many of these were not so before. Raises ValidationError."""
    turn.take()
    others = list(Model.objects.select_for_update(no_key=True).filter(pk__in=models).exclude(enabled=enabled))
    for model in others:
        model.enabled = enabled
        save(model=model)
    return len(others)


@transaction.atomic
def delete(*, model: Model) -> None:
    turn.take()
    model.delete()


@transaction.atomic
def save_price(*, price: Price, source: str = PriceSource.OPERATOR) -> None:
    """Whoever changes a price of the catalogue makes it his own. Raises ValidationError."""
    price.source = source
    price.full_clean()
    price.save()


@transaction.atomic
def delete_price(*, price: Price) -> None:
    turn.take()
    price.delete()


@transaction.atomic
def save_alias(*, alias: Alias) -> None:
    """Its variants are rows of their own, and checked by `check_variants`. Raises ValidationError."""
    alias.full_clean()
    alias.save()


def check_variants(variants: Sequence[tuple[str, int, bool]]) -> None:
    """Of one alias: model id, weight, whether it is a shadow. Raises ValidationError."""
    if not any(weight and not is_shadow for _, weight, is_shadow in variants):
        raise ValidationError("An alias needs a variant that answers: one with a weight above 0 that is no shadow.")
    if any(is_shadow and weight > 100 for _, weight, is_shadow in variants):
        raise ValidationError("A shadow's weight is the percentage of requests that it gets: at most 100.")


@transaction.atomic
def delete_alias(*, alias: Alias) -> None:
    turn.take()
    alias.delete()


@transaction.atomic
def save_profile(*, profile: RoutingProfile) -> None:
    """Raises ValidationError."""
    profile.full_clean()
    profile.save()


@transaction.atomic
def delete_profile(*, profile: RoutingProfile) -> None:
    """Not that of the default mode, unless a built-in one takes its place. Raises ValidationError."""
    turn.take()
    if profile.name not in PROFILES and RoutingDefaults.objects.filter(default_mode=profile.name).exists():
        raise ValidationError(f"{profile.name!r} is the default mode. Set another one first: PUT /routing-config.")
    profile.delete()


@transaction.atomic
def save_defaults(*, defaults: RoutingDefaults) -> None:
    """Raises ValidationError."""
    turn.take()
    defaults.full_clean()
    modes = [*PROFILES, *RoutingProfile.objects.values_list("name", flat=True)]
    if defaults.default_mode and defaults.default_mode not in modes:
        message = f"There is no mode {defaults.default_mode!r}. Modes: {', '.join(dict.fromkeys(modes))}."
        raise ValidationError({"default_mode": message})
    defaults.save()


@transaction.atomic
def install_sandbox() -> int:
    """The built-in provider and its models, unless the provider is there already. The number of models made."""
    turn.take()
    provider, is_new = Provider.objects.get_or_create(
        id=SANDBOX_PROVIDER_ID, defaults={"type": ProviderType.SANDBOX, "cred_store": CredentialStore.NONE}
    )
    if not is_new:
        return 0
    for one in SANDBOX_MODELS:
        model = Model(
            id=one.id,
            provider=provider,
            weight=one.weight,
            max_context_tokens=one.max_context_tokens,
            max_output_tokens=one.max_output_tokens,
            input_per_1k=one.input_per_1k,
            output_per_1k=one.output_per_1k,
            abilities=list(one.abilities),
        )
        save(model=model)
    return len(SANDBOX_MODELS)
