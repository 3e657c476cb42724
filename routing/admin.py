from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from routing import alias_results, catalogue, evaluation_page, impact, services
from routing.admin_model_rows import ModelRowForm, ModelRows, lock_rows, tell_of
from routing.admin_prices import PER_MILLION, PRICES_TITLE, PricedFilter, PricedForms, PriceInline, price_told
from routing.breaker import State
from routing.health_store import health_states
from routing.models import (
    Ability,
    Alias,
    AliasVariant,
    Feedback,
    Model,
    PolicyEvaluation,
    RoutingProfile,
)
from routing.policy import MAX_WEIGHT
from routing.words import UNPRICED
from tokenhub.adminkit import Admin, ReadOnlyAdmin, SliderWidget, TabularInline, action, display

_PERIODS = (1, 7, 30)
"""Days that an alias's variants can be compared over."""


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
        widgets: ClassVar[dict[str, forms.Widget]] = {"weight": SliderWidget(attrs={"min": 0, "max": MAX_WEIGHT})}


@admin.register(Model)
class ModelAdmin(PricedForms, Admin):
    form = ModelForm
    inlines = (PriceInline,)
    list_display = ("id", "provider", "enabled", "health", "weight", "input_price", "output_price", "context")
    list_editable = ("enabled", "weight")
    actions = ("enable", "disable")
    list_filter = ("enabled", "provider", PricedFilter)
    list_before_template = "routing/unpriced.html"
    list_select_related = ("provider",)
    search_fields = ("id", "upstream_model", "provider__id")
    autocomplete_fields = ("provider",)
    fieldsets = (
        (None, {"fields": ("id", "provider", "upstream_model", "enabled")}),
        ("Routing", {"fields": ("weight", "max_context_tokens", "max_output_tokens", "abilities")}),
        (
            PRICES_TITLE,
            {
                "description": PER_MILLION,
                "fields": (
                    ("input_per_1k", "output_per_1k"),
                    ("cached_input_per_1k", "cache_write_per_1k", "reasoning_per_1k"),
                ),
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
                what = f"{len(taken)} model{'' if len(taken) == 1 else 's'}"
                messages.success(request, f"The prices of {what} are taken over.")
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

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return ModelRowForm

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Not by Django's own, which would take its widgets in place of the form's."""
        return forms.modelformset_factory(Model, ModelRowForm, formset=ModelRows, extra=0, fields=self.list_editable)

    def changelist_view(self, request: Any, extra_context: Any = None) -> HttpResponse:
        """What rows showed is compared with the rows once they are locked."""
        if request.method != "POST" or "_save" not in request.POST:
            return super().changelist_view(request, extra_context)
        with transaction.atomic():
            lock_rows(request)
            answer = super().changelist_view(request, extra_context)
        if answer.status_code == 302:
            tell_of(request, request.model_list.formset)
        return answer

    def impact(self, rows: Sequence[Model]) -> list[str]:
        return impact.of_models({row.pk for row in rows})

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        count = services.switch(models=[model.pk for model in queryset], enabled=True)
        messages.success(request, f"{count} models are enabled.")

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Model]) -> HttpResponse | None:
        """Asks first: requests that name them are answered by others from then on, or by nobody."""
        rows = list(queryset)
        told = self.impact(rows)
        if page := self.ask_before(request, rows, title="Disable these models?", impact=told, button="Disable them"):
            return page
        count = services.switch(models=[model.pk for model in rows], enabled=False)
        messages.success(request, f"{count} models are disabled.")
        return None

    def get_changelist_instance(self, request: Any) -> Any:
        """Health of all models by one look at it."""
        changelist = request.model_list = super().get_changelist_instance(request)
        states = health_states()
        for model in changelist.result_list:
            keys = ((model.provider_id, ""), (model.provider_id, model.pk))
            model.health_state = min(states.get(key, State.HEALTHY) for key in keys)
        shown = [one.pk for one in changelist.result_list if one.input_per_1k is None or one.output_per_1k is None]
        priced = Model.objects.unpriced(timezone.now()).ids(shown) if shown else set()
        changelist.unpriced, changelist.unpriced_told = sorted(priced), UNPRICED
        return changelist

    @display(description="Health", label={"healthy": "success", "degraded": "warning", "down": "danger"})
    def health(self, model: Any) -> str:
        return str(model.health_state.name.lower())

    @display(description="Input $/M", ordering="input_per_1k")
    def input_price(self, model: Model) -> str:
        return price_told(model.input_per_1k)

    @display(description="Output $/M", ordering="output_per_1k")
    def output_price(self, model: Model) -> str:
        return price_told(model.output_per_1k)

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
        # who may not change a row sends what it was, and its model is a key
        named = [(getattr(row["model"], "pk", row["model"]), row["weight"], row["is_shadow"]) for row in rows]
        services.check_variants(named)


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
    actions_detail = ("compare",)
    empty_title = "No alias yet"
    empty_hint = "An alias is a name for one or several models: to compare them, or to have one model at two providers."

    @action(description="Compare its variants", url_path="results", permissions=["view"])
    def compare(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """How they do: requests, success, latency, cost, reward."""
        alias = self.get_object(request, unquote(object_id))
        if alias is None or not self.has_view_permission(request, alias):
            raise PermissionDenied
        wanted = request.GET.get("days", "")
        days = int(wanted) if wanted in map(str, _PERIODS) else _PERIODS[1]
        found = alias_results.results(alias, now=timezone.now(), days=days)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Variants of {alias.name}",
            "opts": self.opts,
            "alias": alias,
            "variants": alias_results.shown(found.variants),
            "since": found.since,
            "is_capped": found.is_capped,
            "rows": alias_results.ROWS,
            "periods": _PERIODS,
            "days": days,
        }
        return TemplateResponse(request, "routing/alias_results.html", context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alias]:
        found: QuerySet[Alias] = super().get_queryset(request)
        return found.prefetch_related("variants")

    def get_readonly_fields(self, request: HttpRequest, obj: Alias | None = None) -> tuple[str, ...]:
        return ("name",) if obj is not None else ()

    @display(description="State", label={"on": "success", "off": "danger"})
    def enabled_shown(self, alias: Alias) -> str:
        return "on" if alias.enabled else "off"

    def impact(self, rows: Sequence[Alias]) -> list[str]:
        return impact.of_aliases({row.pk for row in rows})

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

    def impact(self, rows: Sequence[RoutingProfile]) -> list[str]:
        return impact.of_profiles({row.pk for row in rows})

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


@admin.register(PolicyEvaluation)
class PolicyEvaluationAdmin(ReadOnlyAdmin):
    """One page in place of a list: a question about the logged traffic, and its answer."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Evaluate a policy",
            "opts": self.opts,
            **evaluation_page.answered(request.GET),
        }
        return TemplateResponse(request, "routing/evaluation.html", context)
