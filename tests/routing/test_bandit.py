from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import mean
from time import process_time

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from routing.bandit import (
    MANY,
    Arm,
    Bandit,
    Context,
    RewardWeights,
    Settings,
    State,
    Sums,
    compose,
    context_of,
    language_of,
    task_of,
    thrift,
)

HERE = Context(task="write")
THERE = Context(task="translate")
FREE = Settings(cost_weight=0.0)
OUTCOMES = Path(__file__).parents[1] / "fixtures" / "routing" / "outcomes.jsonl"


def arms(*names: str, cost: float = 0.0) -> list[Arm]:
    return [Arm(name, cost) for name in names]


def taught(means: dict[str, float], *, rewards: int = 60, context: Context = HERE, config: Settings = FREE) -> Bandit:
    """Has seen so many rewards of each arm, of 0 and 1 in these shares, one a minute in turns."""
    bandit = Bandit(config)
    for step in range(rewards):
        for arm, share in means.items():
            good = int((step + 1) * share) > int(step * share)
            bandit.learn(context, arm, float(good), now=60.0 * step)
    return bandit


def picks(bandit: Bandit, among: list[Arm], *, now: float, count: int = 400, seed: int = 1, pressure: float = 0.0,
          context: Context = HERE) -> dict[str, float]:  # fmt: skip
    rng = Random(seed)
    drawn = [bandit.choose(context, among, rng=rng, now=now, pressure=pressure).order[0] for _ in range(count)]
    return {arm.id: drawn.count(arm.id) / count for arm in among}


# -- learning ---------------------------------------------------------------------------------------------------------
def test_the_better_arm_gets_nearly_all_requests() -> None:
    bandit = taught({"good": 0.9, "bad": 0.4})
    assert picks(bandit, arms("good", "bad"), now=3600.0)["good"] > 0.97


def test_without_a_reward_every_arm_has_the_same_chance() -> None:
    choice = Bandit(FREE).choose(HERE, arms("a", "b", "c", "d"), rng=Random(1), now=0.0)
    assert choice.probability == pytest.approx(0.25)


def test_uncertain_arms_are_tried_and_certain_losers_are_not() -> None:
    few, many = taught({"good": 0.8, "bad": 0.6}, rewards=15), taught({"good": 0.8, "bad": 0.6}, rewards=400)
    among = arms("good", "bad")
    early = few.choose(HERE, among, rng=Random(1), now=900.0).probabilities["bad"]
    late = many.choose(HERE, among, rng=Random(1), now=24_000.0).probabilities["bad"]
    assert early > 10 * late


def play(bandit: Bandit, truth: dict[str, float], *, requests: int, seed: int, began: int = 0) -> float:
    """The mean chance of a reward of what the bandit chose; rewards settle 20 requests later."""
    rng, got = Random(seed), []
    waiting: list[tuple[str, float]] = []
    among = arms(*truth)
    for step in range(began, began + requests):
        name = bandit.choose(HERE, among, rng=rng, now=60.0 * step).order[0]
        got.append(truth[name])
        waiting.append((name, float(rng.random() < truth[name])))
        if len(waiting) > 20:
            arm, reward = waiting.pop(0)
            bandit.learn(HERE, arm, reward, now=60.0 * step, at=60.0 * (step - 20))
    return mean(got)


@pytest.mark.parametrize("seed", range(3))
def test_a_cold_start_comes_close_to_the_best_arm_despite_late_rewards(seed: int) -> None:
    assert play(Bandit(FREE), {"a": 0.5, "b": 0.9, "c": 0.6}, requests=800, seed=seed) > 0.85


@pytest.mark.parametrize("seed", range(3))
def test_it_leaves_an_arm_that_degrades_and_comes_back_when_it_recovers(seed: int) -> None:
    bandit = Bandit(FREE)
    play(bandit, {"a": 0.9, "b": 0.7}, requests=1500, seed=seed)
    degraded = play(bandit, {"a": 0.2, "b": 0.7}, requests=600, seed=seed, began=1500)
    play(bandit, {"a": 0.9, "b": 0.7}, requests=1500, seed=seed, began=2100)
    recovered = play(bandit, {"a": 0.9, "b": 0.7}, requests=300, seed=seed, began=3600)
    assert degraded > 0.6  # 0.2 had it stayed, 0.7 had it known
    assert recovered > 0.85


