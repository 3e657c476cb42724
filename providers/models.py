"""Where requests can be sent: a provider is a type (its dialects and defaults), an address and a credential."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

ID_PATTERN = r"^[A-Za-z0-9._:/@+-]{1,200}$"
validate_id = RegexValidator(ID_PATTERN, "Use letters, digits and . _ : / @ + - only, at most 200 of them.")


class ProviderType(models.TextChoices):
    OPENAI = "openai", "OpenAI or compatible"
    ANTHROPIC = "anthropic", "Anthropic"
    VLLM = "vllm", "vLLM"
    SANDBOX = "sandbox", "Sandbox (built in, no network)"


class CredentialStore(models.TextChoices):
    VAULT = "vault", "In the vault"
    NONE = "none", "None needed"


class Provider(models.Model):
    id = models.CharField(primary_key=True, max_length=200, validators=[validate_id])
    type = models.CharField(max_length=20, choices=ProviderType.choices)
    enabled = models.BooleanField(default=True)
    base_url = models.CharField(
        max_length=500, blank=True, help_text="Empty: the type's own address. With or without /v1 at its end."
    )
    endpoints = models.JSONField(
        default=list, blank=True, help_text="Further base addresses of the same service, used in turn."
    )
    dialects = models.JSONField(default=list, blank=True, help_text="Empty: those of the type.")
    cred_store = models.CharField(
        "credential", max_length=10, choices=CredentialStore.choices, default=CredentialStore.VAULT
    )
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.id

    @property
    def secret_name(self) -> str:
        """The name under which the vault keeps this provider's credential."""
        return f"provider/{self.id}"
