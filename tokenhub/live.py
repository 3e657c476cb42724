"""The live page: decisions as they are made, and who talks to what. Its events come from `/admin/v1/events`; what was
before them, and who is healthy, is asked here when it opens. Figures are added up in the browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from routing.health_store import health_report
from telemetry import log_sample
from telemetry.models import RequestLog

WINDOW_MINUTES: Final = 15
MOST: Final = 1000
"""Requests that are looked at; of a busy installation, those of less than the window."""


@never_cache
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    _check(request)
    context = {**admin.site.each_context(request), "title": "Live", "minutes": WINDOW_MINUTES}
    return render(request, "admin/live.html", context)


@never_cache
@require_GET
def flows(request: HttpRequest) -> HttpResponse:
    """The newest requests, with the names that events have, and the health of providers and models."""
    _check(request)
    since = timezone.now() - timedelta(minutes=WINDOW_MINUTES)
    found: dict[str, Any] = {"requests": log_sample.newest(since=since, most=MOST), "health": None}
    if request.user.has_perm("providers.view_provider"):
        report = health_report()["providers"]
        found["health"] = {
            "providers": {one["provider_id"]: one["state"] for one in report},
            "models": {model["model_id"]: model["state"] for one in report for model in one["models"]},
            "of": {model["model_id"]: one["provider_id"] for one in report for model in one["models"]},
        }
    return JsonResponse(found)


@never_cache
@require_GET
def explain(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """To the page of a request, by the id that events and clients know. It may be on its way into the log."""
    _check(request)
    found = RequestLog.objects.filter(request_id=request_id).order_by().values_list("pk", flat=True).first()
    if found is not None:
        return redirect("admin:telemetry_requestlog_change", found)
    context = {**admin.site.each_context(request), "title": "Not in the request log", "request_id": request_id}
    answer = render(request, "admin/live_unknown.html", context, status=404)
    answer["Refresh"] = "2"
    return answer


def _check(request: HttpRequest) -> None:
    if not request.user.has_perm("telemetry.view_requestlog"):
        raise PermissionDenied


urlpatterns = [
    path("", admin.site.admin_view(live), name="live"),
    path("flows/", admin.site.admin_view(flows), name="live-flows"),
    path("explain/<uuid:request_id>/", admin.site.admin_view(explain), name="explain"),
]
