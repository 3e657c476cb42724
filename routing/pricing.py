"""What a call costs, in integer nano-dollars. Pure.

A price may depend on the input's size: above a threshold all tokens of the request cost the tier's price, as Anthropic,
Google and OpenAI charge long contexts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from providers.formats.dialect import Usage

NANO = 1_000_000_000
HOUR_CACHE_FACTOR = 2
HIDDEN_TOKENS = 700  # that providers add for tools and roles
MOST_NANO = 1 << 48
"""Of one call: 281,475 dollars, which only a wrong figure or price exceeds. Many of them still add up to a number."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that a call can cost, where prices do not depend on the input's size: `input` of each of its tokens,
    `output`, and `rest`; thousandths of nano-dollars, to be rounded down."""

    input: int
    output: int
    rest: int


@dataclass(frozen=True, slots=True)
class Prices:
    """Nano-dollars per 1,000 tokens. `tiers`: by falling threshold, which an input must exceed. `dearest_input` and
    `dearest_output`: whatever is cached, written to a cache, or thought."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int
    tiers: tuple[tuple[int, Prices], ...] = ()
    dearest_input: int = field(init=False, repr=False, compare=False)
    dearest_output: int = field(init=False, repr=False, compare=False)
    hour_cache_write: int = field(init=False, repr=False, compare=False)
    """Anthropic's rule: of what a cache keeps for an hour, a token costs twice the input's price."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dearest_input", max(self.input, self.cached_input, self.cache_write))
        object.__setattr__(self, "dearest_output", max(self.output, self.reasoning))
        object.__setattr__(self, "hour_cache_write", max(self.cache_write, HOUR_CACHE_FACTOR * self.input))

    def of(self, input_tokens: int) -> Prices:
        """Those of a request with so much input."""
        for threshold, prices in self.tiers:
            if input_tokens > threshold:
                return prices
        return self

    def bound(self, more_tokens: int) -> Bound | None:
        """With so many tokens of input beyond those that are told."""
        if self.tiers:
            return None
        return Bound(self.dearest_input, self.dearest_output, more_tokens * self.dearest_input + 999)

    def with_tiers(self, tiers: Iterable[tuple[int, Prices]]) -> Prices:
        return replace(self, tiers=tuple(sorted(tiers, key=lambda tier: -tier[0])))

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
    """Rounded up to a whole nano-dollar, at most MOST_NANO. Counts that contradict each other are never charged below
    zero."""
    if prices.tiers:
        prices = prices.of(usage.input_tokens)
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
    if usage.hour_cache_write_tokens:
        hour = min(usage.hour_cache_write_tokens, written)
        thousandfold += hour * (prices.hour_cache_write - prices.cache_write)
    return min(-(-thousandfold // 1000), MOST_NANO)


def plain_cost_nano(prices: Prices, input_tokens: int, output_tokens: int) -> int:
    """Of a call that takes nothing from a cache and does not reason, as far as one can tell before it."""
    if prices.tiers:
        prices = prices.of(input_tokens)
    return -(-(input_tokens * prices.input + output_tokens * prices.output) // 1000)


def upper_bound_nano(prices: Prices, input_tokens: int, output_tokens: int) -> int:
    """The most that a call of at most so many tokens can cost."""
    if prices.tiers:  # it may turn out to be smaller, and then another tier's
        within = [tier for threshold, tier in prices.tiers if input_tokens > threshold]
        return max(upper_bound_nano(one, input_tokens, output_tokens) for one in (replace(prices, tiers=()), *within))
    return -(-(input_tokens * prices.dearest_input + output_tokens * prices.dearest_output) // 1000)


def dollars(nano: int) -> str:
    """Plain decimal notation without an exponent: 1500 → `0.0000015`."""
    whole, part = divmod(nano, NANO)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")
