"""What a request asks for is taken exactly, or refused by the name of what was wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.errors import ApiError
from routing.policy import Choice, Policy, choose, from_headers, with_limits, with_mode
from routing.pricing import NANO
from routing.scoring import PROFILES
from routing.snapshot import Snapshot
from routing.words import AUTO
from tests.support.targets import key, snapshot, target

PLAIN = Policy(mode="normal", max_budget_nano=50_000_000, max_latency_ms=20_000)
NAMES = ("policy.max_budget_usd", "policy.max_latency_ms", "policy.min_weight")
MODELS = snapshot(target("gpt-5-mini"), target("gpt-5"), target("claude-opus"), target("org/llama:70b"))


def refused(call: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


# -- which model -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(MODELS.targets))
def test_a_known_name_is_that_model(name: str) -> None:
    assert choose(MODELS, name, PLAIN, key()) == Choice(PLAIN, MODELS.targets[name])


@pytest.mark.parametrize("name", sorted(AUTO))
def test_the_router_decides_where_no_model_is_named(name: str) -> None:
    assert choose(MODELS, name, PLAIN, key()) == Choice(PLAIN)


@pytest.mark.parametrize("mode", PROFILES)
def test_a_mode_can_be_named_in_place_of_a_model(mode: str) -> None:
    chosen = choose(MODELS, f"tokenhub/{mode}", PLAIN, key())
    assert chosen.hint is None
    assert chosen.policy.mode == mode
    assert chosen.policy.max_budget_nano == PLAIN.max_budget_nano


def test_a_model_that_is_named_like_a_mode_is_the_model() -> None:
    odd = target("tokenhub/cheap")
    assert choose(snapshot(odd), "tokenhub/cheap", PLAIN, key()) == Choice(PLAIN, odd)


@given(st.text(max_size=30))
def test_an_unknown_name_is_never_answered_by_a_substitute(name: str) -> None:
    if name in MODELS.targets or name in AUTO or name.removeprefix("tokenhub/") in PROFILES:
        return
    error = refused(lambda: choose(MODELS, name, PLAIN, key()))
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.hint


@pytest.mark.parametrize("name", ["GPT-5", "gpt-5 ", " auto", "AUTO", "tokenhub/", "tokenhub/cheapest", "**", "None"])
def test_nearly_a_name_is_no_name(name: str) -> None:
    assert refused(lambda: choose(MODELS, name, PLAIN, key())).status == 404


def test_the_nearest_names_are_in_the_hint() -> None:
    assert "gpt-5-mini" in refused(lambda: choose(MODELS, "gpt-5-mni", PLAIN, key())).hint
    assert "tokenhub/cheap" in refused(lambda: choose(MODELS, "tokenhub/cheep", PLAIN, key())).hint


@pytest.mark.parametrize("name", ["gpt-5-mni", "gpt", "zzz", "claude-opus-4", "gpt-5"])
def test_hints_name_only_models_that_the_key_may_use(name: str) -> None:
    error = refused(lambda: choose(MODELS, name, PLAIN, key(models=["claude-opus"])))
    assert "gpt-5" not in error.hint
    assert "llama" not in error.hint


def test_a_model_that_the_key_may_not_use_is_refused_with_those_that_it_may() -> None:
    error = refused(lambda: choose(MODELS, "gpt-5", PLAIN, key(models=["claude-opus"])))
    assert (error.status, error.code, error.param) == (403, "model_not_allowed", "model")
    assert "claude-opus" in error.hint


def test_without_any_model_the_hint_says_whether_the_key_is_the_reason() -> None:
    assert "No model is configured: the operator" in refused(lambda: choose(Snapshot(), "zzz", PLAIN, key())).hint
    narrow = key(models=["gone"])
    assert "to this key; ask the operator" in refused(lambda: choose(snapshot(target("m1")), "zzz", PLAIN, narrow)).hint


def test_a_long_name_does_not_come_back_whole() -> None:
    error = refused(lambda: choose(MODELS, "x" * 100_000, PLAIN, key()))
    assert len(error.message) + len(error.hint) < 1_000


# -- headers -----------------------------------------------------------------------------------------------------------
def test_without_headers_of_ours_the_policy_is_as_it_was() -> None:
    assert from_headers(PLAIN, {b"accept": b"*/*", b"x-tokenhub-strict": b"true"}) is PLAIN


def test_headers_set_the_policy() -> None:
    policy = from_headers(
        PLAIN,
        {
            b"x-tokenhub-mode": b" cheap ", b"x-tokenhub-max-budget-usd": b"0.01",
            b"x-tokenhub-max-latency-ms": b"5000", b"x-tokenhub-min-weight": b"6.2", b"x-tokenhub-fallback": b"None",
        },
    )  # fmt: skip
    assert policy == Policy(
        mode="cheap", max_budget_nano=NANO // 100, max_latency_ms=5000, min_weight=7, deadline_ms=5000,
        budget_is_own=True, allow_fallback=False,
    )  # fmt: skip


def test_a_default_latency_is_no_deadline_and_zero_is_no_limit() -> None:
    assert PLAIN.deadline_ms is None
    policy = from_headers(PLAIN, {b"x-tokenhub-max-latency-ms": b"0"})
    assert (policy.max_latency_ms, policy.deadline_ms) == (None, None)


@pytest.mark.parametrize(
    ("header", "maximum"),
    [("X-TokenHub-Max-Budget-USD", 100), ("X-TokenHub-Max-Latency-MS", 300_000), ("X-TokenHub-Min-Weight", 10)],
)
@pytest.mark.parametrize(
    "value", ["nan", "NaN", "-nan", "inf", "-inf", "1e999", "-0.001", "over", "", "x", "1,5", "\xff"]
)
def test_a_header_that_is_no_number_in_range_is_refused_by_name(header: str, maximum: int, value: str) -> None:
    sent = str(maximum + 0.001) if value == "over" else value
    error = refused(lambda: from_headers(PLAIN, {header.lower().encode(): sent.encode("latin-1")}))
    assert (error.status, error.code, error.param) == (400, "invalid_request", header)
    assert header in error.message


@given(st.binary(max_size=12))
def test_any_header_bytes_are_a_policy_or_a_refusal(value: bytes) -> None:
    for name in ("mode", "fallback", "max-budget-usd", "max-latency-ms", "min-weight"):
        header = f"x-tokenhub-{name}"
        error = None
        try:
            from_headers(PLAIN, {header.encode(): value})
        except ApiError as raised:
            error = raised
        assert error is None or (error.status, (error.param or "").lower()) == (400, header)


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-TokenHub-Mode", b"fastest"), ("X-TokenHub-Mode", b"\xff"), ("X-TokenHub-Fallback", b"all")],
)
def test_an_unknown_word_is_refused_by_name(header: str, value: bytes) -> None:
    error = refused(lambda: from_headers(PLAIN, {header.lower().encode(): value}))
    assert (error.status, error.param) == (400, header)


def test_an_unknown_mode_is_answered_with_the_modes() -> None:
    hint = refused(lambda: with_mode(PLAIN, "fastest", param="policy.mode")).hint
    assert all(mode in hint for mode in PROFILES)


# -- limits ------------------------------------------------------------------------------------------------------------
@given(st.floats())
def test_limits_outside_their_range_are_refused_by_the_clients_own_name(value: float) -> None:
    for name, maximum in zip(NAMES, (100, 300_000, 10), strict=True):
        limits = {name.removeprefix("policy."): value}
        if 0 <= value <= maximum:
            with_limits(PLAIN, **limits, names=NAMES)
            continue
        error = refused(lambda limits=limits: with_limits(PLAIN, **limits, names=NAMES))  # type: ignore[misc]
        assert (error.status, error.param) == (400, name)


def test_what_is_not_said_stays() -> None:
    assert with_limits(PLAIN, names=NAMES) == PLAIN
    policy = with_limits(PLAIN, max_budget_usd=0, names=NAMES)
    assert (policy.max_budget_nano, policy.budget_is_own) == (0, True)
    assert (policy.max_latency_ms, policy.deadline_ms) == (20_000, None)


@given(st.floats(0, 10, allow_nan=False))
def test_a_least_weight_between_two_weights_asks_for_the_higher(value: float) -> None:
    assert with_limits(PLAIN, min_weight=value, names=NAMES).min_weight == math.ceil(value)