def test_an_outage_is_noticed_within_a_dozen_rewards() -> None:
    bandit = taught({"a": 0.95, "b": 0.85}, rewards=1000)
    for step in range(12):
        bandit.learn(HERE, "a", 0.0, now=60_000.0 + step)
    assert picks(bandit, arms("a", "b"), now=60_020.0)["b"] > 0.9


def test_on_recorded_outcomes_it_stays_near_the_best_model_and_far_above_chance() -> None:
    rows = [json.loads(line) for line in OUTCOMES.read_text().splitlines()]
    names = list(rows[0]["arms"])
    best = max(mean(row["arms"][name]["reward"] for row in rows) for name in names)
    chance = mean(row["arms"][name]["reward"] for row in rows for name in names)
    rng, bandit, got = Random(5), Bandit(), []
    for step in range(1500):
        row = rng.choice(rows)
        context = context_of(input_tokens=len(row["prompt"]) // 4, text=row["prompt"])
        name = bandit.choose(context, arms(*names), rng=rng, now=60.0 * step).order[0]
        got.append(row["arms"][name]["reward"])
        bandit.learn(context, name, got[-1], now=60.0 * step)
    assert mean(got) > best - 0.015
    assert mean(got) > chance + 0.03


# -- contexts ---------------------------------------------------------------------------------------------------------
def test_each_context_finds_its_own_best_arm() -> None:
    bandit = Bandit(FREE)
    for step in range(3000):
        for context, best in ((HERE, "a"), (THERE, "b")):
            for arm in ("a", "b"):
                bandit.learn(context, arm, 0.95 if arm == best else 0.9, now=float(step))
    assert picks(bandit, arms("a", "b"), now=3000.0)["a"] > 0.95
    assert picks(bandit, arms("a", "b"), now=3000.0, context=THERE)["b"] > 0.95


def test_a_new_context_begins_with_what_was_learned_elsewhere() -> None:
    bandit = taught({"good": 0.9, "bad": 0.3})
    assert picks(bandit, arms("good", "bad"), now=3600.0, context=THERE)["good"] > 0.9


def test_a_context_in_which_everything_is_harder_does_not_make_its_usual_arm_look_worse() -> None:
    bandit = Bandit(FREE)
    rng = Random(3)
    for step in range(600):  # `good` is better everywhere, but is mostly asked where it is hard
        for context, arm, value in ((THERE, "good", 0.6), (HERE, "bad", 0.85)):
            bandit.learn(context, arm, min(max(rng.gauss(value, 0.1), 0), 1), now=float(step))
        if step % 5 == 0:
            bandit.learn(HERE, "good", min(max(rng.gauss(0.95, 0.1), 0), 1), now=float(step))
            bandit.learn(THERE, "bad", min(max(rng.gauss(0.5, 0.1), 0), 1), now=float(step))
    for context in (HERE, THERE):
        assert picks(bandit, arms("good", "bad"), now=600.0, context=context)["good"] > 0.9


def test_a_tag_leans_on_the_context_without_it_until_it_knows_better() -> None:
    bandit = taught({"a": 0.9, "b": 0.5}, rewards=300)
    ours = HERE._replace(tag="ours")
    assert picks(bandit, arms("a", "b"), now=18_000.0, context=ours)["a"] > 0.9
    for step in range(4000):
        bandit.learn(ours, "a", 0.3, now=18_000.0 + step)
        bandit.learn(ours, "b", 0.9, now=18_000.0 + step)
    assert picks(bandit, arms("a", "b"), now=22_000.0, context=ours)["b"] > 0.9


@pytest.mark.parametrize(
    ("tokens", "size"), [(0, "small"), (999, "small"), (1_000, "medium"), (10_000, "medium"), (10_001, "large")]
)
def test_requests_are_told_apart_by_size(tokens: int, size: str) -> None:
    assert context_of(input_tokens=tokens).size == size


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("```py\nx = 1\n```", "code"),
        ("Make it faster: SELECT a FROM b", "code"),
        ("Translate this into French", "translate"),
        ("[Physics] What is heat?", "["),
        ("Colours of\n  (A) snow\n  (B) coal", "choices"),
        ("Ann had 3 pears, and Bob had 4.", "numbers"),
        ("", ""),
    ],
)
def test_requests_are_told_apart_by_task(text: str, task: str) -> None:
    assert task_of(text) == task


