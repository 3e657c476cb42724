"""Prices as people say them: dollars per million tokens, though rows and the API hold those of 1,000. And prices with
a date: rows of a model's page, and a list of all. Loaded by routing/admin.py."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from routing import services
from routing.models import PRICE_FIELDS, Model, Price
from telemetry.money import per_million, price_shown
from tokenhub.adminkit import Admin, TabularInline, display

_LABELS: Final = {
    "input_per_1k": "Input", "output_per_1k": "Output", "cached_input_per_1k": "Cached input",
    "cache_write_per_1k": "Cache write", "reasoning_per_1k": "Reasoning",
}  # fmt: skip
PRICES_TITLE: Final = "Prices, in dollars per million tokens"
PER_MILLION: Final = "The admin API's fields of these names, such as input_per_1k, are dollars per 1,000 tokens."
"""Said once, beside a fieldset whose title says what its fields are."""
_PLACES: Final = 6
"""Of a price per million: that of 1,000 has three more."""
_DIGITS: Final = 8
"""Before its point: that of 1,000 has three fewer."""


class PriceField(forms.DecimalField):
    """Shown and typed in dollars per million tokens; its value is per 1,000."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.widget.attrs["step"] = f"{Decimal(1).scaleb(-_PLACES):f}"

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, Decimal):
            return value  # what was typed
        return f"{per_million(value):f}"

    def to_python(self, value: Any) -> Any:
        typed = super().to_python(value)
        if typed is None:
            return None
        if not typed.is_finite():
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        if typed.adjusted() >= _DIGITS:
            raise ValidationError(f"At most {_DIGITS} digits before the point.")
        if typed != round(typed, _PLACES):
            raise ValidationError(f"At most {_PLACES} digits after the point.")
        return round(typed, _PLACES) / 1000

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True


class PricedForms:
    """Of a page or of rows below one: its prices are asked for per million tokens."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if db_field.name not in PRICE_FIELDS:
            return super().formfield_for_dbfield(db_field, request, **options)  # type: ignore[misc]  # of what it is mixed into
        options |= {"form_class": PriceField, "label": _LABELS[db_field.name]}
        return super().formfield_for_dbfield(db_field, request, **options)  # type: ignore[misc]


class PricedFilter(admin.SimpleListFilter):
    title = "price"
    parameter_name = "priced"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "Has no price"), ("yes", "Has one")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        without = Model.objects.unpriced(timezone.now()).values("pk")
        match self.value():
            case "no":
                return queryset.filter(pk__in=without)
            case "yes":
                return queryset.exclude(pk__in=without)
        return queryset


def price_told(per_thousand: Decimal | None) -> str:
    """In a list: it catches the eye where there is none."""
    shown = price_shown(per_thousand)
    return format_html('<span class="pg-badge pg-wait">{}</span>', shown) if per_thousand is None else shown


class PriceInline(PricedForms, TabularInline):
    model = Price
    fields = ("starts_at", "above_input_tokens", *PRICE_FIELDS)
    verbose_name_plural = "Dollars per million tokens from a date on, and for long inputs: they go before those above"
    extra = 0


@admin.register(Price)
class PriceAdmin(PricedForms, Admin):
    """Prices with a date, and of long inputs, of all models. A model's own prices are on its page."""

    list_display = ("model", "starts_at", "state", "above", "input_price", "output_price", "source")
    list_filter = ("source", "model__provider")
    list_select_related = ("model",)
    search_fields = ("model__id",)
    autocomplete_fields = ("model",)
    fieldsets = (
        (None, {"fields": ("model", ("starts_at", "above_input_tokens"))}),
        (PRICES_TITLE, {"description": PER_MILLION, "fields": (PRICE_FIELDS[:2], PRICE_FIELDS[2:])}),
    )
    empty_title = "No price with a date yet"
    empty_hint = (
        "Models have their prices on their own pages. Here are those that hold from a moment on, such as an announced"
        " change, and those of long inputs; they go before those."
    )

    def impact(self, rows: Sequence[Price]) -> list[str]:
        return ["Requests from then on cost what the price before says. What is in the log keeps its cost."]

    @display(description="State", label={"has begun": "success", "to come": "info"})
    def state(self, price: Price) -> str:
        return "has begun" if price.starts_at <= timezone.now() else "to come"

    @display(description="For inputs above", ordering="above_input_tokens")
    def above(self, price: Price) -> str | None:
        return f"{price.above_input_tokens:,} tokens" if price.above_input_tokens else None

    @display(description="Input $/M", ordering="input_per_1k")
    def input_price(self, row: Price) -> str:
        return price_shown(row.input_per_1k)

    @display(description="Output $/M", ordering="output_per_1k")
    def output_price(self, row: Price) -> str:
        return price_shown(row.output_per_1k)

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        services.save_price(price=obj)

    def delete_model(self, request: HttpRequest, obj: Price) -> None:
        services.delete_price(price=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Price]) -> None:
        for price in queryset:
            services.delete_price(price=price)
