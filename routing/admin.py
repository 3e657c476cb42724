from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
)

from routing import catalogue, services
from routing.breaker import State
from routing.errors import ApiError
from routing.health_store import health_states
from routing.models import (
    PRICE_FIELDS,
    Ability,
    Alias,
    AliasVariant,
    Feedback,
    Model,
    PolicyEvaluation,
    Price,
    RoutingProfile,
)
from routing.replay import MODEL_PREFIX, replay, shown
from routing.snapshot_build import build_snapshot
from tokenhub.adminkit import Admin, ReadOnlyAdmin, TabularInline, action, display


def _price(amount: Decimal | None) -> str:
    if amount is None:
        return "no price"
    return f"${amount.normalize():f}" if amount else "free"


class PriceInline(TabularInline):
    model = Price
    fields = ("starts_at", "above_input_tokens", *PRICE_FIELDS)
    verbose_name_plural = "Prices from a date on, and for long inputs: they go before those above"
    extra = 0


class ModelForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    abilities = forms.MultipleChoiceField(
        required=False,
        choices=Ability.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="The router sends a request only to models that can do what it asks.",
    )

    class Meta:
        model = Model
        fields = (
            "id", "provider", "upstream_model", "enabled", "weight", "max_context_tokens", "max_output_tokens",
            "abilities", "input_per_1k", "output_per_1k", "cached_input_per_1k", "cache_write_per_1k",
            "reasoning_per_1k",
        )  # fmt: skip


@admin.register(Model)
class ModelAdmin(Admin):
    form = ModelForm
    inlines = (PriceInline,)
    list_display = ("id", "provider", "enabled_shown", "health", "weight", "input_price", "output_price", "context")
    list_filter = ("enabled", "provider")
    list_select_related = ("provider",)
    search_fields = ("id", "upstream_model", "provider__id")
    autocomplete_fields = ("provider",)
    fieldsets = (
        (None, {"fields": ("id", "provider", "upstream_model", "enabled")}),
        ("Routing", {"fields": ("weight", "max_context_tokens", "max_output_tokens", "abilities")}),
        (
            "Prices, in dollars per 1,000 tokens",
            {
                "fields": (
                    ("input_per_1k", "output_per_1k"),
                    ("cached_input_per_1k", "cache_write_per_1k", "reasoning_per_1k"),
                )
            },
        ),
    )
    empty_title = "No model yet"
    empty_hint = "A model belongs to a provider. Its id is the name that clients put into their requests."

    actions_list = ("catalogue",)

    @action(description="Prices from the catalogue", url_path="catalogue")
    def catalogue(self, request: HttpRequest) -> HttpResponse:
        """What the catalogue would change, and taking it over."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        offers: list[catalogue.Offer] = []
        problem = ""
        try:
            if request.method == "POST":
                taken = catalogue.apply(only=set(request.POST.getlist("model")))
                messages.success(request, f"The prices of {len(taken)} models are taken over.")
                return redirect("admin:routing_model_changelist")
            offers = catalogue.offers()
        except catalogue.CatalogueUnusable as trouble:
            problem = trouble.message
        context = {
            **self.admin_site.each_context(request),
            "title": "Prices from the catalogue",
            "opts": self.opts,
            "offers": sorted(offers, key=lambda one: (not one.is_applicable, one.state == "unknown", one.model.pk)),
            "problem": problem,
        }
        return TemplateResponse(request, "routing/catalogue.html", context)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("id",) if obj is not None else ()

    @display(description="State", label={"on": "success", "off": "danger"})
    def enabled_shown(self, model: Model) -> str:
        return "on" if model.enabled else "off"

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Health of all models by one look at it."""
        changelist = super().get_changelist_instance(request)
        states = health_states()
        for model in changelist.result_list:
            keys = ((model.provider_id, ""), (model.provider_id, model.pk))
            model.health_state = min(states.get(key, State.HEALTHY) for key in keys)
        return changelist

    @display(description="Health", label={"healthy": "success", "degraded": "warning", "down": "danger"})
    def health(self, model: Any) -> str:
        return str(model.health_state.name.lower())

    @display(description="Input per 1,000", ordering="input_per_1k")
    def input_price(self, model: Model) -> str:
        return _price(model.input_per_1k)

    @display(description="Output per 1,000", ordering="output_per_1k")
    def output_price(self, model: Model) -> str:
        return _price(model.output_per_1k)

    @display(description="Context", ordering="max_context_tokens")
    def context(self, model: Model) -> str:
        return f"{model.max_context_tokens:,}"

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        services.save(model=obj)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for price in formset.save(commit=False):
            services.save_price(price=price)
        for price in formset.deleted_objects:
            services.delete_price(price=price)
        formset.save_m2m()

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        services.delete(model=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        for model in queryset:
            services.delete(model=model)


class VariantFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]  # generic for the type checker only
    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        rows = [form.cleaned_data for form in self.forms if form.cleaned_data and not form.cleaned_data.get("DELETE")]
        services.check_variants([(row["model"].pk, row["weight"], row["is_shadow"]) for row in rows])


class VariantInline(TabularInline):
    model = AliasVariant
    formset = VariantFormSet
    fields = ("model", "weight", "is_shadow")
    autocomplete_fields = ("model",)
    extra = 1