@pytest.mark.parametrize(("text", "name"), [("hello", "latin"), ("Привет", "cyrillic"), ("你好", "cjk"), ("", "")])
def test_requests_are_told_apart_by_script(text: str, name: str) -> None:
    assert language_of(text) == name


@pytest.mark.parametrize("text", ["x" + "\n" * 3_998 + "x", "SELECT " * 570 + "\nFROM"], ids=["lines", "words"])
def test_no_text_takes_long_to_be_told_apart(text: str) -> None:
    begun = process_time()
    for _ in range(50):
        context_of(input_tokens=1_000, text=text)
    assert process_time() - begun < 0.35


@given(st.text(max_size=200), st.text(max_size=20))
def test_a_context_survives_being_a_key(text: str, tag: str) -> None:
    context = context_of(input_tokens=10, text=text, tag=tag)
    assert len(context.key.split("|")) == len(Context._fields)


# -- probabilities ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [4, MANY + 10])
@pytest.mark.parametrize("pressure", [0.0, 0.05])
def test_the_probability_is_the_frequency(count: int, pressure: float) -> None:
    rng = Random(2)
    bandit = Bandit()
    among = [Arm(f"m{one}", cost=1.0 + one % 3, weight=5) for one in range(count)]
    for step in range(count * 20):
        arm = among[step % count].id
        bandit.learn(HERE, arm, float(rng.random() < 0.7 + 0.02 * (step % 4)), now=float(step))
    drawn: dict[str, int] = {}
    said: dict[str, float] = {}
    for _ in range(4000):
        choice = bandit.choose(HERE, among, rng=rng, now=1e4, pressure=pressure)
        drawn[choice.order[0]] = drawn.get(choice.order[0], 0) + 1
        assert said.setdefault(choice.order[0], choice.probability) == pytest.approx(choice.probability)
    assert 0.9 < sum(said.values()) < 1.0 + 1e-6
    for name, times in drawn.items():
        error = math.sqrt(said[name] * (1 - said[name]) / 4000)
        assert abs(times / 4000 - said[name]) < 4.5 * error + 1e-3


def test_of_two_arms_the_probability_is_that_of_a_draw_from_both_posteriors() -> None:
    bandit = taught({"a": 0.7, "b": 0.6}, rewards=40, config=Settings(cost_weight=0.0, exploration=1.0, margin=1.0))
    among = arms("a", "b")
    rng = Random(4)
    posteriors = [bandit.posterior(HERE, arm, 2400.0) for arm in among]
    wins = mean(float(rng.betavariate(*posteriors[0]) > rng.betavariate(*posteriors[1])) for _ in range(20_000))
    assert bandit.choose(HERE, among, rng=rng, now=2400.0).probabilities["a"] == pytest.approx(wins, abs=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), max_size=60),
    st.lists(st.floats(0, 10), min_size=6, max_size=6),
    st.sampled_from([0.0, 1e-6, 0.1, 5.0, 1e12]),
    st.integers(1, 6),
)
@example([], [2.2e-313, 0.0, 0.0, 0.0, 0.0, 0.0], 0.0, 1)
@settings(max_examples=60, deadline=None)
def test_a_choice_is_a_ranking_with_a_probability(
    rewards: list[tuple[int, float]], costs: list[float], pressure: float, count: int
) -> None:
    bandit = Bandit()
    for step, (arm, reward) in enumerate(rewards):
        bandit.learn(HERE, str(arm), reward, now=float(step), cost=1.0, expected_cost=2.0)
    among = [Arm(str(one), costs[one]) for one in range(count)]
    choice = bandit.choose(HERE, among, rng=Random(1), now=100.0, pressure=pressure)
    assert sorted(choice.order) == [arm.id for arm in among]
    assert 0.0 < choice.probability <= 1.0 + 1e-9
    assert sum(choice.probabilities.values()) == pytest.approx(1.0)
    assert choice.scores.keys() == set(choice.order)


