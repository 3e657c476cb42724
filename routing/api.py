from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from time import monotonic, time
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from providers import discovery
from providers.api import Providers
from providers.discovery import Problem
from providers.models import Provider
from routing import catalogue, importing, services, simulation
from routing import runtime as plane
from routing.errors import ApiError
from routing.health import Health
from routing.health_store import Clocks, HealthStore, health_report
from routing.models import Alias, Feedback, Model, Price, RoutingDefaults, RoutingProfile
from routing.replay import replay, shown
from routing.serializers import (
    AliasSerializer,
    DefaultsSerializer,
    DiscoveredSerializer,
    DiscoverySerializer,
    EvaluationSerializer,
    HealthSerializer,
    ImportedSerializer,
    ImportSerializer,
    ModelSerializer,
    OfferSerializer,
    PeriodSerializer,
    PriceSerializer,
    ProfileSerializer,
    QuestionSerializer,
    RewardPageSerializer,
    RewardSerializer,
    SimulationSerializer,
    TakenSerializer,
    TakeSerializer,
    TargetSerializer,
)
from routing.snapshot import Snapshot, Target
from routing.snapshot_build import build_snapshot, config_version
from tokenhub import apikit as kit
from tokenhub import turn
from tokenhub.apikit import Paging, Records, View, body_of, expect, invalid, page_of, paged, rights, tagged
from vault.keyring import KEYRING


class Models(Records[Model]):
    """Models, each at one provider. Its id is the name that clients use."""

    rights = rights(Model)
    serializer_class = ModelSerializer
    queryset = Model.objects.all()

    def remove(self, record: Model) -> None:
        services.delete(model=record)


class Prices(Records[Price]):
    """Prices with a date, and of long inputs. They go before the model's own."""

    rights = rights(Model)
    serializer_class = PriceSerializer
    queryset = Price.objects.all()

    def remove(self, record: Price) -> None:
        services.delete_price(price=record)

    def _row(self, rows: Any, key: str) -> Price | None:
        return super()._row(rows, key) if key.isascii() and key.isdigit() and len(key) < 18 else None


