"""What requests can be routed to, and the version of the configuration that workers poll."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from providers.models import Provider, validate_id
from routing.words import AUTO, MODE_PREFIX


def _refuse_names_of_the_router(name: str, field: str) -> None:
    if name in AUTO or name.startswith(MODE_PREFIX):
        raise ValidationError({field: "By this name clients ask the router to choose."})


class Ability(models.TextChoices):
    TOOLS = "tools", "Tools"
    VISION = "vision", "Vision"
    DOCUMENTS = "documents", "Documents"
    STRUCTURED_OUTPUT = "structured_output", "Structured output"
    REASONING = "reasoning", "Reasoning"
    EMBEDDINGS = "embeddings", "Embeddings"


def _price(help_text: str) -> models.DecimalField[Any, Any]:
    return models.DecimalField(
        max_digits=14, decimal_places=9, null=True, blank=True, validators=[MinValueValidator(0)], help_text=help_text
    )


class PriceSource(models.TextChoices):
    OPERATOR = "operator", "Set here"
    CATALOGUE = "catalogue", "From the catalogue"


class Models(models.QuerySet["Model"]):
    def unpriced(self, now: datetime) -> Models:
        """Of which no cost can be told: neither a price of their own nor one with a date that has begun."""
        dated = Price.objects.filter(model=models.OuterRef("pk"), above_input_tokens=0, starts_at__lte=now)
        without = Q(input_per_1k=None) | Q(output_per_1k=None)
        return self.filter(without, ~models.Exists(dated))

    def ids(self, among: Collection[str]) -> set[str]:
        return set(self.filter(pk__in=among).values_list("pk", flat=True))


class Model(models.Model):
    """A model at one provider. Its id is the name that clients use; prices are dollars per 1,000 tokens."""

    id = models.CharField(primary_key=True, max_length=200, validators=[validate_id])
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="models")
    upstream_model = models.CharField(
        max_length=200, blank=True, help_text="What the provider calls it. Empty: the id."
    )
    enabled = models.BooleanField(default=True)
    weight = models.PositiveSmallIntegerField(
        default=5, validators=[MaxValueValidator(10)], help_text="Capability, from 0 to 10."
    )
    max_context_tokens = models.PositiveIntegerField(default=128_000)
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    input_per_1k = _price("Empty: no price is known. 0: free.")
    output_per_1k = _price("Empty: no price is known. 0: free.")
    cached_input_per_1k = _price("Empty: the input price.")
    cache_write_per_1k = _price("Empty: the input price.")
    reasoning_per_1k = _price("Empty: the output price.")
    price_source = models.CharField(
        max_length=20,
        choices=PriceSource.choices,
        default=PriceSource.OPERATOR,
        editable=False,
        help_text="Prices of the catalogue follow it when it is applied again; those that a person set stay.",
    )
    abilities = models.JSONField(default=list, blank=True, help_text="Of: " + ", ".join(Ability.values))
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    objects = Models.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [models.CheckConstraint(condition=Q(weight__lte=10), name="model_weight_range")]

    def __str__(self) -> str:
        return self.id

    def clean(self) -> None:
        if not isinstance(self.abilities, list) or any(one not in Ability.values for one in self.abilities):
            raise ValidationError({"abilities": f"A list of: {', '.join(Ability.values)}."})
        if self.max_context_tokens is not None and self.max_context_tokens < 1:
            raise ValidationError({"max_context_tokens": "At least 1."})
        if self._state.adding:
            if Alias.objects.filter(pk=self.pk).exists():
                raise ValidationError({"id": "An alias has this name already."})
            _refuse_names_of_the_router(self.pk, "id")


PRICE_FIELDS: Final = (
    "input_per_1k", "output_per_1k", "cached_input_per_1k", "cache_write_per_1k", "reasoning_per_1k",
)  # fmt: skip


class Price(models.Model):
    """What a model costs from a moment on, or for long inputs. The newest that has begun holds, in place of the model's
    own prices; tiers of long inputs hold beside it unless they are older."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="dated_prices")
    starts_at = models.DateTimeField("from", default=timezone.now)
    above_input_tokens = models.PositiveIntegerField(
        default=0,
        help_text="0: for every request. Else for requests with more input tokens than this: all their tokens.",
    )
    input_per_1k = _price("Of a tier, empty: the price without it. 0: free.")
    output_per_1k = _price("Of a tier, empty: the price without it. 0: free.")
    cached_input_per_1k = _price("Empty: the input price.")
    cache_write_per_1k = _price("Empty: the input price.")
    reasoning_per_1k = _price("Empty: the output price.")
    source = models.CharField(max_length=20, choices=PriceSource.choices, default=PriceSource.OPERATOR, editable=False)

    class Meta:
        ordering = ["model", "-starts_at", "above_input_tokens"]
        constraints = [
            models.UniqueConstraint(fields=["model", "starts_at", "above_input_tokens"], name="price_once"),
        ]

    def __str__(self) -> str:
        tier = f" above {self.above_input_tokens:,} tokens" if self.above_input_tokens else ""
        return f"{self.model_id} from {self.starts_at:%Y-%m-%d %H:%M}{tier}"

    def clean(self) -> None:
        if self.above_input_tokens:
            if all(getattr(self, one) is None for one in PRICE_FIELDS):
                raise ValidationError("A tier needs one price at least.")
            return
        missing = {one: "Needed: 0 is free." for one in PRICE_FIELDS[:2] if getattr(self, one) is None}
        if missing:
            raise ValidationError(missing)


