from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from routing import services
from routing.models import Ability, Model
from tokenhub.adminkit import Admin, display


def _price(amount: Decimal | None) -> str:
    if amount is None:
        return "no price"
    return f"${amount.normalize():f}" if amount else "free"


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
    list_display = ("id", "provider", "enabled_shown", "weight", "input_price", "output_price", "context")
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

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("id",) if obj is not None else ()

    @display(description="State", label={"on": "success", "off": "danger"})
    def enabled_shown(self, model: Model) -> str:
        return "on" if model.enabled else "off"

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

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        services.delete(model=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        for model in queryset:
            services.delete(model=model)
