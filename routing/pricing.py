"""What a call costs, in integer nano-dollars. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from providers.formats.dialect import Usage

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Nano-dollars per 1,000 tokens."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int

    @classmethod
    def from_dollars(
        cls,
        *,
        input_per_1k: Decimal | None,
        output_per_1k: Decimal | None,
        cached_input_per_1k: Decimal | None = None,
        cache_write_per_1k: Decimal | None = None,
        reasoning_per_1k: Decimal | None = None,
    ) -> Prices | None:
        """None when the input or the output price is unknown: then no cost can be said."""
        if input_per_1k is None or output_per_1k is None:
            return None

        def nano(amount: Decimal | None, otherwise: Decimal) -> int:
            return int((otherwise if amount is None else amount) * NANO)

        return cls(
            input=nano(input_per_1k, input_per_1k),
            output=nano(output_per_1k, output_per_1k),
            cached_input=nano(cached_input_per_1k, input_per_1k),
            cache_write=nano(cache_write_per_1k, input_per_1k),
            reasoning=nano(reasoning_per_1k, output_per_1k),
        )


def cost_nano(prices: Prices, usage: Usage) -> int:
    """Rounded up to a whole nano-dollar. Counts that contradict each other are never charged below zero."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    thousandfold = (
        (usage.input_tokens - cached - written) * prices.input
        + cached * prices.cached_input
        + written * prices.cache_write
        + (usage.output_tokens - reasoning) * prices.output
        + reasoning * prices.reasoning
    )
    return -(-thousandfold // 1000)


def plain_cost_nano(prices: Prices, input_tokens: int, output_tokens: int) -> int:
    """Of a call that takes nothing from a cache and does not reason, as far as one can tell before it."""
    return -(-(input_tokens * prices.input + output_tokens * prices.output) // 1000)


def upper_bound_nano(prices: Prices, input_tokens: int, output_tokens: int) -> int:
    """The most that a call of at most so many tokens can cost, whatever is cached, written to a cache, or thought."""
    dearest_input = max(prices.input, prices.cached_input, prices.cache_write)
    dearest_output = max(prices.output, prices.reasoning)
    return -(-(input_tokens * dearest_input + output_tokens * dearest_output) // 1000)


def dollars(nano: int) -> str:
    """Plain decimal notation without an exponent: 1500 → `0.0000015`."""
    whole, part = divmod(nano, NANO)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")
