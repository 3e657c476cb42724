"""The modes as pure step machines: which calls they want, what they make of the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.modes.refine import says_done
from orchestration.modes.vote import chosen, shuffled
from orchestration.prompts import BUILT_IN
from orchestration.registry import MODES
from orchestration.steps import (
    Calls,
    Directive,
    Done,
    Failed,
    Leg,
    LegError,
    LegResult,
    Seat,
    Step,
    filled,
)

Say = Callable[[Leg], LegResult]
BROKEN = LegError("upstream_error", "It broke.")
NO_MONEY = LegError("budget_exceeded", "It is spent.", 429, stopped_by="money")
MISFIT = LegError("output_schema_mismatch", "It does not fit.", 422)


def directive(mode: str, **fields: Any) -> Directive:
    given = {"iterations": MODES[mode].default, "prompts": dict(BUILT_IN), "seed": 7, **fields}
    if mode == "vote":
        given.setdefault("seats", [Seat(f"m{number}", [f"spare{number}"]) for number in range(1, 4)])
    return Directive(mode=mode, **given)


def says(leg: Leg, text: str) -> LegResult:
    return LegResult(leg.name, leg.role, text, model=leg.model or f"router's {leg.role}")


def fails(leg: Leg, error: LegError = BROKEN) -> LegResult:
    return LegResult(leg.name, leg.role, model=leg.model, error=error)


def echo(leg: Leg) -> LegResult:
    return says(leg, f"text of {leg.name}")


def but(**others: str | LegError) -> Say:
    """As `echo`, but for legs named otherwise (with _ for -)."""

    def say(leg: Leg) -> LegResult:
        other = others.get(leg.name.replace("-", "_"))
        if isinstance(other, LegError):
            return fails(leg, other)
        return says(leg, other) if other is not None else echo(leg)

    return say


def played(run: Directive, say: Say = echo) -> tuple[Step, list[list[Leg]], dict[str, LegResult]]:
    """To its end; the batches of calls on the way."""
    results: dict[str, LegResult] = {}
    batches: list[list[Leg]] = []
    mode = MODES[run.mode]
    while isinstance(step := mode.step(run, results), Calls):
        assert step.legs
        assert all(leg.name not in results for leg in step.legs)
        batches.append(step.legs)
        results |= {leg.name: say(leg) for leg in step.legs}
        assert len(batches) < 30
    return step, batches, results


def answer_of(run: Directive, say: Say = echo) -> dict[str, Any]:
    step, _, _ = played(run, say)
    assert isinstance(step, Done)
    answer: dict[str, Any] = msgspec.json.decode(step.response)
    assert step.is_partial == answer.get("partial", False)
    return answer


def names(run: Directive, say: Say = echo) -> list[list[str]]:
    return [[leg.name for leg in batch] for batch in played(run, say)[1]]


def test_every_mode_is_found_by_its_name() -> None:
    assert set(MODES) == {"planning", "adversarial", "vote", "refine"}


# -- adversarial -----------------------------------------------------------------------------------------------------
def test_a_plan_is_criticised_and_refined_so_often_as_is_asked() -> None:
    assert names(directive("adversarial")) == [["plan"], ["critique-1"], ["refine-1"]]
    run = directive("adversarial", iterations=2)
    assert names(run)[3:] == [["critique-2"], ["refine-2"]]
    assert answer_of(run) == {
        "initial_plan": "text of plan",
        "critique": "text of critique-2",
        "refined_plan": "text of refine-2",
        "rounds": [
            {"critique": "text of critique-1", "refined_plan": "text of refine-1"},
            {"critique": "text of critique-2", "refined_plan": "text of refine-2"},
        ],
    }


def test_the_critic_sees_the_newest_plan_and_the_refiner_the_critique() -> None:
    _, batches, _ = played(directive("adversarial", iterations=2))
    critic, refiner = batches[3][0], batches[4][0]
    assert critic.turns[0].content == "text of refine-1"
    assert refiner.turns[0].content == "text of refine-1"
    assert "text of critique-2" in refiner.turns[1].content


def test_the_critic_is_another_model_if_there_is_one() -> None:
    critic = played(directive("adversarial"))[1][1][0]
    assert (critic.without, critic.if_possible) == (["router's planner"], True)


def test_named_models_and_floors_go_to_their_roles() -> None:
    run = directive("adversarial", primary="a", review="b", primary_min_weight=4, review_min_weight=6)
    legs = [batch[0] for batch in played(run)[1]]
    assert [(leg.model, leg.min_weight) for leg in legs] == [("a", 4), ("b", 6), ("a", 4)]


@pytest.mark.parametrize("iterations", [0, 3])
def test_the_plan_alone_takes_one_call(iterations: int) -> None:
    run = directive("adversarial", iterations=iterations, plan_only=True)
    assert names(run) == [["plan"]]
    assert answer_of(run) == {"initial_plan": "text of plan"}


def test_without_iterations_the_plan_is_the_refined_one() -> None:
    answer = answer_of(directive("adversarial", iterations=0))
    assert (answer["refined_plan"], answer["rounds"]) == ("text of plan", [])


@pytest.mark.parametrize(
    ("say", "refined", "rounds", "partial"),
    [
        (but(critique_1=BROKEN), "text of plan", [{"error": "upstream_error"}], False),
        (but(critique_1=NO_MONEY), "text of plan", [{"error": "budget_exceeded"}], True),
        (but(refine_1=BROKEN), "text of plan", [{"critique": "text of critique-1", "error": "upstream_error"}], False),
    ],
)
def test_what_fails_leaves_the_plan(say: Say, refined: str, rounds: list[Any], partial: bool) -> None:
    answer = answer_of(directive("adversarial", iterations=2), say)
    assert (answer["refined_plan"], answer["rounds"], answer.get("partial", False)) == (refined, rounds, partial)


def test_a_plan_that_fails_fails_the_run() -> None:
    assert played(directive("adversarial"), but(plan=BROKEN))[0] == Failed(BROKEN)


def test_only_the_last_text_must_have_the_form_and_a_misfit_fails_the_run() -> None:
    run = directive("adversarial", iterations=2, has_form=True)
    step, batches, _ = played(run, but(refine_2=MISFIT))
    assert [batch[0].name for batch in batches if batch[0].has_form] == ["refine-2"]
    assert step == Failed(MISFIT)
    plan = played(directive("adversarial", has_form=True, plan_only=True))[1][0][0]
    assert plan.has_form


def test_thoughts_are_not_shown_to_the_next_model() -> None:
    _, batches, _ = played(directive("adversarial"), but(plan="<think>hm</think>The plan."))
    assert batches[1][0].turns[0].content == "The plan."


# -- refine ----------------------------------------------------------------------------------------------------------
def test_a_text_is_refined_so_often_as_is_asked_by_its_own_model() -> None:
    run = directive("refine", iterations=2)
    assert names(run) == [["draft"], ["refine-1"], ["refine-2"]]
    assert played(run)[1][1][0].model == "router's planner"
    assert answer_of(run) == {
        "refined_response": "text of refine-2", "iterations": 2, "model": "router's planner",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["DONE", "done.", "**DONE**", "`DONE`\n", "<think>fine</think>DONE", "DONE\n\nAll of it"]
)
def test_it_ends_when_the_model_says_so(text: str) -> None:
    run = directive("refine", iterations=5)
    answer = answer_of(run, but(refine_2=text))
    assert (answer["refined_response"], answer["iterations"]) == ("text of refine-1", 2)


@pytest.mark.parametrize("text", ["Done with the first step, I went on.", "It is done", "", "UNDONE"])
def test_other_words_are_no_end(text: str) -> None:
    assert not says_done(text)


def test_it_ends_when_the_text_changes_no_more() -> None:
    answer = answer_of(directive("refine", iterations=5), but(draft="one  two\n", refine_1="one two"))
    assert (answer["refined_response"], answer["iterations"]) == ("one  two\n", 1)


def test_in_a_form_the_word_that_ends_it_is_an_answer_like_any_other() -> None:
    run = directive("refine", iterations=2, has_form=True)
    assert names(run, but(refine_1="DONE")) == [["draft"], ["refine-1"], ["refine-2"]]


@pytest.mark.parametrize(("error", "partial"), [(BROKEN, False), (NO_MONEY, True), (MISFIT, False)])
def test_a_round_that_fails_keeps_the_last_text(error: LegError, partial: bool) -> None:
    answer = answer_of(directive("refine", iterations=3), but(refine_2=error))
    assert (answer["refined_response"], answer["iterations"]) == ("text of refine-1", 1)
    assert answer.get("partial", False) is partial


# -- vote ------------------------------------------------------------------------------------------------------------
def verdict(run: Directive, model: str) -> str:
    """What a judge says who prefers that model's answer."""
    place = [seat.model for seat in run.seats].index(model)
    return f'{{"reason": "it is best", "selected": "{"ABC"[shuffled(3, run.seed).index(place)]}"}}'


