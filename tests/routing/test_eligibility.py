from __future__ import annotations

import base64
import json
from dataclasses import replace
from time import process_time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.auth import KeyRecord
from providers.formats.envelope import Envelope
from providers.formats.registry import DIALECTS
from routing.eligibility import (
    BINARY_BYTES,
    EXPECTED_OUTPUT_TOKENS,
    NO_ABILITIES,
    TOKENS_PER_IMAGE,
    Needs,
    exclusion,
    expected_cost,
    needs_of,
    unusable_because,
)
from routing.policy import Policy
from routing.snapshot import ProviderRecord, Target
from tests.support.targets import key, prices, provider, target
from vault.keyring import SealedCredential

NEEDS = Needs(1_000, 500, NO_ABILITIES)
CHAT = DIALECTS["openai-chat"]
SEALED = SealedCredential(UUID(int=1), "provider:p1", b"x")


def needs(**body: Any) -> Needs:
    return needs_of(Envelope.read(json.dumps({"messages": [{"role": "user", "content": "Hi"}], **body}).encode()))


def why(
    one: Target,
    *,
    wanted: Needs = NEEDS,
    policy: Policy | None = None,
    by: KeyRecord | None = None,
    resting: str = "",
    latency_ms: float = 0.0,
    vault_open: bool = True,
) -> str:
    return exclusion(
        one, dialect=CHAT, needs=wanted, policy=policy or Policy("normal"), key=by or key(), resting=resting,
        latency_ms=latency_ms, vault_open=vault_open, cost=expected_cost(one, wanted),
    )  # fmt: skip


# -- who may answer ----------------------------------------------------------------------------------------------------
def test_a_plain_request_can_go_to_any_target() -> None:
    assert why(target()) == ""


def test_a_key_goes_only_where_it_may() -> None:
    assert why(target("m1"), by=key(models=["m2"])) == "model_not_allowed"
    assert why(target("m2"), by=key(models=["m2"])) == ""


@pytest.mark.parametrize(("weight", "reason"), [(4, "below_min_weight"), (5, ""), (6, "")])
def test_a_least_weight_is_included(weight: int, reason: str) -> None:
    assert why(target(weight=weight), policy=Policy("normal", min_weight=5)) == reason


@pytest.mark.parametrize(("context", "reason"), [(1_149, "context_too_small"), (1_151, "")])
def test_an_input_has_to_fit_with_headroom(context: int, reason: str) -> None:
    assert why(target(context=context)) == reason


def test_a_missing_ability_is_named() -> None:
    wanted = Needs(10, 10, frozenset({"tools", "vision"}))
    assert why(target(abilities=["tools"]), wanted=wanted) == "lacks_vision"
    assert why(target(abilities=["tools", "vision", "documents"]), wanted=wanted) == ""


def test_a_resting_target_is_skipped_with_its_reason() -> None:
    assert why(target(), resting="rate_limited") == "rate_limited"


def test_a_budget_leaves_out_what_costs_more() -> None:
    dear = target(priced=prices(1_000_000, 2_000_000))
    cost = expected_cost(dear, NEEDS)
    assert cost == 2_000_000
    assert why(dear, policy=Policy("normal", max_budget_nano=cost)) == ""
    assert why(dear, policy=Policy("normal", max_budget_nano=cost - 1)) == "over_budget"


def test_no_price_is_refused_only_by_the_clients_own_budget() -> None:
    assert expected_cost(target(), NEEDS) is None


def test_the_home_of_a_conversation_is_cheaper_by_what_its_provider_keeps() -> None:
    kept = target(priced=replace(prices(1_000, 2_000), cached_input=100))
    long = Needs(10_000, 500, NO_ABILITIES)
    assert expected_cost(kept, long) == 11_000
    assert expected_cost(kept, long, is_home=True) == 2_000 + 800 + 1_000
    assert expected_cost(kept, NEEDS, is_home=True) == expected_cost(kept, NEEDS)  # too short for a cache
    assert expected_cost(target(), long, is_home=True) is None
    assert why(target(), policy=Policy("normal", max_budget_nano=1)) == ""
    assert why(target(), policy=Policy("normal", max_budget_nano=1, budget_is_own=True)) == "no_price"


