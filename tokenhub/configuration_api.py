"""The whole configuration, out and in, for the admin API."""

from __future__ import annotations

from collections import Counter
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keys.serializers import BudgetSerializer, KeySettingsSerializer, ProjectSerializer
from providers.serializers import ProviderSerializer
from routing.serializers import (
    AliasSerializer,
    DefaultsSerializer,
    ModelSettingsSerializer,
    PriceSettingsSerializer,
    ProfileSerializer,
)
from telemetry.serializers import WebhookSettingsSerializer
from tokenhub import configuration
from tokenhub.apikit import ApiError, View, body_of

MODELS = (
    "providers.provider", "routing.model", "routing.alias", "routing.routingprofile", "routing.routingdefaults",
    "keys.project", "keys.clientkey", "keys.budget", "telemetry.webhook",
)  # fmt: skip


def _rights(*verbs: str) -> tuple[str, ...]:
    return tuple(one.replace(".", f".{verb}_") for one in MODELS for verb in verbs)


class ConfigurationSerializer(serializers.Serializer[Any]):
    """What an export holds and an import takes: items as the endpoints of each kind take them."""

    version = serializers.ChoiceField(choices=[configuration.VERSION], default=configuration.VERSION)
    providers = ProviderSerializer(many=True, required=False)
    models = ModelSettingsSerializer(many=True, required=False)
    prices = PriceSettingsSerializer(many=True, required=False)
    aliases = AliasSerializer(many=True, required=False)
    profiles = ProfileSerializer(many=True, required=False)
    projects = ProjectSerializer(many=True, required=False)
    apikeys = KeySettingsSerializer(many=True, required=False)
    webhooks = WebhookSettingsSerializer(many=True, required=False)
    routing_config = DefaultsSerializer(required=False)
    budget = BudgetSerializer(required=False, allow_null=True)


class ExportSerializer(serializers.Serializer[Any]):
    """As an import takes it."""

    version = serializers.IntegerField()
    providers = serializers.ListField(child=serializers.DictField())
    models = serializers.ListField(child=serializers.DictField())
    prices = serializers.ListField(child=serializers.DictField())
    aliases = serializers.ListField(child=serializers.DictField())
    profiles = serializers.ListField(child=serializers.DictField())
    projects = serializers.ListField(child=serializers.DictField())
    apikeys = serializers.ListField(child=serializers.DictField())
    webhooks = serializers.ListField(child=serializers.DictField())
    routing_config = serializers.DictField()
    budget = serializers.DictField(allow_null=True)


class ItemSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    id = serializers.CharField()
    action = serializers.ChoiceField(choices=["created", "changed", "unchanged"])


class OutcomeSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    dry_run = serializers.BooleanField()
    created = serializers.IntegerField()
    changed = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    items = ItemSerializer(many=True)


class Export(View):
    rights = {"GET": _rights("view")}

    @extend_schema(operation_id="config_export", responses=ExportSerializer)
    def get(self, request: Request) -> Response:
        """Providers, models, prices, aliases, profiles, projects, keys' settings, webhooks, defaults. No secret."""
        return Response(configuration.export())


class Import(View):
    rights = {"POST": _rights("add", "change")}

    @extend_schema(
        operation_id="config_import",
        request=ConfigurationSerializer,
        parameters=[OpenApiParameter("dry_run", bool, description="Changes nothing, and says what would change.")],
        responses=OutcomeSerializer,
    )
    def post(self, request: Request) -> Response:
        """Takes all of it over, or nothing. What it does not name stays. `errors` names each item that is wrong."""
        dry_run = _flag(request, "dry_run")
        try:
            items = configuration.take(body_of(request), dry_run=dry_run)
        except configuration.Refused as refused:
            first = refused.problems[0]
            raise ApiError(
                "invalid_request",
                f"{first.path}: {first.message}" if first.path else first.message,
                param=first.path or None,
                hint=f"Nothing was changed. Problems: {len(refused.problems)}; see `errors`.",
                errors=[{"path": one.path, "message": one.message} for one in refused.problems],
            ) from None
        counted = Counter(item.action for item in items)
        shown = [{"path": item.path, "id": item.id, "action": item.action} for item in items]
        counts = {name: counted[name] for name in ("created", "changed", "unchanged")}
        return Response({"ok": True, "dry_run": dry_run, **counts, "items": shown})


def _flag(request: Request, name: str) -> bool:
    raw = request.query_params.get(name, "false")
    if raw not in {"true", "false"}:
        raise ApiError("invalid_request", f"{name}: true or false is needed.", param=name)
    return raw == "true"
