"""The admin API, `/admin/v1`: every route, and the views that belong to no app."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.http import Http404, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import URLPattern, path, re_path
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from keys.api import ClientKeys, InstallationBudget, Projects, RotateClientKey
from keys.models import ClientKey
from orchestration.api import Workflows
from providers.api import Providers, TestProvider
from providers.models import Provider, ProviderType
from routing.api import (
    Aliases,
    Catalogue,
    Discover,
    Evaluate,
    HealthReport,
    Models,
    Prices,
    Profiles,
    Rewards,
    RoutingConfig,
    Simulate,
    Targets,
)
from routing.models import Model
from routing.simulation import shown
from telemetry.api import Audit, AuditExport, Events, Log, LogCapture, Logs, Stats, Webhooks
from telemetry.models import RequestLog
from telemetry.tsdb.api import MetricNames, Prune, Query, Retention
from tokenhub import admin_token
from tokenhub.apiauth import check
from tokenhub.apikit import ADMINS_ALONE, Allowed, ApiError, OnlyJSON, Strict, View
from tokenhub.configuration_api import Export, Import
from tokenhub.job_api import Jobs
from vault import services as vault
from vault.api import Lock, Rotate, Secrets, Unlock

SESSION_SECONDS = 12 * 3600


# -- info ----------------------------------------------------------------------------------------------------------
class StepSerializer(serializers.Serializer[Any]):
    step = serializers.ChoiceField(choices=["vault", "provider", "model", "key", "request"])
    done = serializers.BooleanField()


class InfoSerializer(serializers.Serializer[Any]):
    tokenhub = serializers.CharField()
    version = serializers.CharField()
    vault_initialized = serializers.BooleanField()
    vault_locked = serializers.BooleanField()
    setup = StepSerializer(many=True)


class Info(View):
    @extend_schema(responses=InfoSerializer)
    def get(self, request: Request) -> Response:
        """Version, the vault's state, and what is left to set up."""
        state = vault.status()
        real = Provider.objects.filter(enabled=True).exclude(type=ProviderType.SANDBOX)
        steps = {
            "vault": state.initialized and not state.locked,
            "provider": real.exists(),
            "model": Model.objects.filter(enabled=True, provider__in=real).exists(),
            "key": ClientKey.objects.lasting().filter(enabled=True).exists(),
            "request": RequestLog.objects.exists(),
        }
        return Response(
            {
                "tokenhub": "admin",
                "version": settings.VERSION,
                "vault_initialized": state.initialized,
                "vault_locked": state.locked,
                "setup": [{"step": name, "done": is_done} for name, is_done in steps.items()],
            }
        )


# -- the token -----------------------------------------------------------------------------------------------------
class TokenSerializer(Strict):
    token = serializers.CharField(write_only=True, max_length=1000, trim_whitespace=False)


class SessionSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    user = serializers.CharField()
    expires_at = serializers.DateTimeField()
    csrf_token = serializers.CharField(help_text="To be sent as X-CSRFToken with every change.")


class Session(View):
    authentication_classes = ()  # the token is in the body
    permission_classes = ()  # type: ignore[assignment]

    @extend_schema(request=TokenSerializer, responses=SessionSerializer)
    def post(self, request: Request) -> Response:
        """Opens a staff session for the holder of the admin token; it works on the admin pages, too."""
        serializer = TokenSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        plain = request._request  # noqa: SLF001  DRF's interface
        check(serializer.validated_data["token"].encode(), address=admin_token.address_of(plain))
        try:
            user = admin_token.session_user()
        except admin_token.NameTaken:
            hint = "Rename that user on the page of users."
            raise ApiError("conflict", f"Single sign-on has a user `{admin_token.USER_NAME}`.", hint=hint) from None
        login(plain, user, backend="django.contrib.auth.backends.ModelBackend")
        plain.session.set_expiry(SESSION_SECONDS)
        expires_at = timezone.now() + timedelta(seconds=SESSION_SECONDS)
        return Response({"ok": True, "user": user.username, "expires_at": expires_at, "csrf_token": get_token(plain)})


class NewTokenSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    token = serializers.CharField()
    warning = serializers.CharField()


class RotateToken(View):
    rights = ADMINS_ALONE

    @extend_schema(request=None, responses=NewTokenSerializer)
    def post(self, request: Request) -> Response:
        """A new admin token. The old one is refused from now on, and sessions that it opened are over."""
        if admin_token.is_from_environment():
            raise ApiError(
                "conflict",
                "The admin token comes from the environment.",
                hint="Change TOKENHUB_ADMIN_TOKEN, or its file, and restart.",
            )
        token = admin_token.rotate()
        return Response({"ok": True, "token": token, "warning": "Keep it now: no answer shows it again."})


# -- documentation -------------------------------------------------------------------------------------------------
class AdminTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its metaclass has no types
    target_class = "tokenhub.apiauth.AdminToken"
    name = "adminToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class DollarsShape(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = "tokenhub.apikit.Dollars"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        field: Any = self.target
        if direction == "response":
            return {"type": "number", "minimum": 0}
        most = float(field.most)
        number = {"type": "number", "anyOf": [{"const": 0}, {"minimum": 1e-9, "maximum": most}]}
        if getattr(field.parent, "of_query", False):
            return {"type": "number", "minimum": 0, "maximum": most}
        return {"oneOf": [number, {"type": "string", "pattern": f"^{field.pattern}$"}]}


class StaffSessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "tokenhub.apiauth.StaffSession"
    name = "staffSession"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class Schema(SpectacularAPIView):
    permission_classes = (Allowed,)
    renderer_classes = [OpenApiJsonRenderer]
    content_negotiation_class = OnlyJSON


class Docs(SpectacularSwaggerSplitView):
    permission_classes = (Allowed,)
    content_negotiation_class = OnlyJSON

    def handle_exception(self, exc: Exception) -> Any:
        """A person who opens the page in a browser logs in first."""
        if isinstance(exc, NotAuthenticated):
            return HttpResponseRedirect(f"/admin/login/?next={self.request.path}")
        return super().handle_exception(exc)


class Nowhere(View):
    """The rest of /admin/v1: whoever may ask is told that there is nothing."""

    @extend_schema(exclude=True)
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404


_Actions = dict[str, Any]
_LIST: _Actions = {"get": "list", "post": "upsert"}
_ONE: _Actions = {"get": "retrieve", "patch": "partial_update", "delete": "destroy"}

urlpatterns: list[URLPattern] = [
    path("info", Info.as_view()),
    path("session", Session.as_view()),
    path("admin-token/rotate", RotateToken.as_view()),
    path("vault/unlock", Unlock.as_view()),
    path("vault/lock", Lock.as_view()),
    path("vault/rotate", Rotate.as_view()),
    path("vault/secrets", Secrets.as_view({"get": "list"})),
    path("vault/secrets/<path:id>", Secrets.as_view({"put": "replace", "delete": "destroy"})),
    path("providers", Providers.as_view(_LIST)),
    path("providers/<path:id>/discover", Discover.as_view({"get": "discover"})),
    path("providers/<path:id>/test", TestProvider.as_view({"post": "test"})),
    path("providers/<path:id>/import-models", Discover.as_view({"post": "take"})),
    path("providers/<path:id>", Providers.as_view(_ONE)),
    path("models", Models.as_view(_LIST)),
    path("models/<path:id>", Models.as_view(_ONE)),
    path("prices", Prices.as_view(_LIST)),
    path("prices/catalogue", Catalogue.as_view()),
    path("prices/<str:id>", Prices.as_view(_ONE)),
    path("aliases", Aliases.as_view({"get": "list"})),
    path("aliases/<path:id>", Aliases.as_view({"get": "retrieve", "put": "replace", "delete": "destroy"})),
    path("profiles", Profiles.as_view(_LIST)),
    path("profiles/<path:id>", Profiles.as_view(_ONE)),
    path("apikeys", ClientKeys.as_view({"get": "list", "post": "create"})),
    path("apikeys/<str:id>", ClientKeys.as_view(_ONE)),
    path("apikeys/<str:id>/rotate", RotateClientKey.as_view({"post": "rotate"})),
    path("projects", Projects.as_view(_LIST)),
    path("projects/<path:id>", Projects.as_view(_ONE)),
    path("events", Events.as_view()),
    path("webhooks", Webhooks.as_view({"get": "list", "post": "create"})),
    path("webhooks/<str:id>", Webhooks.as_view(_ONE)),
    path("webhooks/<str:id>/rotate", Webhooks.as_view({"post": "rotate"})),
    path("webhooks/<str:id>/test", Webhooks.as_view({"post": "test"})),
    path("webhooks/<str:id>/deliveries", Webhooks.as_view({"get": "deliveries"})),
    path("budget", InstallationBudget.as_view()),
    path("routing-config", RoutingConfig.as_view()),
    path("workflows", Workflows.as_view({"get": "list"})),
    path("workflows/<str:id>", Workflows.as_view({"get": "retrieve"})),
    path("workflows/<str:id>/history", Workflows.as_view({"get": "history"})),
    path("workflows/<str:id>/cancel", Workflows.as_view({"post": "cancel"})),
    path("routing/simulate", Simulate.as_view()),
    path("routing/evaluate", Evaluate.as_view()),
    path("rewards", Rewards.as_view()),
    path("engine/models", Targets.as_view()),
    path("health", HealthReport.as_view()),
    path("stats", Stats.as_view()),
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
    path("logs", Logs.as_view()),
    path("logs/<path:id>/capture", LogCapture.as_view()),
    path("logs/<path:id>", Log.as_view(shown=shown)),
    path("tsdb/query", Query.as_view()),
    path("tsdb/metrics", MetricNames.as_view()),
    path("tsdb/prune", Prune.as_view()),
    path("tsdb/retention", Retention.as_view()),
    path("config/export", Export.as_view()),
    path("config/import", Import.as_view()),
    path("jobs", Jobs.as_view({"get": "list"})),
    path("jobs/<str:id>/run", Jobs.as_view({"post": "run"})),
    path("schema", Schema.as_view(), name="admin-api-schema"),
    path("docs", Docs.as_view(url_name="admin-api-schema")),
    re_path("", Nowhere.as_view()),
]