def test_few_and_many_arms_are_weighed_alike() -> None:
    bandit = Bandit()
    among = [Arm(f"m{one}", cost=1.0 + one % 5, latency_ms=100.0 + one, weight=one % 10) for one in range(MANY)]
    rng = Random(8)
    for step in range(2000):
        bandit.learn(HERE, f"m{step % (MANY - 5)}", rng.random() ** 0.3, now=float(step))
    for pressure in (0.0, 0.01):
        place = bandit._context(HERE)
        many = bandit._choose_many(place, among, rng, 2000.0, pressure)
        few = bandit.choose(HERE, among[:-1], rng=rng, now=2000.0, pressure=pressure)
        again = bandit._choose_many(place, among[:-1], rng, 2000.0, pressure)
        assert many.scores.keys() == {arm.id for arm in among}
        assert again.scores == pytest.approx(few.scores)
        for name, share in again.probabilities.items():
            assert few.probabilities[name] == pytest.approx(share, rel=1e-6)
        assert again.expected_cost == pytest.approx(few.expected_cost)


def test_many_arms_follow_what_is_learned_between_two_choices() -> None:
    bandit = Bandit(FREE)
    among = arms(*(f"m{one}" for one in range(200)))
    for step, arm in enumerate(among * 30):
        bandit.learn(HERE, arm.id, 0.5 + 0.1 * (step % 2), now=float(step))
    bandit.choose(HERE, among, rng=Random(1), now=6000.0)
    for step in range(30):
        bandit.learn(HERE, "m77", 1.0, now=6000.0 + step)
    assert picks(bandit, among, now=6030.0, count=50)["m77"] > 0.5


# -- costs, floor, new arms -------------------------------------------------------------------------------------------
def test_of_equal_arms_the_cheaper_is_chosen() -> None:
    bandit = taught({"dear": 0.8, "cheap": 0.8}, rewards=3000, config=Settings(cost_weight=0.05))
    assert picks(bandit, [Arm("dear", 10.0), Arm("cheap", 1.0)], now=180_000.0)["cheap"] > 0.9


def test_pressure_moves_choices_to_cheaper_arms_step_by_step() -> None:
    bandit = taught({"best": 0.9, "middle": 0.8, "least": 0.6}, rewards=400)
    among = [Arm("best", 10.0), Arm("middle", 3.0), Arm("least", 0.1)]
    costs = [
        bandit.choose(HERE, among, rng=Random(1), now=24_000.0, pressure=pressure).expected_cost
        for pressure in (1e-6, 0.01, 0.03, 0.1, 0.3, 1e6)
    ]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(costs))
    assert costs[0] == pytest.approx(10.0, rel=0.02)
    assert costs[-1] == pytest.approx(0.1, rel=0.01)


def test_what_calls_really_cost_corrects_what_they_were_expected_to() -> None:
    bandit = Bandit(FREE)
    for step in range(200):
        bandit.learn(HERE, "thinks long", 0.8, now=float(step), cost=8.0, expected_cost=1.0)
        bandit.learn(HERE, "brief", 0.8, now=float(step), cost=1.0, expected_cost=1.0)
    among = arms("thinks long", "brief", cost=1.0)
    assert bandit.choose(HERE, among, rng=Random(1), now=200.0, pressure=0.05).order[0] == "brief"


def test_the_expected_loss_against_the_best_arm_stays_within_the_margin() -> None:
    for margin in (0.0, 0.005, 0.02):
        config = Settings(margin=margin, cost_weight=0.3, trial_size=5)
        bandit = taught({"best": 0.9, "cheap": 0.75}, rewards=200, config=config)
        choice = bandit.choose(HERE, [Arm("best", 10.0), Arm("cheap", 0.1)], rng=Random(1), now=12_000.0)
        best, cheap = (bandit.posterior(HERE, Arm(name), 12_000.0).mean for name in ("best", "cheap"))
        expected = sum(choice.probabilities[name] * value for name, value in (("best", best), ("cheap", cheap)))
        assert expected == pytest.approx(best * (1 - margin), abs=1e-6)


def test_a_new_arm_gets_its_share_and_no_more_until_its_rewards_settle() -> None:
    config = Settings(cost_weight=0.0, trial_share=0.1, trial_size=10)
    bandit = taught({"old": 0.8, "other": 0.7}, rewards=200, config=config)
    among = arms("old", "other", "new")
    rng = Random(6)
    drawn = [bandit.choose(HERE, among, rng=rng, now=12_000.0).order[0] for _ in range(1000)]
    assert drawn[:100].count("new") >= 3
    assert drawn.count("new") < 25  # ten on trial, and hardly any while none of them has settled


