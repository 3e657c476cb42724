"""Who may answer, in which order: over catalogues, keys, requests and troubles of all kinds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.auth import KeyRecord
from providers.formats.registry import DIALECTS
from providers.outcomes import ErrorClass
from routing import ranking
from routing.eligibility import Needs, exclusion, expected_cost
from routing.health import Health
from routing.learning import Learner, lesson_of
from routing.policy import Policy
from routing.ranking import Ranking, rank
from routing.scoring import PROFILES
from routing.snapshot import Snapshot, Target
from tests.support.targets import NOW, key, prices, provider, snapshot, target

CHAT = DIALECTS["openai-chat"]
ABILITIES = ["tools", "vision", "embeddings"]
PROVIDERS = [
    provider("p0"),
    provider("p1", type_="anthropic", dialects=("anthropic-messages",)),
    provider("p2", needs_credential=True),
    provider("p3", dialects=("openai-embeddings",)),
]

one_target: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    at=st.sampled_from(PROVIDERS[:2] * 3 + PROVIDERS[2:]),
    weight=st.integers(0, 10),
    context=st.sampled_from([1_000, 100_000, 1_000_000]),
    abilities=st.sets(st.sampled_from(ABILITIES)),
    priced=st.none() | st.builds(prices, st.integers(0, 10**7), st.integers(0, 10**7)),
)
needs = st.builds(
    Needs, st.sampled_from([1, 869, 870, 90_000]), st.integers(0, 600), st.frozensets(st.sampled_from(ABILITIES[:2]))
)
policies = st.builds(
    Policy,
    st.sampled_from(sorted(PROFILES)),
    max_budget_nano=st.none() | st.integers(0, 10**9),
    max_latency_ms=st.none() | st.sampled_from([1, 300, 20_000]),
    min_weight=st.integers(0, 10),
    budget_is_own=st.booleans(),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Snapshot, Health, dict[str, Any]]:
    rows = draw(st.lists(one_target, min_size=1, max_size=12))
    found = snapshot(*(target(f"m{number}", **row) for number, row in enumerate(rows)))
    health = Health()
    for one in found.routable:
        for event in draw(st.lists(st.sampled_from(["ok", "slow", "error", "limited"]), max_size=6)):
            if event in {"ok", "slow"}:
                health.succeeded(
                    one.provider.id, one.model_id, latency_ms=50.0 if event == "ok" else 900.0, started=NOW, now=NOW
                )
            else:
                error = ErrorClass.TRANSIENT if event == "error" else ErrorClass.RATE_LIMITED
                health.failed(one.provider.id, one.model_id, error, now=NOW, retry_after=9.0, status=500)
    names = [one.model_id for one in found.routable]
    who = draw(st.just(key()) | st.builds(lambda some: key(models=some), st.sets(st.sampled_from(names), min_size=1)))
    return (
        found,
        health,
        {"needs": draw(needs), "policy": draw(policies), "key": who, "vault_open": draw(st.booleans())},
    )


def ranked(world: tuple[Snapshot, Health, dict[str, Any]], **options: Any) -> Ranking:
    found, health, asked = world
    return rank(found, dialect=CHAT, health=health, now=NOW + 0.01, **asked, **options)


def why_not(world: tuple[Snapshot, Health, dict[str, Any]], one: Target) -> str:
    _, health, asked = world
    stats = health.stats(one.provider.id, one.model_id)
    resting = health.resting(one.provider.id, one.model_id, NOW + 0.01)
    return exclusion(
        one,
        dialect=CHAT,
        resting=resting,
        latency_ms=stats.latency_ms if stats.calls else 0.0,
        cost=expected_cost(one, asked["needs"]),
        **asked,
    )


@given(worlds())
def test_whoever_may_not_answer_is_never_ranked_and_is_told_why(world: tuple[Snapshot, Health, dict[str, Any]]) -> None:
    result = ranked(world)
    reasons = {one.model_id: why_not(world, one) for one in world[0].routable}
    assert {one.model_id for one in result.targets} == {name for name, why in reasons.items() if not why}
    assert {one.model: one.excluded for one in result.candidates} == reasons


@given(worlds())
def test_lower_scores_come_first(world: tuple[Snapshot, Health, dict[str, Any]]) -> None:
    result = ranked(world)
    found = [one.score for one in result.candidates if not one.excluded]
    assert found == sorted(found)
    assert [one.model for one in result.candidates if not one.excluded] == [one.model_id for one in result.targets]


@given(worlds(), st.integers(0, 2**32))
def test_the_same_world_request_and_seed_give_the_same_ranking(
    world: tuple[Snapshot, Health, dict[str, Any]], seed: int
) -> None:
    def draw() -> Ranking:
        lesson = lesson_of(b'[{"role":"user","content":"hi"}]', input_tokens=9, tools=False, vision=False, tag="")
        return ranked(world, learner=Learner(rng=Random(seed)), lesson=lesson)

    first, second = draw(), draw()
    assert first == second
    eligible = [one for one in first.candidates if not one.excluded]
    assert {one.model for one in eligible} == {one.model_id for one in ranked(world).targets}
    if eligible:
        assert sum(one.probability for one in eligible) == pytest.approx(1.0)
        assert eligible[0].probability > 0.0


@settings(max_examples=200)
@given(worlds(), st.data())
def test_many_targets_are_ranked_as_few(world: tuple[Snapshot, Health, dict[str, Any]], data: st.DataObject) -> None:
    routable = world[0].routable
    hint = data.draw(st.none() | st.sampled_from(routable))
    home = data.draw(st.just("") | st.sampled_from([one.model_id for one in routable]))
    one_by_one = ranked(world, hint=hint, home=home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "MANY", 0)
        together = ranked(world, hint=hint, home=home)
    assert together.targets == one_by_one.targets
    for ours, theirs in zip(together.candidates, one_by_one.candidates, strict=True):
        assert (ours.model, ours.excluded) == (theirs.model, theirs.excluded)
        assert ours.score == pytest.approx(theirs.score)


def test_a_rest_is_seen_by_the_next_ranking_of_many_within_a_moment() -> None:
    targets = [target(f"m{number}", at=provider(f"p{number}")) for number in range(100)]
    found, health = snapshot(*targets), Health()
    options: dict[str, Any] = {
        "dialect": CHAT, "needs": Needs(1, 1, frozenset()), "policy": Policy("normal"), "key": key(), "health": health,
        "vault_open": True,
    }  # fmt: skip
    assert len(rank(found, now=NOW, **options).targets) == 100
    health.failed("p7", "m7", ErrorClass.RATE_LIMITED, now=NOW, retry_after=60.0, status=429)
    left = rank(found, now=NOW + 0.11, **options)
    assert "m7" not in {one.model_id for one in left.targets}
    assert [one.excluded for one in left.candidates if one.model == "m7"] == ["rate_limited"]


def test_a_key_record_is_all_that_limits_a_key() -> None:
    who: KeyRecord = key(models=["m3", "unknown"])
    found = snapshot(*(target(f"m{number}") for number in range(100)))
    ranking_ = rank(
        found, dialect=CHAT, needs=Needs(1, 1, frozenset()), policy=Policy("normal"), key=who, health=Health(),
        vault_open=True, now=NOW,
    )  # fmt: skip
    assert [one.model_id for one in ranking_.targets] == ["m3"]
