from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Final

from django.db import transaction
from rest_framework import serializers

from providers.model_list import Kind
from providers.models import Provider
from routing import services
from routing.breaker import State
from routing.importing import Offered
from routing.models import (
    DEFAULT_FIELDS,
    PRICE_FIELDS,
    Ability,
    Alias,
    AliasVariant,
    Feedback,
    Model,
    Price,
    PriceSource,
    RoutingDefaults,
    RoutingProfile,
)
from telemetry.serializers import CandidateSerializer
from tokenhub.apikit import Dollars, NameField, Record, Strict, Words, dollars

MAX_TOKENS: Final = 2_147_483_647
STATES = [state.name.lower() for state in State]


class ModelSerializer(Record[Model]):
    """Prices are dollars per 1,000 tokens; null: no price is known, 0: free."""

    id = NameField()
    max_context_tokens = serializers.IntegerField(required=False, min_value=1, max_value=MAX_TOKENS)
    max_output_tokens = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=MAX_TOKENS)
    provider_id = serializers.PrimaryKeyRelatedField(source="provider", queryset=Provider.objects.all())
    abilities = Words(required=False, child=serializers.ChoiceField(choices=Ability.values))
    input_per_1k = Dollars(required=False, allow_null=True)
    output_per_1k = Dollars(required=False, allow_null=True)
    cached_input_per_1k = Dollars(required=False, allow_null=True)
    cache_write_per_1k = Dollars(required=False, allow_null=True)
    reasoning_per_1k = Dollars(required=False, allow_null=True)

    class Meta:
        model = Model
        fields = (
            "id", "provider_id", "upstream_model", "enabled", "weight", "max_context_tokens", "max_output_tokens",
            "abilities", *PRICE_FIELDS, "price_source", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = ("price_source",)

    def create(self, validated_data: dict[str, Any]) -> Model:
        return self.update(Model(), validated_data)

    def update(self, instance: Model, validated_data: Mapping[str, Any]) -> Model:
        self.assign(instance, validated_data)
        services.save(model=instance)
        return instance


class ModelSettingsSerializer(ModelSerializer):
    """In the exported configuration."""

    class Meta(ModelSerializer.Meta):
        read_only_fields = ()  # type: ignore[assignment]

    def update(self, instance: Model, validated_data: Mapping[str, Any]) -> Model:
        self.assign(instance, validated_data)
        services.save(model=instance, price_source=validated_data.get("price_source"))
        return instance


class PriceSerializer(Record[Price]):
    """What a model costs from `starts_at` on, or for requests with more than `above_input_tokens`."""

    id = serializers.IntegerField(read_only=True)
    model_id = serializers.PrimaryKeyRelatedField(source="model", queryset=Model.objects.all())
    input_per_1k = Dollars(required=False, allow_null=True)
    output_per_1k = Dollars(required=False, allow_null=True)
    cached_input_per_1k = Dollars(required=False, allow_null=True)
    cache_write_per_1k = Dollars(required=False, allow_null=True)
    reasoning_per_1k = Dollars(required=False, allow_null=True)

    class Meta:
        model = Price
        fields = ("id", "model_id", "starts_at", "above_input_tokens", *PRICE_FIELDS, "source")
        read_only_fields = ("source",)
        validators: ClassVar[list[Any]] = []  # the service's are enough

    def create(self, validated_data: dict[str, Any]) -> Price:
        return self.update(Price(), validated_data)

    def update(self, instance: Price, validated_data: Mapping[str, Any]) -> Price:
        self.assign(instance, validated_data)
        services.save_price(price=instance)
        return instance


class PriceSettingsSerializer(PriceSerializer):
    """In the exported configuration, where it is known by model, moment and tier."""

    class Meta(PriceSerializer.Meta):
        fields = tuple(one for one in PriceSerializer.Meta.fields if one != "id")  # type: ignore[assignment]
        read_only_fields = ()  # type: ignore[assignment]

    id = None  # type: ignore[assignment]  # DRF's way to leave a field out

    def update(self, instance: Price, validated_data: Mapping[str, Any]) -> Price:
        self.assign(instance, validated_data)
        services.save_price(price=instance, source=validated_data.get("source", PriceSource.OPERATOR))
        return instance


class OfferSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField(source="model.pk")
    state = serializers.CharField(help_text="new, changed, kept, same or unknown.")
    catalogue_id = serializers.CharField()
    changes = serializers.DictField(help_text="Field to [now, catalogue], in dollars per 1,000 tokens.")
    other = serializers.ListField(child=serializers.CharField(), help_text="Prices of what is not counted.")


class TakeSerializer(Strict):
    models = Words(required=False, help_text="Ids; left out: every model whose prices are new or changed.")


class DiscoveredSerializer(serializers.Serializer[Any]):
    """A model in a provider's list. Null: not known."""

    id = serializers.CharField(help_text="Its name here, or the one that it would get.")
    upstream_model = serializers.CharField(help_text="What the provider calls it.")
    kind = serializers.ChoiceField(choices=[one.value for one in Kind], help_text="other: speech, images and the like.")
    imported = serializers.BooleanField(help_text="Whether it is a model here already.")
    max_context_tokens = serializers.IntegerField(allow_null=True)
    max_output_tokens = serializers.IntegerField(allow_null=True)
    abilities = serializers.ListField(child=serializers.CharField())
    input_per_1k = serializers.FloatField(allow_null=True)
    output_per_1k = serializers.FloatField(allow_null=True)
    cached_input_per_1k = serializers.FloatField(allow_null=True)
    cache_write_per_1k = serializers.FloatField(allow_null=True)
    reasoning_per_1k = serializers.FloatField(allow_null=True)

    def to_representation(self, offer: Offered) -> dict[str, Any]:
        prices = {name: None if name not in offer.prices else dollars(offer.prices[name]) for name in PRICE_FIELDS}
        return {
            "id": offer.id,
            "upstream_model": offer.listed.id,
            "kind": offer.listed.kind,
            "imported": offer.imported,
            "max_context_tokens": offer.max_context_tokens,
            "max_output_tokens": offer.listed.max_output_tokens,
            "abilities": list(offer.abilities),
            **prices,
        }


class DiscoverySerializer(serializers.Serializer[Any]):
    provider_id = serializers.CharField()
    models = DiscoveredSerializer(many=True)


class ImportSerializer(Strict):
    models = Words(
        required=False, help_text="Names in the provider's list; left out: all that can be routed, no speech or images."
    )
    enabled = serializers.BooleanField(default=True, help_text="Of the models that are made.")


class TakenSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    upstream_model = serializers.CharField()
    state = serializers.ChoiceField(choices=["created", "exists", "skipped"])
    reason = serializers.CharField(help_text="Why it was skipped.")


class ImportedSerializer(serializers.Serializer[Any]):
    ok = serializers.BooleanField()
    created = serializers.IntegerField()
    models = TakenSerializer(many=True)


class VariantSerializer(Record[AliasVariant]):
    model_id = serializers.PrimaryKeyRelatedField(source="model", queryset=Model.objects.all())

    class Meta:
        model = AliasVariant
        fields = ("model_id", "weight", "is_shadow")


class AliasSerializer(Record[Alias]):
    """As a whole: what is left out has its default."""

    name = NameField(required=False)
    variants = VariantSerializer(many=True)

    class Meta:
        model = Alias
        fields = ("name", "enabled", "sticky_by", "variants", "created_at", "updated_at")

    def validate_variants(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        models = [row["model"].pk for row in rows]
        if twice := next((one for one in models if models.count(one) > 1), None):
            raise serializers.ValidationError(f"The model {twice!r} is in it twice.")
        services.check_variants([(row["model"].pk, row.get("weight", 1), row.get("is_shadow", False)) for row in rows])
        return rows

    def create(self, validated_data: dict[str, Any]) -> Alias:
        return self.update(Alias(), validated_data)

    @transaction.atomic
    def update(self, instance: Alias, validated_data: Mapping[str, Any]) -> Alias:
        values = dict(validated_data)
        variants = values.pop("variants")
        self.assign(instance, values)
        services.save_alias(alias=instance)
        instance.variants.all().delete()
        for values in variants:
            AliasVariant.objects.create(alias=instance, **values)
        return instance


class ProfileSerializer(Record[RoutingProfile]):
    """The four add up to 1."""

    name = NameField(max_length=60)

    class Meta:
        model = RoutingProfile
        fields = ("name", "cost", "latency", "failure", "capability", "created_at", "updated_at")

    def create(self, validated_data: dict[str, Any]) -> RoutingProfile:
        return self.update(RoutingProfile(), validated_data)

    def update(self, instance: RoutingProfile, validated_data: Mapping[str, Any]) -> RoutingProfile:
        self.assign(instance, validated_data)
        services.save_profile(profile=instance)
        return instance


class DefaultsSerializer(Record[RoutingDefaults]):
    """What holds now; null sets a field back to the environment's."""

    default_mode = serializers.CharField(max_length=60, required=False, allow_null=True)
    default_max_budget_usd = Dollars(
        required=False, allow_null=True, min_value=0, max_value=100, help_text="Of one routed request. 0: none."
    )
    default_max_latency_ms = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=300_000, help_text="Predicted. 0: none."
    )
    overridden = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="The fields that are set here, not by the environment."
    )

    class Meta:
        model = RoutingDefaults
        fields = (*DEFAULT_FIELDS, "overridden")

    def to_representation(self, instance: RoutingDefaults) -> dict[str, Any]:
        found = instance.effective()
        shown = {name: dollars(value) if isinstance(value, Decimal) else value for name, (value, _) in found.items()}
        return {**shown, "overridden": [name for name, (_, is_own) in found.items() if is_own]}

    def update(self, instance: RoutingDefaults, validated_data: Mapping[str, Any]) -> RoutingDefaults:
        values = dict(validated_data)
        if "default_mode" in values:
            values["default_mode"] = values["default_mode"] or ""
        self.assign(instance, values)
        services.save_defaults(defaults=instance)
        return instance


