"""Users and groups, on the same base as everything else; the page of a request; and the background jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timezone import localtime
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from telemetry import audit
from telemetry.admin import RequestLogAdmin
from telemetry.models import RequestLog
from tokenhub import adminversion, explain, job_runs
from tokenhub.adminkit import Admin, ReadOnlyAdmin, display
from tokenhub.jobs import JOBS
from tokenhub.models import JobState

_OUTCOMES = {"ok": "pg-good", "failed": "pg-bad"}

admin.site.index_title = "Overview"
admin.site.unregister(User)
admin.site.unregister(Group)


def _history(resources: Sequence[str], since: datetime) -> Iterator[adminversion.Entry]:
    for one in audit.changes_since(resources, since):
        yield adminversion.Entry(one.resource, frozenset(json.loads(one.changes)), one.actor, one.created_at)


adminversion.HISTORY.append(_history)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, Admin):  # type: ignore[type-arg, misc]  # of the two, the stubs type only Django's
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    readonly_fields = ("last_login", "date_joined")  # a form must not take back what the user did meanwhile


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, Admin):
    empty_title = "No group yet"
    empty_hint = "A group holds permissions. Users in it may do what it may, without being superusers."


@admin.register(RequestLog)
class RequestPage(RequestLogAdmin):
    change_form_template = "admin/request.html"

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **options: Any) -> HttpResponse:
        row = options.get("obj")
        context["story"] = explain.story(row) if row is not None else None
        answer: HttpResponse = super().render_change_form(request, context, *args, **options)
        return answer


@admin.register(JobState)
class JobStateAdmin(ReadOnlyAdmin):
    list_display = ("job", "does", "every", "last_run", "took", "outcome", "next_run")
    list_display_links = ("job",)
    search_fields = ("name", "last_result")
    search_help_text = "A job's name, or what came of its last run"
    list_filter = ("last_outcome",)
    ordering = ("name", "host")
    actions = ("run_now",)
    empty_title = "No job yet"
    empty_hint = "The server writes down its background jobs a second after its start."
    fieldsets = (
        (None, {"fields": ("does", ("every", "scope", "host"))}),
        ("Last run", {"fields": (("last_run", "took", "last_by"), "outcome", "last_result")}),
        ("Next run", {"fields": (("next_run", "asked_by"),)}),
    )
    readonly_fields = ("does", "every", "scope", "last_run", "took", "outcome", "next_run")

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobState]:
        found: QuerySet[JobState] = super().get_queryset(request)
        return found.filter(name__in=JOBS)

    @display(description="Job", ordering="name")
    def job(self, state: JobState) -> str:
        return str(state)

    @display(description="What it does")
    def does(self, state: JobState) -> str:
        return JOBS[state.name].does

    @display(description="Once for")
    def scope(self, state: JobState) -> str:
        return "each host" if state.host else "the installation"

    @display(description="Every")
    def every(self, state: JobState) -> str:
        seconds = JOBS[state.name].every_seconds
        for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if seconds and not seconds % size:
                return f"{seconds // size} {unit}"
        return "only when asked"

    @display(description="Last run", ordering="last_started_at")
    def last_run(self, state: JobState) -> str | None:
        return f"{localtime(state.last_started_at):%Y-%m-%d %H:%M:%S}" if state.last_started_at is not None else None

    @display(description="Took", ordering="last_ms")
    def took(self, state: JobState) -> str | None:
        return f"{state.last_ms / 1000:.3f} s" if state.last_ms is not None else None

    @display(description="Outcome", ordering="last_outcome")
    def outcome(self, state: JobState) -> str | None:
        """In words that may be long: they break, which a label's do not."""
        if not state.last_outcome:
            return None
        badge = format_html(
            '<span class="pg-badge {}">{}</span>', _OUTCOMES.get(state.last_outcome, ""), state.last_outcome
        )
        return format_html("{} {}", badge, state.last_result)

    @display(description="Next run", ordering="next_at")
    def next_run(self, state: JobState) -> str | None:
        now = timezone.now()
        if state.running_since is not None and state.lease_until is not None and state.lease_until > now:
            return f"runs since {localtime(state.running_since):%H:%M:%S}"
        if state.next_at is None:
            return None
        return "now" if state.next_at <= now else f"{localtime(state.next_at):%Y-%m-%d %H:%M:%S}"

    def has_run_permission(self, request: HttpRequest) -> bool:
        allowed: bool = request.user.has_perm("tokenhub.change_jobstate")
        return allowed

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[JobState]) -> None:
        for name in sorted(set(queryset.values_list("name", flat=True))):
            try:
                job_runs.ask(job=JOBS[name])
            except job_runs.AlreadyRunning:
                messages.warning(request, f"{name} is running.")
            except job_runs.QueueUnreachable:
                messages.error(request, f"{name}: Redis cannot be reached. It runs when Celery is back.")
            else:
                messages.success(request, f"{name} starts within a second. Load the page again for what came of it.")