def test_voters_are_asked_side_by_side_and_then_the_judge() -> None:
    run = directive("vote", judge="j")
    _, batches, _ = played(run)
    assert [[leg.name for leg in batch] for batch in batches] == [["voter-1", "voter-2", "voter-3"], ["judge"]]
    assert [leg.only for leg in batches[0]] == [["m1", "spare1"], ["m2", "spare2"], ["m3", "spare3"]]
    assert {"m1", "m2", "m3"} <= set(batches[1][0].without)
    assert batches[1][0].model == "j"


@pytest.mark.parametrize("preferred", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_judges_choice_is_found_behind_its_label(preferred: int, seed: int) -> None:
    run = directive("vote", judge="j", seed=seed)
    answer = answer_of(run, but(judge=verdict(run, f"m{preferred}")))
    assert answer["selected"] == preferred - 1
    assert [one["selected"] for one in answer["responses"]] == [place == preferred - 1 for place in range(3)]
    assert (answer["judge"], answer["judge_parsed"]) == ("j", True)


def test_candidates_stand_in_the_order_that_the_seed_gives() -> None:
    orders = {tuple(shuffled(3, seed)) for seed in range(60)}
    assert len(orders) == 6
    asked = played(directive("vote", seed=3))[1][1][0].turns[0].content
    places = [asked.index(f"text of voter-{place + 1}") for place in shuffled(3, 3)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"reason": "clear", "selected": "B"}', "B"),
        ('```json\n{"selected": "b"}\n```', "B"),
        ('<think>A or C?</think>{"selected": " C "}', "C"),
        ('I compared them. {"selected": "A"} That is all.', "A"),
        ("B", "B"),
        ("**C**", "C"),
        ("The best answer is candidate A.", "A"),
        ("Answer: B", "B"),
        ('{"selected": "D"}', ""),
        ('{"selected": "A or B"}', ""),
        ('{"selected": ["A"]}', ""),
        ('{"selected": null}', ""),
        ('{"selected": 1}', ""),
        ('["A"]', ""),
        ("A tie between A and B", ""),
        ("I like both", ""),
        ("D", ""),
        ("", ""),
    ],
)
def test_a_verdict_is_read_strictly_and_else_a_lone_label(text: str, label: str) -> None:
    assert chosen(text, "ABC") == label


