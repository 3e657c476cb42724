"""How the dashboard and the pages of requests write their figures."""

from __future__ import annotations

from typing import Any

from django import template

from telemetry import money
from telemetry.tsdb.overview import Figures
from tokenhub import overview

register = template.Library()
register.filter("dollars", money.dollars)
register.filter("price", money.price_shown)
register.filter("short", overview.short)


@register.filter
def exact_dollars(amount: Any) -> str:
    return money.dollars(amount, exact=True)


@register.filter
def words(text: str) -> list[str]:
    return text.split()


@register.filter
def signed(percent: float) -> str:
    """With an arrow, which is read as a word."""
    if round(percent) > 999:
        return f"↑ {percent / 100 + 1:,.0f} times"
    return f"{'↑' if percent > 0 else '↓' if percent < 0 else '='} {abs(percent):.0f} %"


@register.filter
def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %" if share else "0"


@register.filter
def latency(figures: Figures, percent: int) -> str:
    return _milliseconds(figures.latency_ms(percent))


@register.filter
def first_chunk(figures: Figures, percent: int) -> str:
    return _milliseconds(figures.first_chunk_ms(percent))


def _milliseconds(value: Any) -> str:
    return "-" if value is None else f"{value:,} ms"


@register.filter
def plain(number: float) -> str:
    """For an attribute of a drawing: no locale writes a comma into it."""
    return f"{number:.2f}"