# -- what-if -------------------------------------------------------------------------------------------------------
class QuestionSerializer(Strict):
    mode = serializers.CharField(required=False, allow_null=True, max_length=60)
    token_count = serializers.IntegerField(required=False, min_value=0, max_value=MAX_TOKENS)
    output_tokens = serializers.IntegerField(required=False, min_value=0, max_value=MAX_TOKENS)
    max_budget_usd = serializers.FloatField(required=False, allow_null=True, min_value=0, max_value=100)
    max_latency_ms = serializers.FloatField(required=False, allow_null=True, min_value=0, max_value=300_000)
    min_weight = serializers.FloatField(required=False, allow_null=True, min_value=0, max_value=10)
    model_hint = serializers.CharField(required=False, allow_blank=True, max_length=200)
    abilities = Words(required=False, child=serializers.ChoiceField(choices=Ability.values))
    api_key_id = serializers.CharField(required=False, allow_null=True, max_length=60)


class DecisionSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    provider_id = serializers.CharField()
    reason = serializers.CharField()
    estimated_cost_usd = serializers.FloatField(allow_null=True)


class SimulationSerializer(serializers.Serializer[Any]):
    decision = DecisionSerializer(allow_null=True)
    eligible = CandidateSerializer(many=True)
    excluded = CandidateSerializer(many=True)


