from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from telemetry import events, stats, webhooks
from telemetry.models import AuditEntry, RequestLog, Webhook, WebhookDelivery
from tokenhub.apikit import Dollars, DurationField, Record, Strict, Words

ROW = (
    "request_id", "client_request_id", "created_at", "api_key_id", "api_key_name", "project", "endpoint", "dialect",
    "requested_model", "alias", "mode", "model_id", "provider_id", "routing_reason", "status", "error_class",
    "error_code", "stream", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "total_tokens", "usage_estimated", "estimated_cost_usd", "cost_usd", "latency_ms",
    "time_to_first_chunk_ms", "attempts", "client_disconnected", "tags",
)  # fmt: skip


class LogRowSerializer(Record[RequestLog]):
    estimated_cost_usd = Dollars(max_digits=20, allow_null=True)
    cost_usd = Dollars(max_digits=20, allow_null=True)
    tags = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = RequestLog
        fields = ROW
        read_only_fields = ROW


class AttemptSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    provider = serializers.CharField()
    error_class = serializers.CharField(allow_null=True)
    status = serializers.IntegerField()
    latency_ms = serializers.IntegerField()
    message = serializers.CharField(allow_null=True)


class PartsSerializer(serializers.Serializer[Any]):
    cost = serializers.FloatField()
    latency = serializers.FloatField()
    failure = serializers.FloatField()
    capability = serializers.FloatField()


class CandidateSerializer(serializers.Serializer[Any]):
    """A target that the router looked at."""

    model_id = serializers.CharField()
    provider_id = serializers.CharField()
    score = serializers.FloatField(allow_null=True)
    parts = PartsSerializer(allow_null=True)
    probability = serializers.FloatField(allow_null=True)
    excluded_reason = serializers.CharField(allow_null=True)


class LogDetailSerializer(LogRowSerializer):
    """As the view builds it: documentation."""

    attempts = AttemptSerializer(many=True)
    candidates = CandidateSerializer(many=True)
    shadow_of = serializers.CharField(allow_null=True, help_text="The request that this one is a copy of.")
    judge_of = serializers.CharField(allow_null=True, help_text="The request whose answer this one judged.")
    plan = serializers.CharField(allow_null=True, help_text="The run of /v1/plan that this request belongs to.")
    leg = serializers.CharField(allow_null=True, help_text="Its part in that run; null for the run's own row.")
    pressure = serializers.FloatField(
        allow_null=True, help_text="Points of reward that a dollar counted, because a budget was ahead of its pace."
    )
    reward = serializers.FloatField(
        allow_null=True,
        help_text="What the bandit learned at the answer, 0 to 1; what came later: /rewards.",
    )
    reward_parts = serializers.DictField(
        child=serializers.DictField(child=serializers.FloatField()),
        allow_null=True,
        help_text="What it is made of: each part's value and weight.",
    )

    class Meta:
        model = RequestLog
        fields = (
            *ROW, "candidates", "shadow_of", "judge_of", "plan", "leg", "reward", "reward_parts", "pressure",
        )  # fmt: skip


class CaptureSerializer(serializers.Serializer[Any]):
    request_id = serializers.UUIDField()
    prompt = serializers.CharField(help_text="The request's body, short of what was redacted or too much.")
    answer = serializers.CharField(help_text="The answer's body; of a stream, its texts and calls as JSON.")
    captured_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


@extend_schema_field(OpenApiTypes.DATETIME)
class MomentField(serializers.DateTimeField):
    """RFC 3339. A plus sign that came as a space, as it does in a query that was not encoded, is one."""

    def to_internal_value(self, value: Any) -> Any:
        text = re.sub(r" (\d\d:?\d\d)$", r"+\1", str(value)) if "T" in str(value) else str(value)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            text += "T00:00:00"
        return super().to_internal_value(text)


class FiltersSerializer(Strict):
    """Fields of a row, by equality; `from` and `to` of its moment; `tags`: a word among them."""

    of_query = True
    tags = serializers.CharField(required=False, max_length=200)

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        for name in ROW:
            if name not in fields:
                fields[name] = _filter(name)
        fields["from"] = MomentField(required=False)
        fields["to"] = MomentField(required=False)
        return fields


def _filter(name: str) -> serializers.Field[Any, Any, Any, Any]:
    kind = RequestLog._meta.get_field(name).get_internal_type()  # noqa: SLF001  Django's interface
    match kind:
        case "BooleanField":
            return serializers.BooleanField(required=False)
        case "DecimalField":
            return Dollars(required=False, max_digits=20)
        case "DateTimeField":
            return MomentField(required=False)
        case "PositiveIntegerField" | "PositiveSmallIntegerField" | "PositiveBigIntegerField":
            return serializers.IntegerField(required=False, min_value=0, max_value=1 << 53)
    return serializers.CharField(required=False, allow_blank=True, max_length=200)


# -- totals ----------------------------------------------------------------------------------------------------------
@extend_schema_field({"type": "string", "pattern": "^[1-9][0-9]{0,5}[sm]$|^[1-9][0-9]{0,1}[hd]$", "default": "1d"})
class WindowField(DurationField):
    """At most 99 days, or so."""

    pattern = r"([1-9][0-9]{0,5})([sm])|([1-9][0-9]{0,1})([hd])"


class WindowSerializer(Strict):
    of_query = True
    window = WindowField(required=False, help_text="Up to now: 15m, 24h, 7d; at most 99d.")
    model_id = serializers.CharField(required=False, max_length=200)
    provider_id = serializers.CharField(required=False, max_length=200)
    project = serializers.CharField(required=False, max_length=200)
    api_key_id = serializers.CharField(required=False, max_length=40)