@admin.register(Alias)
class AliasAdmin(Admin):
    list_display = ("name", "enabled_shown", "variants_shown", "sticky_by")
    list_filter = ("enabled", "sticky_by")
    search_fields = ("name", "variants__model__id")
    fields = ("name", "enabled", "sticky_by")
    inlines = (VariantInline,)
    empty_title = "No alias yet"
    empty_hint = "An alias is a name for one or several models: to compare them, or to have one model at two providers."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alias]:
        found: QuerySet[Alias] = super().get_queryset(request)
        return found.prefetch_related("variants")

    def get_readonly_fields(self, request: HttpRequest, obj: Alias | None = None) -> tuple[str, ...]:
        return ("name",) if obj is not None else ()

    @display(description="State", label={"on": "success", "off": "danger"})
    def enabled_shown(self, alias: Alias) -> str:
        return "on" if alias.enabled else "off"

    @display(description="Variants")
    def variants_shown(self, alias: Alias) -> str:
        rows = list(alias.variants.all())
        total = sum(one.weight for one in rows if not one.is_shadow) or 1
        return ", ".join(
            f"{one.model_id} (shadow, {one.weight} %)" if one.is_shadow else f"{one.model_id} {one.weight / total:.0%}"
            for one in rows
        )

    def save_model(self, request: HttpRequest, obj: Alias, form: Any, change: bool) -> None:
        services.save_alias(alias=obj)

    def delete_model(self, request: HttpRequest, obj: Alias) -> None:
        services.delete_alias(alias=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Alias]) -> None:
        for alias in queryset:
            services.delete_alias(alias=alias)


@admin.register(RoutingProfile)
class RoutingProfileAdmin(Admin):
    list_display = ("name", "cost", "latency", "failure", "capability")
    search_fields = ("name",)
    fields = ("name", ("cost", "latency", "failure", "capability"))
    empty_title = "The built-in modes are in force"
    empty_hint = (
        "A profile by the name of a built-in mode (cheap, normal, high_confidence, planning, adversarial) takes its"
        " place; any other name is a further mode, which clients ask for as tokenhub/NAME."
    )

    def get_readonly_fields(self, request: HttpRequest, obj: RoutingProfile | None = None) -> tuple[str, ...]:
        return ("name",) if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: RoutingProfile, form: Any, change: bool) -> None:
        services.save_profile(profile=obj)

    def delete_model(self, request: HttpRequest, obj: RoutingProfile) -> None:
        services.delete_profile(profile=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[RoutingProfile]) -> None:
        for profile in queryset:
            services.delete_profile(profile=profile)


@admin.register(Feedback)
class FeedbackAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "model_id", "score", "reward", "made_of", "comment")
    list_filter = ("model_id",)
    search_fields = ("model_id", "comment")
    empty_title = "No feedback yet"
    empty_hint = "Clients judge an answer with POST /v1/feedback: its request id, and a score from 0 to 1."

    @display(description="Made of")
    def made_of(self, row: Feedback) -> str:
        return ", ".join(f"{name} {part['value']:.3g}" for name, part in row.parts.items())


class PeriodForm(forms.Form):
    policy = forms.ChoiceField(widget=UnfoldAdminSelectWidget, help_text="What would it have chosen?")
    days = forms.IntegerField(
        min_value=1, max_value=366, initial=30, widget=UnfoldAdminIntegerFieldWidget, help_text="The last so many days."
    )

    def __init__(self, *args: Any, policies: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["policy"].choices = policies  # type: ignore[attr-defined]


@admin.register(PolicyEvaluation)
class PolicyEvaluationAdmin(ReadOnlyAdmin):
    """One page in place of a list: a question about the logged traffic, and its answer."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        snapshot = build_snapshot()
        policies = [(name, f"mode {name}") for name in snapshot.profiles if name != "thompson"]
        policies += [(f"{MODEL_PREFIX}{name}", f"always {name}") for name in snapshot.targets]
        policies += [("random", "any model, by chance"), ("logged", "as it was")]
        asked = request.GET if "policy" in request.GET else None
        form = PeriodForm(asked, policies=policies)
        context = {
            **self.admin_site.each_context(request), "title": "Evaluate a policy", "opts": self.opts, "form": form
        }  # fmt: skip
        if asked is not None and form.is_valid():
            until = timezone.now()
            since = until - timedelta(days=form.cleaned_data["days"])
            try:
                found = shown(replay(form.cleaned_data["policy"], snapshot.profiles, since=since, until=until))
                base = shown(replay("logged", snapshot.profiles, since=since, until=until))
                context |= {"result": found, "estimates": _estimates(found, base)}
            except ApiError as problem:
                form.add_error("policy", problem.message)
        return TemplateResponse(request, "routing/evaluation.html", context)


_ESTIMATORS = (("dr", "Doubly robust"), ("snips", "Inverse propensity, self-normalised"), ("ips", "Inverse propensity"))


def _estimates(found: dict[str, Any], base: dict[str, Any]) -> list[dict[str, str]]:
    if found["reward"] is None:
        return []

    def told(estimate: dict[str, float], unit: float = 1.0) -> str:
        return f"{unit * estimate['value']:.4f} ({unit * estimate['low']:.4f} to {unit * estimate['high']:.4f})"

    rows = [
        {"name": label, "reward": told(found["reward"][name]), "cost": told(found["cost_usd"][name], 1000)}
        for name, label in _ESTIMATORS
    ]
    was = {"name": "As it was", "reward": told(base["reward"]["ips"]), "cost": told(base["cost_usd"]["ips"], 1000)}
    return [*rows, was]