class StickyBy(models.TextChoices):
    REQUEST = "request", "Each request by chance"
    API_KEY = "api_key", "Each client key always the same"
    ROUND_ROBIN = "round_robin", "In turn"


class Alias(models.Model):
    """A public name for one or several models: for an A/B test, or for one model at two providers."""

    name = models.CharField(primary_key=True, max_length=200, validators=[validate_id])
    sticky_by = models.CharField(
        "choice", max_length=20, choices=StickyBy.choices, default=StickyBy.REQUEST,
        help_text="Turns of one conversation stay where they began, in any case.",
    )  # fmt: skip
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if Model.objects.filter(pk=self.name).exists():
            raise ValidationError({"name": "A model has this name already."})
        if self._state.adding:
            _refuse_names_of_the_router(self.name, "name")


class AliasVariant(models.Model):
    alias = models.ForeignKey(Alias, on_delete=models.CASCADE, related_name="variants")
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="+")
    weight = models.PositiveSmallIntegerField(
        default=1, validators=[MaxValueValidator(1000)], help_text="Its share of the traffic, relative to the others."
    )
    is_shadow = models.BooleanField(
        "shadow",
        default=False,
        help_text="Gets a copy of so many percent of the requests; its answers are logged and never returned.",
    )

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["alias", "model"], name="aliasvariant_once")]

    def __str__(self) -> str:
        return f"{self.model_id} ({self.weight})"


def _share(help_text: str) -> models.FloatField[Any, Any]:
    return models.FloatField(validators=[MinValueValidator(0.0), MaxValueValidator(1.0)], help_text=help_text)


class RoutingProfile(models.Model):
    """How a mode weighs a target. A row by the name of a built-in mode takes its place; others are further modes."""

    name = models.CharField(primary_key=True, max_length=60, validators=[validate_id])
    cost = _share("Of the expected cost.")
    latency = _share("Of the latency.")
    failure = _share("Of the failure rate.")
    capability = _share("Of the model's weight.")
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.name in {"auto", "thompson"}:
            raise ValidationError({"name": "This name has a meaning of its own."})
        total = sum(value or 0.0 for value in (self.cost, self.latency, self.failure, self.capability))
        if not 0.999 <= total <= 1.001:
            raise ValidationError(f"The four weights must add up to 1; they add up to {total:g}.")


