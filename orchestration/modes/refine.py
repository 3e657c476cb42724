"""An answer that its model improves, so often as is asked: until it says that nothing is left to improve, or repeats
itself. A round that fails leaves the text as it was. Pure."""

from __future__ import annotations

import re
from typing import Final

from orchestration.steps import (
    Calls,
    Directive,
    Failed,
    Leg,
    LegResult,
    Mode,
    Results,
    Step,
    Turn,
    done,
    filled,
    thoughtless,
)

DONE: Final = "DONE"
_MARKUP: Final = re.compile(r"[\s*_`\"'.!#>]+")


class Refine:
    name = "refine"
    default = 1
    least, most = 0, 10
    takes_tools = False

    def step(self, run: Directive, results: Results) -> Step:
        best = results.get("draft")
        if best is None:
            return Calls([_leg(run, "draft", run.primary)])
        if best.error is not None:
            return Failed(best.error)
        rounds = 0
        for number in range(1, run.iterations + 1):
            refined = results.get(f"refine-{number}")
            if refined is None:
                prompt = run.prompts["refine.improve_form" if run.has_form else "refine.improve"]
                turns = [Turn("assistant", thoughtless(best.text)), Turn("user", filled(prompt, done=DONE))]
                return Calls([_leg(run, f"refine-{number}", run.review or run.primary or best.model, turns)])
            if refined.error is not None:
                break
            rounds += 1
            if (not run.has_form and says_done(refined.text)) or is_same(refined, best):
                break
            best = refined
        answer = {"refined_response": best.text, "iterations": rounds, "model": best.model}
        return done(results, best, answer)


def _leg(run: Directive, name: str, model: str, turns: list[Turn] = []) -> Leg:  # noqa: B006  it is not changed
    is_review = bool(turns) and bool(run.review)
    return Leg(
        name,
        "refiner" if turns else "planner",
        model=model,
        profile=run.profile,
        min_weight=run.review_min_weight if is_review else run.primary_min_weight,
        turns=turns,
        has_form=run.has_form,
    )


def says_done(text: str) -> bool:
    """The word alone, in whatever markup; or on the first line, before a repetition."""
    first, _, _ = thoughtless(text).partition("\n")
    return _MARKUP.sub("", first).upper() == DONE


def is_same(one: LegResult, other: LegResult) -> bool:
    return thoughtless(one.text).split() == thoughtless(other.text).split()


MODE: Final[Mode] = Refine()