def test_what_is_free_fits_a_budget_of_nothing() -> None:
    assert why(target(priced=prices(0, 0)), policy=Policy("normal", max_budget_nano=0, budget_is_own=True)) == ""


def test_a_latency_leaves_out_what_is_slower() -> None:
    policy = Policy("normal", max_latency_ms=200)
    assert why(target(), policy=policy, latency_ms=200.0) == ""
    assert why(target(), policy=policy, latency_ms=200.1) == "over_latency"


@pytest.mark.parametrize(
    ("at", "vault_open", "reason"),
    [
        (provider(), False, ""),
        (provider(needs_credential=True), True, "no_credential"),
        (provider(needs_credential=True, credential=SEALED), True, ""),
        (provider(needs_credential=True, credential=SEALED), False, "vault_locked"),
        (provider(dialects=()), True, "no_dialect"),
        (provider(urls=()), True, "no_dialect"),
    ],
)
def test_a_provider_that_cannot_be_called_says_why(at: ProviderRecord, vault_open: bool, reason: str) -> None:
    assert unusable_because(target(at=at), dialect=CHAT, vault_open=vault_open) == reason
    assert why(target(at=at), vault_open=vault_open) == reason


# -- what a request takes ----------------------------------------------------------------------------------------------
def test_a_plain_request_needs_no_ability() -> None:
    assert needs() == Needs(needs().input_tokens, EXPECTED_OUTPUT_TOKENS, NO_ABILITIES)
    assert 1 <= needs().input_tokens < 20


@pytest.mark.parametrize(
    ("body", "abilities"),
    [
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"tools": None}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"structured_output"}),
        ({"output_config": {"format": {"type": "json_schema"}}}, {"structured_output"}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]}, {"vision"}),
        ({"messages": [{"content": [{"type": "image", "source": {}}]}]}, {"vision"}),
        ({"messages": [{"content": [{"type": "document", "source": {}}]}]}, {"documents"}),
        ({"messages": [{"content": 'They wrote "type": "image" there'}]}, set()),
    ],
)
def test_what_a_body_holds_says_which_abilities_it_needs(body: dict[str, Any], abilities: set[str]) -> None:
    assert needs(**body).abilities == abilities


@pytest.mark.parametrize(
    ("body", "tokens"),
    [({"max_tokens": 5}, 5), ({"max_completion_tokens": 7, "max_tokens": 5}, 7), ({"max_tokens": 100_000}, 512),
     ({"n": 3, "max_tokens": 10}, 30), ({"n": 2}, 1024)],
)  # fmt: skip
def test_the_expected_output_is_no_more_than_asked_for_by_each_choice(body: dict[str, Any], tokens: int) -> None:
    assert needs(**body).output_tokens == tokens


def test_an_image_counts_as_an_image_not_as_its_letters() -> None:
    data = base64.b64encode(bytes(300_000)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    one, two = (needs(messages=[{"role": "user", "content": [part] * count}]).input_tokens for count in (1, 2))
    assert TOKENS_PER_IMAGE < one < TOKENS_PER_IMAGE + 100
    assert 2 * TOKENS_PER_IMAGE < two < 2 * TOKENS_PER_IMAGE + 100


def test_runs_that_are_nearly_binary_take_no_longer_than_other_text() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": ("x" * (BINARY_BYTES - 1) + " ") * 4_000}
    messages = [{"role": "user", "content": [part, text]}]
    begun = process_time()
    assert needs(messages=messages).input_tokens > BINARY_BYTES * 1_000
    assert process_time() - begun < 0.5


def test_system_and_tools_count_as_input() -> None:
    plain = needs().input_tokens
    assert needs(system="x" * 4_000).input_tokens >= plain + 1_000
    assert needs(tools=[{"description": "x" * 4_000}]).input_tokens >= plain + 1_000
    assert needs(metadata={"x": "x" * 4_000}).input_tokens == plain


@given(st.text(max_size=2_000))
def test_a_longer_text_never_needs_less(text: str) -> None:
    shorter, longer = ([{"role": "user", "content": said}] for said in (text, text + "xxxx"))
    assert needs(messages=longer).input_tokens == needs(messages=shorter).input_tokens + 1
