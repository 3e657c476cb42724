from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

from django.db import models, transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from keys import services
from keys.models import LIMIT_FIELDS, ClientKey, Every, Project, Scope, Subject
from tokenhub.apikit import Dollars, DurationField, Record, Strict, Words, WordsOrText

M = TypeVar("M", bound=models.Model)


class OfStanding(serializers.Field):  # type: ignore[type-arg]  # a mixin, generic for the type checker only
    """A field that shows something of how the row's budget stands."""

    def __init__(self, *, pick: Callable[[services.Standing], Any], **options: Any) -> None:
        super().__init__(**{"allow_null": True, "required": False, **options})
        self._pick = pick

    def get_attribute(self, instance: Any) -> Any:
        owner: Any = self.parent
        standing = owner.standing_of(instance)
        return None if standing is None else self._pick(standing)


class StandingDollars(OfStanding, Dollars):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_digits": 18, "min_value": Decimal(0), "max_value": Decimal(10**9), **options})


class StandingChoice(OfStanding, serializers.ChoiceField):
    pass


class StandingMoment(OfStanding, serializers.DateTimeField):
    pass


def _monthly(standing: services.Standing) -> Decimal | None:
    return standing.budget.amount_usd if standing.budget.every == Every.MONTH else None


class WithBudget(Record[M]):
    """The budget of a client key or a project, as fields of its own. A serializer names its `subject`."""

    subject: ClassVar[Subject]
    budget_fields: ClassVar = (
        "budget_usd", "budget_period", "monthly_budget_usd", "spent_usd", "overrun_usd", "budget_resets_at",
    )  # fmt: skip

    budget_usd = StandingDollars(
        pick=lambda standing: standing.budget.amount_usd, help_text="Null: no budget. 0: nothing may be spent."
    )
    budget_period = StandingChoice(
        choices=Every.choices, pick=lambda standing: standing.budget.every, help_text="Of budget_usd."
    )
    monthly_budget_usd = StandingDollars(
        pick=_monthly, help_text="The same as budget_usd with the budget_period month."
    )
    spent_usd = StandingDollars(
        read_only=True, pick=lambda standing: standing.spent_usd, help_text="In the period that is now."
    )
    overrun_usd = StandingDollars(
        read_only=True,
        pick=lambda standing: standing.overrun_usd,
        help_text="What calls cost beyond what was reserved for them, which the installation bears.",
    )
    budget_resets_at = StandingMoment(read_only=True, pick=lambda standing: standing.resets_at)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "monthly_budget_usd" in attrs:
            if "budget_usd" in attrs or "budget_period" in attrs:
                raise serializers.ValidationError({"monthly_budget_usd": "Give it or budget_usd, not both."})
            attrs["budget_usd"], attrs["budget_period"] = attrs.pop("monthly_budget_usd"), Every.MONTH
        if attrs.get("budget_period") and "budget_usd" not in attrs:
            known = self.standing_of(self.instance) if self.instance is not None else None
            if known is None:
                raise serializers.ValidationError({"budget_period": "It needs budget_usd beside it."})
            attrs["budget_usd"] = known.budget.amount_usd
        return attrs

    def save_budget(self, record: Any, attrs: dict[str, Any]) -> None:
        """`attrs`: the second part of `parted`."""
        if "budget_usd" in attrs:
            known = self.standing_of(record)
            every = attrs.get("budget_period") or (known.budget.every if known is not None else Every.MONTH)
            services.set_budget(
                subject=self.subject, subject_id=str(record.pk), amount_usd=attrs["budget_usd"], every=every
            )

    def parted(self, attrs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is the row's own, and what is its budget's."""
        budget = {name: value for name, value in attrs.items() if name in self.budget_fields}
        return {name: value for name, value in attrs.items() if name not in budget}, budget

    def standing_of(self, record: Any) -> services.Standing | None:
        """One reading for all rows of a list."""
        holder: Any = self.root
        if (known := getattr(holder, "standings", None)) is None:
            page: Any = holder.instance if isinstance(holder, serializers.ListSerializer) else [record]
            known = holder.standings = services.standings_of(self.subject, [str(one.pk) for one in page])
        found: services.Standing | None = known.get(str(record.pk))
        return found


class BudgetSerializer(Strict):
    """A standing, and what sets the budget."""

    budget_usd = Dollars(max_digits=18, min_value=Decimal(0), max_value=Decimal(10**9), source="budget.amount_usd")
    budget_period = serializers.ChoiceField(choices=Every.choices, required=False, source="budget.every")
    spent_usd = Dollars(max_digits=18, read_only=True)
    leased_usd = Dollars(max_digits=18, read_only=True)
    overrun_usd = Dollars(max_digits=18, read_only=True)
    budget_resets_at = serializers.DateTimeField(read_only=True, allow_null=True, source="resets_at")


class ProjectSerializer(WithBudget[Project]):
    subject = Subject.PROJECT

    class Meta:
        model = Project
        fields = ("name", "description", "capture", *LIMIT_FIELDS, *WithBudget.budget_fields, "created_at")
        read_only_fields = ("created_at",)

    def create(self, validated_data: Mapping[str, Any]) -> Project:
        return self.update(Project(), validated_data)

    @transaction.atomic
    def update(self, instance: Project, validated_data: Mapping[str, Any]) -> Project:
        own, budget = self.parted(validated_data)
        self.assign(instance, own)
        services.save_project(project=instance)
        self.save_budget(instance, budget)
        return instance


_SCOPE = '"(chat|plan|embeddings)"'


@extend_schema_field(
    {
        "oneOf": [
            {"type": "array", "items": {"type": "string", "enum": Scope.values}, "maxItems": 1000},
            {"type": "string", "pattern": rf"^\[({_SCOPE}(,{_SCOPE})*)?\]$"},
        ]
    }
)
class Scopes(WordsOrText):
    pass


class ClientKeySerializer(WithBudget[ClientKey]):
    subject = Subject.KEY
    scopes = Scopes(required=False, help_text="Empty: every scope. Also as the JSON text of a list.")
    allowed_models = Words(required=False, help_text="Ids and aliases. Empty: every one.")
    tags = Words(required=False)
    expires_in = DurationField(write_only=True, required=False, allow_null=True)
    rotation_due_at = serializers.DateTimeField(read_only=True, allow_null=True)

    class Meta:
        model = ClientKey
        fields = (
            "id", "name", "owner", "project", "tags", "scopes", "allowed_models", "allow_fallback",
            "allow_directives", "capture", "enabled", "expires_in", "expires_at", *LIMIT_FIELDS,
            *WithBudget.budget_fields, "rotation_days", "rotation_due_at", "key_prefix", "created_at",
            "last_used_at",
        )  # fmt: skip
        read_only_fields = ("id", "key_prefix", "created_at", "last_used_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "expires_in" in attrs:
            if "expires_at" in attrs:
                raise serializers.ValidationError({"expires_in": "Give expires_in or expires_at, not both."})
            duration = attrs.pop("expires_in")
            attrs["expires_at"] = None if duration is None else timezone.now() + duration
        return super().validate(attrs)

    @transaction.atomic
    def issue(self) -> services.IssuedKey:
        """A new key of the validated data."""
        own, budget = self.parted(self.validated_data)
        issued = services.issue(**own)
        self.save_budget(issued.record, budget)
        return issued

    @transaction.atomic
    def update(self, instance: ClientKey, validated_data: Mapping[str, Any]) -> ClientKey:
        own, budget = self.parted(validated_data)
        self.assign(instance, own)
        services.save(key=instance)
        self.save_budget(instance, budget)
        return instance


class KeySettingsSerializer(ClientKeySerializer):
    """In the exported configuration. A key that is made of it has a secret that nobody knows, until it is rotated."""

    id = serializers.UUIDField()

    class Meta(ClientKeySerializer.Meta):
        read_only_fields = ("key_prefix", "created_at", "last_used_at")  # type: ignore[assignment]

    def create(self, validated_data: Mapping[str, Any]) -> ClientKey:
        own, budget = self.parted(validated_data)
        key = services.reissue(key=ClientKey(**own)).record
        self.save_budget(key, budget)
        return key


class IssuedSerializer(Strict):
    """The only answer that holds the key."""

    ok = serializers.BooleanField()
    key = serializers.CharField()
    id = serializers.UUIDField()
    prefix = serializers.CharField()
    warning = serializers.CharField()


class RotateKeySerializer(Strict):
    grace_period = DurationField(
        required=False, allow_null=True, help_text="For so long the old secret works, too; none: it ends at once."
    )
