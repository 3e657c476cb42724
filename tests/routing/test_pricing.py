from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.dialect import MOST_TOKENS, Usage
from routing.pricing import MOST_NANO, Prices, cost_nano, dollars

counts = st.integers(0, 10**9)


def prices(**given_: Decimal | None) -> Prices:
    made = Prices.from_dollars(**({"input_per_1k": Decimal("0.003"), "output_per_1k": Decimal("0.015")} | given_))
    assert made is not None
    return made


def test_each_kind_of_token_has_its_price() -> None:
    full = prices(
        cached_input_per_1k=Decimal("0.0003"), cache_write_per_1k=Decimal("0.00375"), reasoning_per_1k=Decimal("0.06")
    )
    usage = Usage(
        input_tokens=10_000, cached_input_tokens=4_000, cache_write_tokens=1_000, output_tokens=2_000,
        reasoning_tokens=500,
    )  # fmt: skip
    assert cost_nano(full, usage) == (5_000 * 3000 + 4_000 * 300 + 1_000 * 3750 + 1_500 * 15_000 + 500 * 60_000)


def test_what_a_cache_keeps_for_an_hour_costs_twice_the_input() -> None:
    full = prices(cache_write_per_1k=Decimal("0.00375"))
    usage = Usage(input_tokens=5_000, cache_write_tokens=3_000, hour_cache_write_tokens=2_000)
    assert cost_nano(full, usage) == 2_000 * 3000 + 1_000 * 3750 + 2_000 * 6000


def test_unset_prices_fall_back_to_input_and_output() -> None:
    assert cost_nano(prices(), Usage(1000, 1000, 0, 1000, 1000)) == 3_000_000 + 15_000_000


def test_no_price_is_not_free() -> None:
    assert Prices.from_dollars(input_per_1k=None, output_per_1k=Decimal(1)) is None
    free = prices(input_per_1k=Decimal(0), output_per_1k=Decimal(0))
    assert cost_nano(free, Usage(10**6, 0, 0, 10**6, 0)) == 0


def test_a_part_of_a_nano_dollar_is_rounded_up() -> None:
    assert cost_nano(prices(input_per_1k=Decimal("0.000000001")), Usage(input_tokens=1)) == 1


@given(counts, counts, counts, counts, counts)
def test_contradicting_counts_never_cost_less_than_nothing(a: int, b: int, c: int, d: int, e: int) -> None:
    assert cost_nano(prices(), Usage(a, b, c, d, e)) >= 0


@pytest.mark.parametrize(("nano", "text"), [(0, "0"), (1_500, "0.0000015"), (2_000_000_000, "2"), (1, "0.000000001")])
def test_dollars_are_shown_without_an_exponent(nano: int, text: str) -> None:
    assert dollars(nano) == text


def test_no_call_costs_more_than_what_sums_can_bear() -> None:
    dear = prices(input_per_1k=Decimal("99999.999999999"))
    assert cost_nano(dear, Usage(input_tokens=MOST_TOKENS)) == MOST_NANO
    assert cost_nano(dear, Usage(input_tokens=1)) == 100 * 10**9
