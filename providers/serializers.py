from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from providers import services
from providers.discovery import Look, Problem
from providers.models import CredentialStore, Provider
from providers.types import DIALECTS
from tokenhub.apikit import NameField, Record, Words
from vault import services as vault
from vault.errors import VaultLocked


class LookSerializer(serializers.Serializer[Any]):
    address = serializers.CharField()
    ok = serializers.BooleanField()
    problem = serializers.ChoiceField(choices=[one.value for one in Problem], allow_null=True)
    message = serializers.CharField(help_text="What failed, in a sentence.")
    hint = serializers.CharField(help_text="The next step.")
    status = serializers.IntegerField(allow_null=True, help_text="Of the answer, if there was one.")
    latency_ms = serializers.IntegerField()
    models = serializers.IntegerField(help_text="How many it lists.")


class ReportSerializer(LookSerializer):
    """The first address that fails, or the first; and each of them."""

    provider_id = serializers.CharField()
    addresses = LookSerializer(many=True)


def shown_look(look: Look) -> dict[str, Any]:
    return {
        "address": look.address,
        "ok": look.problem is None,
        "problem": look.problem,
        "message": look.message,
        "hint": look.hint,
        "status": look.status,
        "latency_ms": look.latency_ms,
        "models": len(look.models),
    }


class ProviderSerializer(Record[Provider]):
    """`api_key` goes into the vault and never comes back."""

    id = NameField()
    endpoints = Words(required=False, child=serializers.CharField(max_length=500), help_text="Further base addresses.")
    dialects = Words(required=False, child=serializers.ChoiceField(choices=list(DIALECTS)))
    api_key = serializers.CharField(
        write_only=True, required=False, allow_null=True, allow_blank=True, trim_whitespace=False, max_length=20_000
    )
    credential = serializers.SerializerMethodField(help_text="stored, missing, or none where none is needed")
    credential_fingerprint = serializers.CharField(read_only=True, allow_null=True)

    class Meta:
        model = Provider
        fields = (
            "id", "type", "enabled", "base_url", "endpoints", "dialects", "cred_store", "api_key", "credential",
            "credential_fingerprint", "created_at", "updated_at",
        )  # fmt: skip

    def get_credential(self, provider: Any) -> str:
        if provider.cred_store != CredentialStore.VAULT:
            return "none"
        return "stored" if provider.credential_fingerprint else "missing"

    def create(self, validated_data: dict[str, Any]) -> Provider:
        return self.update(Provider(), validated_data)

    def update(self, instance: Provider, validated_data: Mapping[str, Any]) -> Provider:
        values = dict(validated_data)
        credential = values.pop("api_key", None) or ""
        self.assign(instance, values)
        if credential and instance.cred_store == CredentialStore.VAULT and vault.status().locked:
            raise VaultLocked
        services.save(provider=instance, credential=credential)
        return instance
