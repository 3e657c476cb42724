"""What requests can be routed to, and the version of the configuration that workers poll."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from providers.models import Provider, validate_id


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
    abilities = models.JSONField(default=list, blank=True, help_text="Of: " + ", ".join(Ability.values))
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

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


class ConfigVersion(models.Model):
    """One row, raised in the transaction of every change that the data plane must see."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    version = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="configversion_single_row")]

    def __str__(self) -> str:
        return str(self.version)
