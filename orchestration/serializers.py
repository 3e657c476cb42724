from __future__ import annotations

from typing import Any

from rest_framework import serializers

from orchestration.models import PlanLeg, PlanRun, RunState
from tokenhub.apikit import Dollars, Record

_RUN = (
    "id", "status", "mode", "runner", "background", "api_key_id", "api_key_name", "project", "created_at",
    "finished_at", "expires_at", "estimated_cost_usd", "cost_usd", "error_code", "resumed", "legs_done",
)  # fmt: skip


class LegSerializer(Record[PlanLeg]):
    leg = serializers.CharField(source="name")
    status = serializers.CharField(source="state")
    cost_usd = Dollars(max_digits=20, allow_null=True)

    class Meta:
        model = PlanLeg
        fields = (
            "leg", "role", "attempt", "status", "model_id", "provider_id", "request_id", "started_at", "finished_at",
            "latency_ms", "input_tokens", "output_tokens", "cost_usd", "error_code",
        )  # fmt: skip
        read_only_fields = fields


class WorkflowSerializer(Record[PlanRun]):
    """`legs_done`: ended ones, whatever came of them."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(source="state", choices=RunState.choices)
    runner = serializers.CharField(help_text="Who takes it from step to step: in_process or temporal.")
    background = serializers.BooleanField(source="is_background")
    estimated_cost_usd = Dollars(max_digits=20, allow_null=True)
    cost_usd = Dollars(max_digits=20, allow_null=True, help_text="So far.")
    legs_done = serializers.IntegerField()

    class Meta:
        model = PlanRun
        fields = _RUN
        read_only_fields = _RUN

    def get_fields(self) -> dict[str, Any]:
        partial = serializers.BooleanField(source="is_partial", help_text="Money or time ended it.")
        return {**super().get_fields(), "partial": partial}  # DRF has an attribute of that name


class WorkflowDetailSerializer(WorkflowSerializer):
    legs = LegSerializer(many=True)

    class Meta:
        model = PlanRun
        fields = (*_RUN, "legs")
        read_only_fields = fields


class HappeningSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    event = serializers.CharField(help_text="run_started, leg_started, leg_completed, leg_lost, run_completed, …")
    leg = serializers.CharField(source="leg.name", allow_null=True, default=None)
    attempt = serializers.IntegerField(source="leg.attempt", allow_null=True, default=None)
    model_id = serializers.CharField(source="leg.model_id", allow_null=True, default=None)
    request_id = serializers.UUIDField(source="leg.request_id", allow_null=True, default=None)
    error_code = serializers.CharField(source="leg.error_code", allow_null=True, default=None)


class HistorySerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    events = HappeningSerializer(many=True)
