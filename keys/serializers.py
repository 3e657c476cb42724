from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from django.utils import timezone
from rest_framework import serializers

from keys import services
from keys.models import ClientKey
from tokenhub.apikit import Record, Strict, Words, WordsOrText

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = 100 * 366 * 86_400


class DurationField(serializers.CharField):
    """`2s`, `30m`, `720h` or `7d`; null: without end."""

    def to_internal_value(self, data: Any) -> Any:
        found = re.fullmatch(r"(\d{1,12})([smhd])", str(data), re.ASCII)
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST:
            raise serializers.ValidationError("Write a duration such as 30m, 720h or 90d.")
        return timedelta(seconds=seconds)


class ClientKeySerializer(Record[ClientKey]):
    scopes = WordsOrText(required=False, help_text="Of: chat, plan, embeddings. Empty: every scope.")
    allowed_models = Words(required=False, help_text="Ids and aliases. Empty: every one.")
    tags = Words(required=False)
    expires_in = DurationField(write_only=True, required=False, allow_null=True)

    class Meta:
        model = ClientKey
        fields = (
            "id", "name", "owner", "project", "tags", "scopes", "allowed_models", "allow_fallback",
            "allow_directives", "enabled", "expires_in", "expires_at", "key_prefix", "created_at", "last_used_at",
        )  # fmt: skip
        read_only_fields = ("id", "key_prefix", "created_at", "last_used_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "expires_in" in attrs:
            if "expires_at" in attrs:
                raise serializers.ValidationError({"expires_in": "Give expires_in or expires_at, not both."})
            duration = attrs.pop("expires_in")
            attrs["expires_at"] = None if duration is None else timezone.now() + duration
        return attrs

    def update(self, instance: ClientKey, validated_data: Mapping[str, Any]) -> ClientKey:
        self.assign(instance, validated_data)
        services.save(key=instance)
        return instance


class IssuedSerializer(Strict):
    """The only answer that holds the key."""

    ok = serializers.BooleanField()
    key = serializers.CharField()
    id = serializers.UUIDField()
    prefix = serializers.CharField()
    warning = serializers.CharField()


class NothingSerializer(Strict):
    """No field is known."""
