from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import Any, Final

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry import audit
from telemetry.tsdb import query, upkeep
from telemetry.tsdb.metrics import LABELS, METRICS, Metric
from telemetry.tsdb.models import Sample, Span
from telemetry.tsdb.serializers import (
    AnswerSerializer,
    MetricsSerializer,
    PrunedSerializer,
    QuestionSerializer,
    RetentionSerializer,
)
from tokenhub.apikit import View, body_of, invalid, rights

DAY_SECONDS: Final = 86_400
_FIELDS: Final = {"retention_days": Span.MINUTE, "hour_days": Span.HOUR, "day_days": Span.DAY}


class Query(View):
    rights = rights(Sample)

    @extend_schema(operation_id="tsdb_query", parameters=[QuestionSerializer], responses=AnswerSerializer)
    def get(self, request: Request) -> Response:
        """A metric over time, in steps. A step in which nothing happened has the sum 0, and no average."""
        question = _question(request)
        try:
            answer = query.ask(question)
        except query.TooMany as problem:
            raise invalid(*problem.args) from None
        moments: dict[int, str] = {}
        for line in answer.lines[:1]:
            moments = {at: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}" for at, _ in line.points}
        series = [
            {"labels": line.labels, "points": [{"at": moments[at], "value": value} for at, value in line.points]}
            for line in answer.lines
        ]
        told = {"metric": question.metric.name, "agg": question.aggregate, "step_ms": answer.step * 1000}
        return Response({**told, "series": series})


def _question(request: Request) -> query.Question:
    """Raises ApiError, ValidationError."""
    given = {name: str(value) for name, value in request.query_params.items()}
    for name, value in given.items():
        if "\0" in value:
            raise invalid(name, "it holds a NUL character.")
    serializer = QuestionSerializer(data=given)
    serializer.is_valid(raise_exception=True)
    wanted: dict[str, Any] = serializer.validated_data
    metric = METRICS[wanted["metric"]]
    end = wanted["end"].timestamp() if "end" in wanted else time()
    start = wanted["start"].timestamp() if "start" in wanted else end - DAY_SECONDS
    if start < 0:
        raise invalid("start", "nothing was before 1970.")
    if start >= end:
        raise invalid("start", "it must be before the end.")
    return query.Question(
        metric=metric,
        aggregate=_aggregate(metric, wanted.get("agg")),
        start=int(start),
        end=-int(-end // 1),
        step=-(-wanted.get("step_ms", 0) // 60_000) * 60,
        group_by=_group_by(wanted.get("group_by", "")),
        labels={name: wanted[name] for name in LABELS if name in wanted},
    )


def _aggregate(metric: Metric, wanted: str | None) -> str:
    if wanted is None:
        return "sum" if metric.is_counter else "avg"
    if wanted not in metric.aggregates:
        raise invalid("agg", f"{metric.name} has {', '.join(metric.aggregates)}.")
    return wanted


def _group_by(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in LABELS]:
        raise invalid("group_by", f"{unknown[0]!r} is none of {', '.join(LABELS)}.")
    return names


class MetricNames(View):
    rights = rights(Sample)

    @extend_schema(operation_id="tsdb_metrics", responses=MetricsSerializer)
    def get(self, request: Request) -> Response:
        """What can be asked for, and which labels series have, to filter and to group by."""
        metrics = [
            {"name": one.name, "unit": one.unit, "description": one.text, "aggregates": one.aggregates}
            for one in METRICS.values()
        ]
        return Response({"metrics": metrics, "labels": LABELS})


class Prune(View):
    rights = {"POST": ("telemetry.change_serieslevel",)}

    @extend_schema(operation_id="tsdb_prune", request=None, responses=PrunedSerializer)
    def post(self, request: Request) -> Response:
        """Drops at once what is older than the retention; otherwise it goes by and by. Rolls up before."""
        upkeep.roll_up()
        dropped = upkeep.prune()
        audit.record("tsdb.prune", resource="tsdb/samples", changes={"dropped": [None, dropped]})
        return Response({"ok": True, "dropped": dropped})


class Retention(View):
    rights = {"GET": ("telemetry.view_serieslevel",), "PUT": ("telemetry.change_serieslevel",)}

    @extend_schema(operation_id="tsdb_retention", responses=RetentionSerializer)
    def get(self, request: Request) -> Response:
        """How many days each level is kept."""
        return _retention()

    @extend_schema(operation_id="tsdb_set_retention", request=RetentionSerializer, responses=RetentionSerializer)
    def put(self, request: Request) -> Response:
        """Changes the fields that are given. A coarser level is kept at least as long as a finer one."""
        serializer = RetentionSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        wanted: dict[str, int] = serializer.validated_data
        try:
            upkeep.set_retention(days={_FIELDS[name]: days for name, days in wanted.items()})
        except upkeep.TooShort as problem:
            name = next(name for name, span in _FIELDS.items() if span == problem.args[0])
            raise invalid(name, "a coarser level is kept at least as long as a finer one.") from None
        return _retention()


def _retention() -> Response:
    kept = upkeep.retention()
    return Response({name: kept[span] for name, span in _FIELDS.items()})
