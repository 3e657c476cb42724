from __future__ import annotations

from typing import Any

from rest_framework import serializers

from telemetry.serializers import MomentField
from telemetry.tsdb.metrics import AGGREGATES, LABELS, METRICS
from telemetry.tsdb.upkeep import MAX_DAYS
from tokenhub.apikit import Strict


class QuestionSerializer(Strict):
    of_query = True
    metric = serializers.ChoiceField(choices=list(METRICS))
    agg = serializers.ChoiceField(choices=AGGREGATES, required=False, help_text="Default: avg; of counts: sum.")
    group_by = serializers.CharField(required=False, max_length=200, help_text=f"Some of {', '.join(LABELS)}.")
    step_ms = serializers.IntegerField(
        required=False, min_value=1, max_value=366 * 86_400_000, help_text="Whole minutes; others are rounded up."
    )
    start = MomentField(required=False, help_text="Default: a day before the end.")
    end = MomentField(required=False, help_text="Default: now.")

    def get_fields(self) -> dict[str, Any]:
        labels = {
            name: serializers.CharField(required=False, allow_blank=True, trim_whitespace=False, max_length=200)
            for name in LABELS
        }
        return {**super().get_fields(), **labels}


class PointSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    value = serializers.FloatField(allow_null=True)


class LineSerializer(serializers.Serializer[Any]):
    labels = serializers.DictField(child=serializers.CharField())
    points = PointSerializer(many=True)


class AnswerSerializer(serializers.Serializer[Any]):
    metric = serializers.CharField()
    agg = serializers.CharField()
    step_ms = serializers.IntegerField(help_text="Longer than asked for where no shorter ones are kept.")
    series = LineSerializer(many=True)


class MetricSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    unit = serializers.CharField()
    description = serializers.CharField()
    aggregates = serializers.ListField(child=serializers.CharField())


class MetricsSerializer(serializers.Serializer[Any]):
    metrics = MetricSerializer(many=True)
    labels = serializers.ListField(child=serializers.CharField())


class PrunedSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    dropped = serializers.IntegerField(help_text="Rows.")


def _days(what: str) -> serializers.IntegerField:
    return serializers.IntegerField(required=False, min_value=1, max_value=MAX_DAYS, help_text=what)


class RetentionSerializer(Strict):
    retention_days = _days("Of rows of one minute.")
    hour_days = _days("Of rows of an hour.")
    day_days = _days("Of rows of a day.")
