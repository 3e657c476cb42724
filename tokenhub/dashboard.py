"""The admin's first page: what is left to set up, and the last day in a few figures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Count, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from keys.models import ClientKey
from providers.models import Provider, ProviderType
from routing.models import Model
from telemetry.models import RequestLog
from vault import services as vault


class Step(NamedTuple):
    title: str
    hint: str
    url: str
    done: bool


def environment(request: HttpRequest) -> list[str] | None:
    return ["Development", "info"] if settings.DEVELOPMENT else None


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    state = vault.status()
    real = Provider.objects.filter(enabled=True).exclude(type=ProviderType.SANDBOX)
    steps = [
        Step(
            "Open the vault",
            "It keeps providers' credentials encrypted.",
            reverse("admin:vault_vaultstate_changelist"),
            state.initialized and not state.locked,
        ),
        Step(
            "Add a provider", "OpenAI, Anthropic, vLLM or a compatible service.",
            reverse("admin:providers_provider_add"), real.exists(),
        ),
        Step(
            "Add its models", "Names, prices and what they can do.",
            reverse("admin:routing_model_add"), Model.objects.filter(enabled=True, provider__in=real).exists(),
        ),
        Step(
            "Make a client key", "One for each application.",
            reverse("admin:keys_clientkey_add"), ClientKey.objects.filter(enabled=True).exists(),
        ),
        Step(
            "Send a request", "It appears in the request log within a second.",
            reverse("admin:telemetry_requestlog_changelist"), RequestLog.objects.exists(),
        ),
    ]  # fmt: skip
    day = RequestLog.objects.filter(created_at__gte=timezone.now() - timedelta(days=1)).aggregate(
        requests=Count("id"),
        failed=Count("id", filter=Q(status__gte=500)),
        cost=Sum("cost_usd"),
        input_tokens=Sum("input_tokens"),
        output_tokens=Sum("output_tokens"),
    )
    context |= {"steps": steps, "all_done": all(step.done for step in steps), "day": day}
    return context