class RoutingDefaults(models.Model):
    """One row: what holds where neither a request nor its key says more. Empty: as the environment says."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    default_mode = models.CharField(max_length=60, blank=True)
    default_max_budget_usd = models.DecimalField(
        max_digits=14, decimal_places=9, null=True, blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
    )  # fmt: skip
    default_max_latency_ms = models.PositiveIntegerField(null=True, blank=True, validators=[MaxValueValidator(300_000)])
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        verbose_name_plural = "routing defaults"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="routingdefaults_single_row")]

    def __str__(self) -> str:
        return "routing defaults"

    @classmethod
    def current(cls) -> RoutingDefaults:
        """The row, or one that sets nothing."""
        return cls.objects.filter(pk=1).first() or cls(pk=1)

    def effective(self) -> dict[str, tuple[Any, bool]]:
        """Each with whether it is set here."""
        own = {name: getattr(self, name) for name in DEFAULT_FIELDS}
        return {
            name: (getattr(settings, f"TOKENHUB_{name.upper()}"), False) if value in (None, "") else (value, True)
            for name, value in own.items()
        }


DEFAULT_FIELDS: Final = ("default_mode", "default_max_budget_usd", "default_max_latency_ms")


class HealthRecord(models.Model):
    """What all workers together have seen of a model at its provider; with an empty model, of the provider itself.
    Names instead of foreign keys: a worker may write a row after its model was deleted."""

    provider_id = models.CharField(max_length=200)
    model_id = models.CharField(max_length=200, blank=True)
    calls = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    consecutive_errors = models.PositiveIntegerField(default=0)
    latency_ms = models.FloatField(default=0.0)
    first_chunk_ms = models.FloatField(default=0.0)
    failure = models.FloatField(default=0.0, help_text="Decayed share of failed calls.")
    tokens_per_guess = models.FloatField(default=1.0)
    last_error = models.CharField(max_length=200, blank=True)
    last_error_at = models.DateTimeField(null=True)
    last_success_at = models.DateTimeField(null=True)
    told_state = models.CharField(max_length=10, default="healthy", help_text="By the event health_change.")
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider_id", "model_id"], name="healthrecord_once")]

    def __str__(self) -> str:
        return self.model_id or self.provider_id


class HealthNotice(models.Model):
    """What one worker tells the others: the rest of a target or a provider for one reason, and the last recovery from
    it. Each worker writes its own rows only. Times are by the wall clock."""

    origin = models.CharField(max_length=32)
    provider_id = models.CharField(max_length=200)
    model_id = models.CharField(max_length=200, blank=True)
    reason = models.CharField(max_length=20)
    began_at = models.DateTimeField(null=True)
    until_at = models.DateTimeField(null=True)
    recovered_at = models.DateTimeField(null=True)
    errors_left = models.PositiveSmallIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["origin", "provider_id", "model_id", "reason"], name="healthnotice_once")
        ]

    def __str__(self) -> str:
        return f"{self.provider_id}/{self.model_id}: {self.reason}"


class Feedback(models.Model):
    """What came to be known of an answer after it was given. `score`: what its client said of it. `parts`: the reward
    that all of it led to, by what it is made of; empty where the model was not the bandit's choice."""

    request_id = models.UUIDField(editable=False)
    api_key_id = models.CharField(max_length=40, editable=False)
    model_id = models.CharField(max_length=200, editable=False)
    score = models.FloatField(null=True, validators=[MinValueValidator(0.0), MaxValueValidator(1.0)])
    comment = models.TextField(blank=True)
    reward = models.FloatField(null=True, editable=False)
    parts = models.JSONField(default=dict, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "feedback"
        constraints = [models.UniqueConstraint(fields=["request_id", "api_key_id"], name="feedback_once")]

    def __str__(self) -> str:
        return str(self.request_id)


class PolicyEvaluation(Feedback):
    """No row: the page on which other policies are evaluated."""

    class Meta:
        proxy = True
        verbose_name = "policy evaluation"


class BanditDelta(models.Model):
    """What one worker learned within a second, as `routing.learning` writes it. Ids grow; rows never change once every
    worker has read them, short of being folded into one."""

    origin = models.CharField(max_length=40, blank=True)
    payload = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return str(self.pk)


class IdempotentCall(models.Model):
    """A call with an Idempotency-Key; see `routing.idempotency_store`. Without a status it runs, and `claim` says for
    whom. `answer`: sealed."""

    id = models.CharField(max_length=64, primary_key=True)
    claim = models.CharField(max_length=32)
    request_id = models.UUIDField()
    body_digest = models.CharField(max_length=64)
    holder = models.CharField(max_length=40)
    host = models.CharField(max_length=64)
    leased_until = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    status = models.PositiveSmallIntegerField(null=True)
    answer = models.BinaryField(default=b"")

    def __str__(self) -> str:
        return str(self.request_id)


class ConfigVersion(models.Model):
    """One row, raised in the transaction of every change that the data plane must see."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    version = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="configversion_single_row")]

    def __str__(self) -> str:
        return str(self.version)