# -- what was learned from ---------------------------------------------------------------------------------------
class RewardSerializer(serializers.ModelSerializer[Feedback]):
    class Meta:
        model = Feedback
        fields = (
            "request_id", "api_key_id", "model_id", "score", "comment", "reward", "parts", "created_at", "updated_at",
        )  # fmt: skip


class RewardPageSerializer(serializers.Serializer[Any]):
    items = RewardSerializer(many=True)
    total = serializers.IntegerField(help_text="Exact up to 10000.")
    total_capped = serializers.BooleanField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()
    next_cursor = serializers.CharField(allow_null=True, help_text="Of the next page, as `cursor`.")


# -- other policies on logged traffic ----------------------------------------------------------------------------
class PeriodSerializer(Strict):
    policy = serializers.CharField(max_length=210, help_text="A mode, model:ID, random, or logged.")
    until = serializers.DateTimeField(required=False, help_text="Now, if not given.")
    days = serializers.FloatField(required=False, default=30.0, min_value=0.01, max_value=3660)
    max_rows = serializers.IntegerField(required=False, default=10_000, min_value=1, max_value=50_000)


class EstimateSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField()
    low = serializers.FloatField(help_text="Of the 95 % interval.")
    high = serializers.FloatField()


class EstimatesSerializer(serializers.Serializer[Any]):
    ips = EstimateSerializer(help_text="Inverse propensity.")
    snips = EstimateSerializer(help_text="Self-normalised.")
    dr = EstimateSerializer(help_text="Doubly robust.")


