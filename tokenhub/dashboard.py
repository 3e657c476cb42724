"""The admin's first page: what is left to set up, and the last day in a few figures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, Sum
from django.http import HttpRequest
from django.utils import timezone

from telemetry.models import RequestLog
from tokenhub.setup.views import panel


def environment(request: HttpRequest) -> list[str] | None:
    return ["Development", "info"] if settings.DEVELOPMENT else None


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    day = RequestLog.objects.filter(created_at__gte=timezone.now() - timedelta(days=1)).aggregate(
        requests=Count("id"),
        failed=Count("id", filter=Q(status__gte=500)),
        cost=Sum("cost_usd"),
        input_tokens=Sum("input_tokens"),
        output_tokens=Sum("output_tokens"),
    )
    context |= {**panel(request), "day": day}
    return context
