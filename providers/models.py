"""Where requests can be sent: a provider is a type (its dialects and defaults), an address and a credential."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from providers.client import Url
from providers.types import DIALECTS, TYPES

SECRET_PREFIX = "provider/"  # noqa: S105  part of a name
RESERVED_ENDINGS = ("/discover", "/test", "/import-models")
ID_PATTERN = r"^[A-Za-z0-9._:/@+-]{1,200}$"
validate_id = RegexValidator(ID_PATTERN, "Use letters, digits and . _ : / @ + - only, at most 200 of them.")


def _address_problem(addresses: Any) -> str:
    """Empty when every address can be called."""
    if not isinstance(addresses, list):
        return "A list of addresses, one per line."
    for address in addresses:
        try:
            Url.parse(str(address))
            usable = re.search(r"[\s?#\\]", str(address)) is None  # paths are appended to it
        except ValueError:
            usable = False
        if not usable:
            text = str(address)[:80]
            return f"{text!r} is no address: http://HOST[:PORT] or https://HOST, without a password or a query in it."
    return ""


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

    def clean(self) -> None:
        errors: dict[str, str] = {}
        if self.id.endswith(RESERVED_ENDINGS):
            errors["id"] = f"It cannot end in {', '.join(RESERVED_ENDINGS)}: the admin API has paths of that kind."
        defaults = TYPES.get(self.type)
        if defaults is None:
            return  # the field's own error says so
        if defaults.needs_base_url and not self.base_url:
            errors["base_url"] = "This type has no address of its own. Example: http://10.0.0.5:8000"
        for field, addresses in (("base_url", [self.base_url] if self.base_url else []), ("endpoints", self.endpoints)):
            if problem := _address_problem(addresses):
                errors[field] = problem
        if not isinstance(self.dialects, list) or any(name not in DIALECTS for name in self.dialects):
            errors["dialects"] = f"A list of: {', '.join(DIALECTS)}. Empty: those of the type."
        if errors:
            raise ValidationError(errors)

    @property
    def bases(self) -> list[str]:
        """Every base address, the main one first; none for the sandbox."""
        main = self.base_url or TYPES[self.type].base_url
        return [one for one in [main, *self.endpoints] if one]

    @property
    def secret_name(self) -> str:
        """The name under which the vault keeps this provider's credential."""
        return SECRET_PREFIX + self.id
