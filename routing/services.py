"""Every change of models. Field errors come as Django's ValidationError."""

from __future__ import annotations

from django.db import transaction

from providers.models import CredentialStore, Provider, ProviderType
from providers.sandbox import SANDBOX_MODELS
from routing.models import Model

SANDBOX_PROVIDER_ID = "sandbox"


@transaction.atomic
def save(*, model: Model) -> None:
    """Raises ValidationError."""
    model.full_clean()
    model.save()


def delete(*, model: Model) -> None:
    model.delete()


@transaction.atomic
def install_sandbox() -> int:
    """The built-in provider and its models, unless the provider is there already. The number of models made."""
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
