"""Every change of providers. Field errors come as Django's ValidationError."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import transaction

from providers.models import CredentialStore, Provider
from providers.types import origin
from tokenhub import turn
from vault import services as vault
from vault.errors import VaultLocked
from vault.models import Secret


def check(*, provider: Provider, credential: str = "") -> None:
    """Whether `save` would take it. Who changes where calls go must give the credential again: otherwise an edit could
    send it to a stranger. Raises ValidationError."""
    wants_vault = provider.cred_store == CredentialStore.VAULT
    if credential:
        if not wants_vault:
            raise ValidationError({"cred_store": "A credential was given: choose the vault, or leave it out."})
        if credential != credential.strip() or not credential.isascii() or not credential.isprintable():
            message = "The credential holds spaces at its ends, or characters that no header takes."
            raise ValidationError({"cred_store": message})
        if vault.status().locked:
            raise ValidationError({"cred_store": VaultLocked.message})
        return
    stored = Provider.objects.filter(pk=provider.pk).first()
    if stored is None or not wants_vault or not Secret.objects.filter(name=provider.secret_name).exists():
        return
    known = _origins(stored)
    if stranger := next((one for one in _origins(provider) if one not in known), None):
        message = f"Calls would go to {stranger[1]}:{stranger[2]} now. Give the credential again to confirm that."
        raise ValidationError({"base_url": message})


@transaction.atomic
def save(*, provider: Provider, credential: str = "") -> None:
    """Creates or changes a provider; a credential goes to the vault. Raises ValidationError."""
    turn.take()
    Provider.objects.select_for_update(no_key=True).filter(pk=provider.pk).first()
    provider.full_clean()
    check(provider=provider, credential=credential)
    provider.save()
    if credential:
        vault.put_secret(name=provider.secret_name, value=credential)
    elif provider.cred_store != CredentialStore.VAULT:
        vault.delete_secret(name=provider.secret_name)


@transaction.atomic
def delete(*, provider: Provider) -> None:
    """With its models and its credential."""
    turn.take()
    vault.delete_secret(name=provider.secret_name)
    provider.delete()


def _origins(provider: Provider) -> list[tuple[str, str, int]]:
    return [origin(base) for base in provider.bases]
