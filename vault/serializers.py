from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tokenhub.apikit import Record, Strict
from vault.models import Secret
from vault.services import MIN_PASSWORD_LENGTH


def _password(**options: Any) -> serializers.CharField:
    return serializers.CharField(write_only=True, trim_whitespace=False, max_length=1000, **options)


class UnlockSerializer(Strict):
    admin_password = _password()


class RotateSerializer(Strict):
    old_password = _password()
    new_password = _password(min_length=MIN_PASSWORD_LENGTH)


class NothingSerializer(Strict):
    """No field is known."""


class StateSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    vault_initialized = serializers.BooleanField()
    vault_locked = serializers.BooleanField()
    secrets = serializers.IntegerField()


class SecretSerializer(Record[Secret]):
    class Meta:
        model = Secret
        fields = ("name", "fingerprint", "created_at", "updated_at", "last_used_at")
        read_only_fields = fields


class SecretValueSerializer(Strict):
    value = serializers.RegexField(r"^[!-~]([ -~]*[!-~])?$", write_only=True, trim_whitespace=False, max_length=20_000)

    def validate_value(self, value: str) -> str:
        if value != value.strip() or not value.isascii() or not value.isprintable():
            raise serializers.ValidationError("It holds spaces at its ends, or characters that no header takes.")
        return value