class TokensSerializer(serializers.Serializer[Any]):
    input = serializers.IntegerField()
    cached_input = serializers.IntegerField()
    cache_write = serializers.IntegerField()
    output = serializers.IntegerField()
    reasoning = serializers.IntegerField()
    total = serializers.IntegerField()


class LatencySerializer(serializers.Serializer[Any]):
    avg = serializers.FloatField(allow_null=True)
    max = serializers.IntegerField(allow_null=True)


class LatencyPercentilesSerializer(LatencySerializer):
    p50 = serializers.IntegerField(allow_null=True)
    p95 = serializers.IntegerField(allow_null=True)
    p99 = serializers.IntegerField(allow_null=True)


class ProviderTotalsSerializer(serializers.Serializer[Any]):
    provider_id = serializers.CharField()
    requests = serializers.IntegerField()
    errors = serializers.IntegerField(  # type: ignore[assignment]  # no field of the class: DRF takes it away
        help_text="Those that were answered with a status of 400 or more."
    )
    error_rate = serializers.FloatField()
    cost_usd = serializers.FloatField()
    tokens = TokensSerializer()
    latency_ms = LatencySerializer()


class ModelTotalsSerializer(ProviderTotalsSerializer):
    model_id = serializers.CharField()


class StatsSerializer(ProviderTotalsSerializer):
    provider_id = None  # type: ignore[assignment]  # DRF's way to leave a field out
    to = serializers.DateTimeField()
    complete = serializers.BooleanField(help_text=f"Whether all was looked at; the newest {stats.ROWS} requests are.")
    latency_ms = LatencyPercentilesSerializer()
    by_model = ModelTotalsSerializer(many=True)
    by_provider = ProviderTotalsSerializer(many=True)

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateTimeField(), **super().get_fields()}


# -- audit -----------------------------------------------------------------------------------------------------------
class AuditSerializer(Record[AuditEntry]):
    changes = serializers.SerializerMethodField(help_text="Field to [before, after]; secrets are ***.")

    class Meta:
        model = AuditEntry
        fields = ("number", "created_at", *AuditEntry.TOLD, "hash")
        read_only_fields = fields

    def get_changes(self, entry: AuditEntry) -> dict[str, list[Any]]:
        changes: dict[str, list[Any]] = json.loads(entry.changes)
        return changes


class AuditExportSerializer(AuditSerializer):
    """As a file, it holds what the hash covers."""

    changes = serializers.CharField(help_text="JSON text: field to [before, after].")  # type: ignore[assignment]


class AuditFiltersSerializer(Strict):
    """By equality; `resource` also by the part before the slash, such as `provider`."""

    of_query = True
    actor = serializers.CharField(required=False, max_length=200)
    action = serializers.CharField(required=False, max_length=60)
    source_address = serializers.CharField(required=False, max_length=64)
    request_id = serializers.CharField(required=False, max_length=64)
    resource = serializers.CharField(required=False, max_length=300)

    def get_fields(self) -> dict[str, Any]:
        named = {"source": serializers.CharField(required=False, max_length=20)}  # DRF has an attribute of that name
        return {**super().get_fields(), **named, "from": MomentField(required=False), "to": MomentField(required=False)}


# -- events ----------------------------------------------------------------------------------------------------------
class EventFiltersSerializer(Strict):
    types = serializers.CharField(
        required=False, max_length=1000, help_text=f"With commas between them, of: {', '.join(events.EVENTS)}."
    )
    model_id = serializers.CharField(required=False, max_length=200)
    provider_id = serializers.CharField(required=False, max_length=200)
    project = serializers.CharField(required=False, max_length=200)
    status = serializers.ChoiceField(required=False, choices=["success", "error"], help_text="Of requests alone.")
    last_event_id = serializers.CharField(
        required=False,
        max_length=100,
        help_text="Goes on after that event, as the header Last-Event-ID does; 0: with the oldest that is kept.",
    )

    def validate_types(self, text: str) -> str:
        for name in text.split(","):
            if name not in events.EVENTS:
                raise serializers.ValidationError(f"There is no event {name!r}.")
        return text


# -- webhooks --------------------------------------------------------------------------------------------------------
class WebhookSerializer(Record[Webhook]):
    id = serializers.UUIDField(read_only=True)
    url = serializers.CharField(max_length=1000)
    events = Words(required=False, help_text=f"Of: {', '.join(webhooks.EVENTS)}. Empty: every event.")

    class Meta:
        model = Webhook
        fields = ("id", "url", "description", "events", "enabled", "created_at", "updated_at")

    def create(self, validated_data: dict[str, Any]) -> Webhook:
        return self.update(Webhook(), validated_data)

    def update(self, instance: Webhook, validated_data: Mapping[str, Any]) -> Webhook:
        self.assign(instance, validated_data)
        webhooks.save(webhook=instance)
        return instance


class WebhookSettingsSerializer(WebhookSerializer):
    """In the exported configuration."""

    id = serializers.UUIDField()


class WebhookSecretSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    id = serializers.UUIDField()
    secret = serializers.CharField(help_text="Receivers check the signatures with it.")


class DeliverySerializer(Record[WebhookDelivery]):
    class Meta:
        model = WebhookDelivery
        fields = (
            "id", "event", "state", "attempts", "next_at", "last_status", "last_error", "created_at", "delivered_at",
        )  # fmt: skip
        read_only_fields = fields