@pytest.mark.parametrize("said", ["A tie, I would say", BROKEN])
def test_without_a_verdict_the_first_ranked_voter_wins(said: str | LegError) -> None:
    answer = answer_of(directive("vote"), but(judge=said))
    assert (answer["selected"], answer["judge_parsed"]) == (0, False)
    assert answer["judge"] == (None if isinstance(said, LegError) else "router's judge")
    assert answer.get("judge_error") == ("upstream_error" if isinstance(said, LegError) else None)


def test_a_failed_voter_does_not_fail_the_vote() -> None:
    answer = answer_of(directive("vote"), but(voter_1=BROKEN, judge="nothing to be read"))
    assert [one["model"] for one in answer["responses"]] == ["m2", "m3"]
    assert answer["failed"] == [{"model": "m1", "error": "upstream_error"}]
    assert answer["selected"] == 0


def test_a_lone_answer_needs_no_judge() -> None:
    run = directive("vote")
    say = but(voter_1=BROKEN, voter_3=NO_MONEY)
    assert names(run, say) == [["voter-1", "voter-2", "voter-3"]]
    answer = answer_of(run, say)
    assert (answer["judge"], "judge_parsed" in answer, answer["partial"]) == (None, False, True)


def test_voters_that_all_fail_fail_the_vote() -> None:
    assert played(directive("vote"), but(voter_1=BROKEN, voter_2=MISFIT, voter_3=BROKEN))[0] == Failed(MISFIT)


# -- all of them -----------------------------------------------------------------------------------------------------
errors = st.sampled_from([BROKEN, NO_MONEY, MISFIT])
said = st.one_of(st.text(max_size=40), st.sampled_from(["DONE", '{"selected": "A"}', "same", "same"]), errors)
runs = st.builds(
    directive,
    st.sampled_from(sorted(MODES)),
    iterations=st.integers(2, 10),
    seed=st.integers(0, 1 << 60),
    plan_only=st.booleans(),
    has_form=st.booleans(),
    primary=st.sampled_from(["", "p"]),
    review=st.sampled_from(["", "r"]),
)


@settings(max_examples=50)
@given(runs, st.lists(said, min_size=30, max_size=30))
def test_a_run_ends_and_can_be_taken_up_at_any_step(run: Directive, script: list[str | LegError]) -> None:
    """Its data goes through JSON between any two steps, and the same results lead to the same next calls."""
    texts = iter(script)

    def say(leg: Leg) -> LegResult:
        one = next(texts)
        return fails(leg, one) if isinstance(one, LegError) else says(leg, one)

    step, batches, results = played(run, say)
    assert isinstance(step, Done | Failed)
    mode, known = MODES[run.mode], dict[str, LegResult]()
    for batch in batches:
        again = msgspec.json.decode(msgspec.json.encode(run), type=Directive)
        kept = msgspec.json.decode(msgspec.json.encode(known), type=dict[str, LegResult])
        assert mode.step(again, kept) == Calls(batch)
        for leg in batch:
            assert msgspec.json.decode(msgspec.json.encode(leg), type=Leg) == leg
            known[leg.name] = results[leg.name]
    assert mode.step(run, known) == step


def test_a_text_that_a_model_wrote_is_never_taken_for_a_place_in_a_prompt() -> None:
    assert filled("{{a}} {{b}}", a="{{b}}", b="x") == "{{b}} x"


def test_every_prompt_has_the_places_that_its_mode_fills() -> None:
    for run in (directive("adversarial"), directive("refine"), directive("refine", has_form=True), directive("vote")):
        for batch in played(run)[1]:
            for leg in batch:
                assert "{{" not in leg.system + "".join(turn.content for turn in leg.turns)
