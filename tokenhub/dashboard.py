"""The admin's first page: what is left to set up. State and figures below it: tokenhub/overview.py."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from tokenhub.setup.views import panel


def environment(request: HttpRequest) -> list[str] | None:
    return ["Development", "info"] if settings.DEVELOPMENT else None


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    context |= panel(request)
    return context