def test_a_thousand_new_arms_do_not_crowd_out_the_known_ones() -> None:
    bandit = taught({"old": 0.8}, rewards=200)
    among = arms("old", *(f"new{one}" for one in range(999)))
    assert picks(bandit, among, now=12_000.0, count=200)["old"] > 0.8


def test_a_new_arm_that_is_better_takes_over() -> None:
    bandit = Bandit(FREE)
    play(bandit, {"a": 0.7, "b": 0.6}, requests=800, seed=1)
    assert play(bandit, {"a": 0.7, "b": 0.6, "new": 0.95}, requests=800, seed=2, began=800) > 0.88


def test_a_capable_arm_is_expected_to_be_better_before_anything_is_known() -> None:
    among = [Arm("able", weight=10), Arm("less", weight=1)]
    choice = Bandit(replace(FREE, margin=1.0)).choose(HERE, among, rng=Random(1), now=0.0)
    assert choice.probabilities["able"] > choice.probabilities["less"]


def test_there_must_be_an_arm() -> None:
    with pytest.raises(ValueError, match="no arm"):
        Bandit().choose(HERE, [], rng=Random(1), now=0.0)


# -- late and revised rewards -----------------------------------------------------------------------------------------
def test_a_revised_reward_is_as_if_it_had_come_at_first() -> None:
    once, twice = Bandit(FREE), Bandit(FREE)
    for bandit in (once, twice):
        for step in range(20):
            bandit.learn(HERE, "a", 0.5 + 0.02 * step, now=float(step))
    once.learn(HERE, "a", 0.1, now=5000.0, at=100.0)
    twice.learn(HERE, "a", 0.9, now=200.0, at=100.0)
    twice.learn(HERE, "a", 0.1, now=5000.0, at=100.0, previous=0.9)
    one, other = (bandit.posterior(HERE, Arm("a"), 5000.0) for bandit in (once, twice))
    assert one.mean == pytest.approx(other.mean, abs=2e-3)


def test_old_evidence_counts_less() -> None:
    fresh, stale = taught({"a": 0.8, "b": 0.8}), taught({"a": 0.8, "b": 0.8})
    year = 365 * 86_400.0
    for step in range(40):
        fresh.learn(HERE, "b", 0.0, now=year, at=year)
        stale.learn(HERE, "b", 0.0, now=year, at=3600.0 + step)
    among = Arm("b")
    assert stale.posterior(HERE, among, year).mean > fresh.posterior(HERE, among, year).mean + 0.1


@pytest.mark.parametrize("reward", [-0.1, 1.1, math.nan])
def test_a_reward_is_from_0_to_1(reward: float) -> None:
    with pytest.raises(ValueError, match="reward"):
        Bandit().learn(HERE, "a", reward, now=0.0)


# -- sharing ----------------------------------------------------------------------------------------------------------
events = st.lists(
    st.tuples(
        st.sampled_from([HERE, THERE, HERE._replace(tag="x")]),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0, 1),
        st.floats(0, 10 * 86_400.0),
    ),
    max_size=25,
)


def flat(state: State) -> dict[tuple[str, ...], list[float]]:
    found: dict[tuple[str, ...], Sums] = {("arm", name): sums for name, sums in state.arms.items()}
    found |= {("context", name): sums for name, sums in state.contexts.items()}
    found |= {("cell", key, name): sums for key, cells in state.cells.items() for name, sums in cells.items()}
    if state.noise is not None:
        found["noise",] = state.noise
    return {
        key: [sums.at, *sums.count, *sums.total, *sums.square, sums.cost, sums.expected] for key, sums in found.items()
    }


def same(one: State, other: State) -> bool:
    left, right = flat(one), flat(other)
    return left.keys() == right.keys() and all(left[key] == pytest.approx(right[key], abs=1e-9) for key in left)


