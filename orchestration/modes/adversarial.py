"""A plan; then, so often as is asked, a critique of it by another model and a refined plan. A critique or a refinement
that fails leaves the plan as it is. Pure."""

from __future__ import annotations

from typing import Any, Final

from orchestration.steps import (
    MISMATCH,
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


class Adversarial:
    name = "adversarial"
    default = 1
    least, most = 0, 10
    takes_tools = False

    def step(self, run: Directive, results: Results) -> Step:
        wanted = 0 if run.plan_only else run.iterations
        plan = results.get("plan")
        if plan is None:
            return Calls([self._planner(run, is_final=not wanted)])
        if plan.error is not None:
            return Failed(plan.error)
        if run.plan_only:
            return done(results, plan, {"initial_plan": plan.text})
        best, critique, rounds = plan, "", list[dict[str, Any]]()
        for number in range(1, wanted + 1):
            review = results.get(f"critique-{number}")
            if review is None:
                return Calls([_critic(run, number, best)])
            if review.error is not None:
                rounds.append({"error": review.error.code})
                break
            critique = review.text
            refined = results.get(f"refine-{number}")
            if refined is None:
                return Calls([_refiner(run, number, best, review, is_final=number == wanted)])
            if refined.error is not None:
                if refined.error.code == MISMATCH:
                    return Failed(refined.error)
                rounds.append({"critique": critique, "error": refined.error.code})
                break
            best = refined
            rounds.append({"critique": critique, "refined_plan": refined.text})
        answer = {"initial_plan": plan.text, "critique": critique, "refined_plan": best.text, "rounds": rounds}
        return done(results, best, answer)

    @staticmethod
    def _planner(run: Directive, *, is_final: bool) -> Leg:
        return Leg(
            "plan",
            "planner",
            model=run.primary,
            profile=run.profile or "planning",
            min_weight=run.primary_min_weight,
            system=run.prompts["adversarial.plan"],
            has_form=run.has_form and is_final,
        )


def _critic(run: Directive, number: int, best: LegResult) -> Leg:
    return Leg(
        f"critique-{number}",
        "critic",
        model=run.review,
        profile="adversarial",
        min_weight=run.review_min_weight,
        turns=[
            Turn("assistant", thoughtless(best.text)),
            Turn("user", filled(run.prompts["adversarial.critique"])),
        ],
        without=[] if run.review else [best.model],
        if_possible=True,
    )


def _refiner(run: Directive, number: int, best: LegResult, review: LegResult, *, is_final: bool) -> Leg:
    asked = filled(run.prompts["adversarial.refine"], critique=thoughtless(review.text))
    return Leg(
        f"refine-{number}",
        "refiner",
        model=run.primary,
        profile=run.profile or "planning",
        min_weight=run.primary_min_weight,
        turns=[Turn("assistant", thoughtless(best.text)), Turn("user", asked)],
        has_form=run.has_form and is_final,
    )


MODE: Final[Mode] = Adversarial()