class EvaluationSerializer(serializers.Serializer[Any]):
    policy = serializers.CharField()
    rows = serializers.IntegerField(help_text="Requests that could tell.")
    effective_rows = serializers.FloatField(help_text="As many requests under the policy itself would tell as much.")
    unsupported = serializers.FloatField(allow_null=True, help_text="Share of choices of which the log says nothing.")
    clipped = serializers.IntegerField()
    reward = EstimatesSerializer(allow_null=True, help_text="Mean per request, 0 to 1.")
    cost_usd = EstimatesSerializer(allow_null=True, help_text="Mean per request.")
    left_out = serializers.DictField(child=serializers.IntegerField())
    warnings = serializers.ListField(child=serializers.CharField())


# -- targets and their health --------------------------------------------------------------------------------------
class TargetSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    provider_id = serializers.CharField()
    upstream_model = serializers.CharField()
    routable = serializers.BooleanField(help_text="Whether the router may pick it by itself.")
    weight = serializers.IntegerField()
    max_context_tokens = serializers.IntegerField()
    max_output_tokens = serializers.IntegerField(allow_null=True)
    abilities = serializers.ListField(child=serializers.CharField())
    dialects = serializers.ListField(child=serializers.CharField())
    credential = serializers.CharField(help_text="stored, missing, or none where none is needed")
    state = serializers.ChoiceField(choices=STATES)
    resting = serializers.CharField(allow_null=True, help_text="Why it is left alone at the moment.")
    cooldown_until = serializers.DateTimeField(allow_null=True)
    total_requests = serializers.IntegerField()
    total_errors = serializers.IntegerField()
    consec_errors = serializers.IntegerField()
    failure_rate = serializers.FloatField(help_text="Decayed.")
    avg_latency_ms = serializers.FloatField(allow_null=True)
    avg_first_chunk_ms = serializers.FloatField(allow_null=True)
    last_error = serializers.CharField(allow_null=True)
    last_success_at = serializers.DateTimeField(allow_null=True)


class ModelHealthSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    state = serializers.ChoiceField(choices=STATES)
    total_requests = serializers.IntegerField()
    total_errors = serializers.IntegerField()
    consec_errors = serializers.IntegerField()
    avg_latency_ms = serializers.FloatField(allow_null=True)
    last_error = serializers.CharField(allow_null=True)
    last_success_at = serializers.DateTimeField(allow_null=True)
    cooldown_until = serializers.DateTimeField(allow_null=True)


class ProviderHealthSerializer(ModelHealthSerializer):
    model_id = None  # type: ignore[assignment]  # DRF's way to leave a field out
    provider_id = serializers.CharField()
    models = ModelHealthSerializer(many=True)


class HealthSerializer(serializers.Serializer[Any]):
    providers = ProviderHealthSerializer(many=True)
