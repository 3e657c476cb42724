"""The admin's playground: one prompt to up to three targets, side by side. The page itself asks /v1, as any client
would, with a key of the person's own that lasts half an hour (keys/playground.py). The key comes by a POST into the
page's memory; no HTML, no cookie and no store of the browser ever holds it."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from django.contrib import admin
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.urls.resolvers import URLPattern
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from keys import playground
from orchestration.registry import MODES
from routing.learning import MODE as THOMPSON
from routing.models import Ability, Alias, Model, RoutingProfile
from routing.scoring import PROFILES
from routing.words import MODE_PREFIX
from telemetry.models import RequestLog

PERMISSION: Final = "keys.use_playground"
READY_MS: Final = 1_200
"""After which every worker should know a new key: they look twice a second. A busy one may need longer, so the page
asks again for a while."""


_allowed = permission_required(PERMISSION, raise_exception=True)


@_allowed
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    offered = targets()
    facts = {
        "targets": offered,
        "plan_modes": sorted(MODES),
        "urls": {
            "key": reverse("playground-key"),
            "end": reverse("playground-end"),
            "told": reverse("playground-told", args=[UUID(int=0)]).replace(str(UUID(int=0)), "ID"),
        },
    }
    context = {
        **admin.site.each_context(request),
        "title": "Playground",
        "facts": facts,
        "has_models": any(group["name"] == "Models" for group in offered),
    }
    return TemplateResponse(request, "tokenhub/playground.html", context)


def targets() -> list[dict[str, Any]]:
    """What a request may name, in groups: the router and its modes, aliases, models."""
    own = RoutingProfile.objects.values_list("name", flat=True)
    modes = list(dict.fromkeys([*PROFILES, *own, THOMPSON]))
    models = Model.objects.filter(enabled=True, provider__enabled=True).order_by("pk")
    groups = [
        {
            "name": "The router decides",
            "targets": [
                {"id": "auto", "label": "auto (the default mode)"},
                *({"id": f"{MODE_PREFIX}{name}", "label": f"{MODE_PREFIX}{name}"} for name in modes),
            ],
        },
        {
            "name": "Aliases",
            "targets": [
                {"id": name, "label": name}
                for name in Alias.objects.filter(enabled=True).order_by("pk").values_list("pk", flat=True)
            ],
        },
        {
            "name": "Models",
            "targets": [
                {"id": pk, "label": f"{pk} · {provider}", "vision": Ability.VISION in abilities}
                for pk, provider, abilities in models.values_list("pk", "provider_id", "abilities")
            ],
        },
    ]
    return [group for group in groups if group["targets"]]


@sensitive_variables()
@_allowed
@require_POST
def key(request: HttpRequest) -> HttpResponse:
    """A fresh key for the page that asks; said in this one answer. The page chooses its id."""
    try:
        chosen = UUID(request.POST["id"]) if "id" in request.POST else None
        issued = playground.issue(owner=request.user.get_username(), key_id=chosen)
    except (ValueError, ValidationError):
        return HttpResponse(status=400)
    return JsonResponse(
        {
            "key": issued.plaintext,
            "id": str(issued.record.pk),
            "seconds": round(playground.LIFETIME.total_seconds()),
            "ready_in_ms": READY_MS,
        }
    )


@_allowed
@require_POST
def end(request: HttpRequest) -> HttpResponse:
    """The page is left: its key ends with it."""
    try:
        key_id = UUID(request.POST.get("id", ""))
    except ValueError:
        return HttpResponse(status=404)
    ended = playground.end(owner=request.user.get_username(), key_id=str(key_id))
    return HttpResponse(status=204 if ended else 404)


@_allowed
@require_GET
def told(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """What the request log holds of a request that one of the person's own keys made, once it is there."""
    row = RequestLog.objects.filter(request_id=request_id).first()
    if row is None or not _is_own(request, row):
        return JsonResponse({"here": False})
    link = ""
    if request.user.has_perm("telemetry.view_requestlog"):
        link = reverse("admin:telemetry_requestlog_change", args=[row.pk])
    return JsonResponse(
        {
            "here": True,
            "model": row.model_id,
            "provider": row.provider_id,
            "reason": row.routing_reason,
            "status": row.status,
            "error": row.error_code,
            "input_tokens": row.input_tokens,
            "cached_input_tokens": row.cached_input_tokens,
            "output_tokens": row.output_tokens,
            "reasoning_tokens": row.reasoning_tokens,
            "estimated": row.usage_estimated,
            "cost_usd": None if row.cost_usd is None else float(row.cost_usd),
            "latency_ms": row.latency_ms,
            "first_chunk_ms": row.time_to_first_chunk_ms,
            "candidates": [
                {name: one.get(name) for name in ("model", "score", "excluded")}
                for one in row.detail.get("candidates", [])[:20]
            ],
            "link": link,
        }
    )


def _is_own(request: HttpRequest, row: RequestLog) -> bool:
    try:
        key_id = UUID(row.api_key_id)
    except ValueError:
        return False
    return playground.owns(owner=request.user.get_username(), key_id=str(key_id))


urlpatterns: list[URLPattern] = [
    path("", admin.site.admin_view(page), name="playground"),
    path("key/", admin.site.admin_view(key), name="playground-key"),
    path("key/end/", admin.site.admin_view(end), name="playground-end"),
    path("told/<uuid:request_id>/", admin.site.admin_view(told), name="playground-told"),
]