@given(st.lists(events, min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_what_workers_learned_adds_up_in_any_order(parts: list[list[tuple[Context, str, float, float]]]) -> None:
    deltas = []
    for part in parts:
        worker = Bandit()
        for context, arm, reward, now in part:
            worker.learn(context, arm, reward, now=now, cost=0.2, expected_cost=0.1)
        deltas.append(worker.deltas())
    exports = []
    for order in itertools.permutations(deltas):
        whole = Bandit()
        for one in order:
            whole.merge(one)
        exports.append(whole.export())
    assert all(same(exports[0], one) for one in exports[1:])


def test_a_worker_chooses_by_what_the_others_learned() -> None:
    teacher, pupil = taught({"good": 0.9, "bad": 0.2}), Bandit(FREE)
    pupil.merge(msgspec.json.decode(msgspec.json.encode(teacher.deltas()), type=State))
    assert picks(pupil, arms("good", "bad"), now=3600.0)["good"] > 0.95


def test_deltas_are_handed_out_once_and_do_not_echo() -> None:
    bandit = taught({"a": 0.9})
    first = bandit.deltas()
    bandit.merge(taught({"b": 0.5}).deltas())
    assert first.arms.keys() == {"a"}
    assert not bandit.deltas().arms


def test_a_restart_changes_no_choice() -> None:
    before = taught({"a": 0.8, "b": 0.75, "c": 0.3}, rewards=30)
    after = Bandit(FREE, msgspec.json.decode(msgspec.json.encode(before.export()), type=State))
    among = arms("a", "b", "c")
    for seed in range(20):
        one, other = (bandit.choose(HERE, among, rng=Random(seed), now=1800.0) for bandit in (before, after))
        assert one.order == other.order
        assert one.probabilities == pytest.approx(other.probabilities)


def test_what_was_learned_with_other_windows_still_counts() -> None:
    state = taught({"good": 0.9, "bad": 0.2}, config=Settings(windows=2)).export()
    bandit = Bandit(replace(FREE, windows=5), state)
    assert picks(bandit, arms("good", "bad"), now=3600.0)["good"] > 0.9


def test_unix_times_are_no_trouble() -> None:
    bandit = Bandit(FREE)
    for step in range(50):
        bandit.learn(HERE, "good", 0.9, now=1.79e9 + step)
        bandit.learn(HERE, "bad", 0.2, now=1.79e9 + step)
    assert picks(bandit, arms("good", "bad"), now=1.79e9 + 60)["good"] > 0.95


def test_numpy_is_not_imported_for_a_few_arms() -> None:
    script = (
        "import sys; from random import Random; from routing.bandit import *\n"
        "bandit = Bandit(); bandit.learn(Context(), 'a', 1.0, now=0.0)\n"
        "bandit.choose(Context(), [Arm('a'), Arm('b')], rng=Random(1), now=1.0)\n"
        "assert 'numpy' not in sys.modules and 'django' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=30)


# -- rewards ----------------------------------------------------------------------------------------------------------
def test_a_reward_tells_what_it_is_made_of() -> None:
    reward = compose({"success": 1.0, "feedback": 0.5, "judge": None}, RewardWeights(success=1.0, feedback=3.0))
    assert reward is not None
    assert reward.value == pytest.approx(0.625)
    assert [(part.name, part.share) for part in reward.parts] == [("success", 0.25), ("feedback", 0.75)]


def test_a_failed_call_is_worth_nothing_however_fast() -> None:
    reward = compose({"success": 0.0, "latency": 1.0, "cost": 1.0}, RewardWeights(cost=1.0))
    assert reward is not None
    assert reward.value == 0.0


def test_nothing_known_is_no_reward() -> None:
    assert compose({"judge": None}, RewardWeights()) is None


@pytest.mark.parametrize("parts", [{"charm": 1.0}, {"success": 2.0}, {"judge": math.nan}])
def test_what_is_no_part_of_a_reward_is_refused(parts: dict[str, float | None]) -> None:
    with pytest.raises(ValueError, match="no part"):
        compose(parts, RewardWeights())


@given(
    st.dictionaries(
        st.sampled_from(["success", "latency", "feedback", "validity", "judge"]), st.floats(0, 1), min_size=1
    )
)
def test_a_reward_lies_between_its_parts(parts: dict[str, float]) -> None:
    reward = compose(dict(parts), RewardWeights())
    assert reward is not None
    assert sum(part.share for part in reward.parts) == pytest.approx(1.0)
    assert reward.value == pytest.approx(sum(part.value * part.share for part in reward.parts))
    assert min([*parts.values(), 0.0]) - 1e-9 <= reward.value <= max(parts.values()) + 1e-9


def test_thrift_falls_with_the_amount() -> None:
    assert [thrift(amount, 10.0) for amount in (0.0, 10.0, 30.0)] == pytest.approx([1.0, 0.5, 0.25])
