"""Prices with a date: rows of a model's page, and a list of all. Loaded by routing/admin.py."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from routing import services
from routing.models import PRICE_FIELDS, Price
from tokenhub.adminkit import Admin, TabularInline, display


def price_shown(amount: Decimal | None) -> str:
    if amount is None:
        return "no price"
    return f"${amount.normalize():f}" if amount else "free"


class PriceInline(TabularInline):
    model = Price
    fields = ("starts_at", "above_input_tokens", *PRICE_FIELDS)
    verbose_name_plural = "Prices from a date on, and for long inputs: they go before those above"
    extra = 0


@admin.register(Price)
class PriceAdmin(Admin):
    """Prices with a date, and of long inputs, of all models. A model's own prices are on its page."""

    list_display = ("model", "starts_at", "state", "above", "input_price", "output_price", "source")
    list_filter = ("source", "model__provider")
    list_select_related = ("model",)
    search_fields = ("model__id",)
    autocomplete_fields = ("model",)
    fields = ("model", ("starts_at", "above_input_tokens"), PRICE_FIELDS[:2], PRICE_FIELDS[2:])
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

    @display(description="Input per 1,000", ordering="input_per_1k")
    def input_price(self, price: Price) -> str:
        return price_shown(price.input_per_1k)

    @display(description="Output per 1,000", ordering="output_per_1k")
    def output_price(self, price: Price) -> str:
        return price_shown(price.output_per_1k)

    def save_model(self, request: HttpRequest, obj: Price, form: Any, change: bool) -> None:
        services.save_price(price=obj)

    def delete_model(self, request: HttpRequest, obj: Price) -> None:
        services.delete_price(price=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Price]) -> None:
        for price in queryset:
            services.delete_price(price=price)
