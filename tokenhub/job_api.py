from __future__ import annotations

from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tokenhub import job_runs
from tokenhub.apikit import ApiError, Done, Record, Records, done
from tokenhub.jobs import JOBS, Scope
from tokenhub.models import JobState, Outcome


class JobSerializer(Record[JobState]):
    """`last_by`: who started the last run; `next_at`: null for a job that runs only when somebody asks."""

    does = serializers.SerializerMethodField()
    every_seconds = serializers.SerializerMethodField()
    scope = serializers.SerializerMethodField()
    last_outcome = serializers.SerializerMethodField(help_text="Null before the first run.")

    class Meta:
        model = JobState
        fields = (
            "name", "does", "every_seconds", "scope", "host", "next_at", "running_since", "last_started_at", "last_ms",
            "last_outcome", "last_result", "last_by",
        )  # fmt: skip
        read_only_fields = fields

    def get_does(self, state: JobState) -> str:
        return JOBS[state.name].does

    def get_every_seconds(self, state: JobState) -> int:
        return JOBS[state.name].every_seconds

    @extend_schema_field({"type": ["string", "null"], "enum": [*Outcome.values, None]})
    def get_last_outcome(self, state: JobState) -> str | None:
        return state.last_outcome or None

    @extend_schema_field({"type": "string", "enum": [one.value for one in Scope]})
    def get_scope(self, state: JobState) -> str:
        return JOBS[state.name].scope


class Jobs(Records[JobState]):
    rights = {"GET": ("tokenhub.view_jobstate",), "POST": ("tokenhub.change_jobstate",)}
    serializer_class = JobSerializer

    def get_queryset(self) -> QuerySet[JobState]:
        return JobState.objects.filter(name__in=JOBS).order_by("name", "host")

    @extend_schema(responses=JobSerializer(many=True))
    def list(self, request: Request) -> Response:
        """Background jobs: how often, the last run, and the next."""
        return super().list(request)

    @extend_schema(request=None, responses=Done)
    def run(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """Has it run now, with its other runs as they are planned. A job that each host has runs on all of them."""
        if (job := JOBS.get(id)) is None:
            raise Http404
        try:
            job_runs.ask(job=job)
        except job_runs.AlreadyRunning:
            raise ApiError("conflict", "This job is running.", hint="Wait until it has ended.") from None
        except job_runs.QueueUnreachable:
            raise ApiError(
                "overloaded",
                "Redis cannot be reached, and with it no Celery worker.",
                hint="The job is due: it runs when Redis and `celery beat` are back.",
            ) from None
        return done()