class Catalogue(View):
    rights = rights(Model)

    @extend_schema(operation_id="prices_catalogue", responses=OfferSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What the price catalogue would change."""
        return Response(OfferSerializer(_from_catalogue(catalogue.offers), many=True).data)

    @extend_schema(operation_id="prices_catalogue_apply", request=TakeSerializer, responses=OfferSerializer(many=True))
    def post(self, request: Request) -> Response:
        """Takes new and changed prices over; those that a person set stay. Answers what was taken."""
        serializer = TakeSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        only = serializer.validated_data.get("models")
        return Response(OfferSerializer(_from_catalogue(partial(catalogue.apply, only=only)), many=True).data)


def _from_catalogue(ask: Callable[[], list[catalogue.Offer]]) -> list[catalogue.Offer]:
    try:
        return ask()
    except catalogue.CatalogueUnusable as problem:
        raise kit.ApiError("overloaded", problem.message) from None


class Discover(Providers):
    """Which models a provider has."""

    rights = {
        "GET": ("providers.view_provider", "routing.view_model"),
        "POST": ("providers.view_provider", "routing.add_model"),
    }

    @extend_schema(operation_id="providers_discover", responses=DiscoverySerializer)
    def discover(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """The provider's own list, with prices of the catalogue, and which of them are models here."""
        provider = self.find(id)
        shown = DiscoveredSerializer(offers_of(provider), many=True).data
        return Response({"provider_id": provider.pk, "models": shown})

    @extend_schema(operation_id="providers_import_models", request=ImportSerializer, responses=ImportedSerializer)
    def take(self, request: Request, id: str) -> Response:  # noqa: A002
        """Makes models of the list's: those that are named, or all. What is here already stays as it is."""
        provider = self.find(id)
        serializer = ImportSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        offers = offers_of(provider)
        if strange := importing.unknown(offers, asked.get("models", ())):
            raise invalid("models", f"{strange!r} is not in the provider's list.")
        taken = importing.take(provider=provider, offers=offers, only=asked.get("models"), enabled=asked["enabled"])
        created = sum(one.state == "created" for one in taken)
        return Response({"ok": True, "created": created, "models": TakenSerializer(taken, many=True).data})


def offers_of(provider: Provider) -> list[importing.Offered]:
    """Raises ApiError when it gives no list."""
    look = discovery.best(discovery.look(provider))
    match look.problem:
        case None:
            return importing.offered(provider, look.models)
        case Problem.VAULT_LOCKED:
            code = "vault_locked"
        case Problem.NO_CREDENTIAL | Problem.DAMAGED:
            code = "conflict"
        case _:
            code = "upstream_error"
    raise kit.ApiError(code, look.message, hint=look.hint)


class Aliases(Records[Alias]):
    """Names for one or several models."""

    rights = rights(Alias)
    serializer_class = AliasSerializer
    key_field = "name"

    def get_queryset(self) -> QuerySet[Alias]:
        return Alias.objects.prefetch_related("variants")

    @transaction.atomic
    def replace(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """Creates or replaces it as a whole."""
        body = body_of(request)
        if body.get("name", id) != id:
            raise invalid("name", "it differs from the one in the path.")
        found = self._locked(id)
        self.expect(request, found)
        serializer = self.get_serializer(found, data={"enabled": True, "sticky_by": "request", **body, "name": id})
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.retrieve(request, id)

    def remove(self, record: Alias) -> None:
        services.delete_alias(alias=record)


class RoutingConfig(View):
    rights = {"GET": ("routing.view_routingdefaults",), "PUT": ("routing.change_routingdefaults",)}

    @extend_schema(responses=DefaultsSerializer)
    def get(self, request: Request) -> Response:
        """What holds where neither a request nor its key says more."""
        return tagged(DefaultsSerializer(RoutingDefaults.current()).data)

    @extend_schema(request=DefaultsSerializer, responses=DefaultsSerializer)
    @transaction.atomic
    def put(self, request: Request) -> Response:
        """Sets the fields that are given; null goes back to the environment's."""
        turn.take()
        RoutingDefaults.objects.get_or_create(pk=1)
        found = RoutingDefaults.objects.select_for_update(no_key=True).get(pk=1)
        expect(request, DefaultsSerializer(found).data)
        serializer = DefaultsSerializer(found, data=body_of(request))
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.get(request)


class Profiles(Records[RoutingProfile]):
    """How modes weigh a target. One by the name of a built-in mode takes its place."""

    rights = rights(RoutingProfile)
    serializer_class = ProfileSerializer
    queryset = RoutingProfile.objects.all()
    key_field = "name"

    def remove(self, record: RoutingProfile) -> None:
        try:
            services.delete_profile(profile=record)
        except ValidationError as problem:
            raise kit.ApiError("conflict", problem.messages[0]) from None


# -- what the router knows and would do ----------------------------------------------------------------------------
def own_store() -> HealthStore | None:
    """Of this process, if it is a worker. A look: `runtime()` would make what it does not find."""
    held = plane._RUNTIME  # noqa: SLF001
    return held.shared_health if held is not None and held.ready else None


def live_health() -> Health:
    """A copy of what all workers know: the data plane's own belongs to its event loop. Raises DatabaseError."""
    if (store := own_store()) is not None:
        store.save()
    health = Health()
    HealthStore(health).load()
    return health


def live_snapshot() -> Snapshot:
    """The one that this process routes by, where it is a worker and up to date; else one is built, by a dozen queries.
    Raises DatabaseError."""
    held = plane.serving()
    if held is not None and time() < held.snapshot.stale_at and held.snapshot.version == config_version():
        return held.snapshot
    return build_snapshot()


class Simulate(View):
    rights = {"POST": ("routing.view_model",)}

    @extend_schema(request=QuestionSerializer, responses=SimulationSerializer)
    def post(self, request: Request) -> Response:
        """What the router would do with a request of that kind. Nobody is called."""
        serializer = QuestionSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        try:
            result = simulation.simulate(
                simulation.Question(**serializer.validated_data),
                live_snapshot(),
                live_health(),
                vault_open=KEYRING.is_open,
                now=monotonic(),
            )
        except ApiError as problem:
            problem.param = "model_hint" if problem.param == "model" else problem.param  # as it is called here
            raise
        return Response(result)


class Evaluate(View):
    rights = {"POST": ("routing.view_policyevaluation",)}

    @extend_schema(request=PeriodSerializer, responses=EvaluationSerializer)
    def post(self, request: Request) -> Response:
        """What another policy would have cost and scored on the logged requests of a period."""
        serializer = PeriodSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        until = asked.get("until") or timezone.now()
        since = until - timedelta(days=asked["days"])
        profiles = build_snapshot().profiles
        return Response(shown(replay(asked["policy"], profiles, since=since, until=until, max_rows=asked["max_rows"])))


class Rewards(View):
    rights = rights(Feedback)

    @extend_schema(
        operation_id="rewards_list",
        parameters=paged(OpenApiParameter("model_id", str)),
        responses=RewardPageSerializer,
    )
    def get(self, request: Request) -> Response:
        """What clients said of answers, and the rewards that came of it, newest first."""
        found = Feedback.objects.order_by("-pk")
        if model_id := request.query_params.get("model_id"):
            found = found.filter(model_id=model_id)
        return Response(page_of(request, found, RewardSerializer))


class Targets(View):
    """Every model that a request may go to."""

    rights = rights(Model)
    pagination_class = Paging

    @extend_schema(responses=TargetSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Every model that a request may go to, with its state and figures."""
        snapshot, health, clocks = build_snapshot(), live_health(), Clocks.now()
        routable = {target.model_id for target in snapshot.routable}
        paging = Paging()
        page = paging.paginate_queryset(list(snapshot.targets.values()), request)
        return paging.get_paginated_response(
            [_shown(one, health, clocks) | {"routable": one.model_id in routable} for one in page]
        )


def _shown(target: Target, health: Health, clocks: Clocks) -> dict[str, Any]:
    provider, now = target.provider, clocks.steady
    resting = health.resting(provider.id, target.model_id, now)
    stats = health.stats(provider.id, target.model_id)
    seconds = health.rest_seconds(provider.id, target.model_id, now)
    credential = "missing" if provider.credential is None else "stored"
    return {
        "model_id": target.model_id,
        "provider_id": provider.id,
        "upstream_model": target.upstream_model,
        "weight": target.weight,
        "max_context_tokens": target.max_context_tokens,
        "max_output_tokens": target.max_output_tokens,
        "abilities": sorted(target.abilities),
        "dialects": list(provider.dialects),
        "credential": credential if provider.needs_credential else "none",
        "state": min(stats.state(now), stats.provider.state(now)).name.lower(),
        "resting": resting or None,
        "cooldown_until": clocks.to_wall(now + seconds) if seconds else None,
        "total_requests": stats.calls,
        "total_errors": stats.errors,
        "consec_errors": stats.consecutive_errors,
        "failure_rate": round(stats.failure, 6),
        "avg_latency_ms": round(stats.measured_ms, 1) if stats.calls > stats.errors else None,
        "avg_first_chunk_ms": round(stats.first_chunk_ms, 1) or None,
        "last_error": stats.last_error or None,
        "last_success_at": clocks.to_wall(stats.last_success_at),
    }


class HealthReport(View):
    rights = {"GET": (f"providers.view_{Provider._meta.model_name}",)}  # noqa: SLF001

    @extend_schema(responses=HealthSerializer)
    def get(self, request: Request) -> Response:
        """Health of the enabled providers and their models, as all workers know it."""
        return Response(health_report(store=own_store()))
