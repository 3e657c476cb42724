"""One call with the weight profile `planning`; the answer is the provider's body. Pure."""

from __future__ import annotations

from typing import Final

from orchestration.steps import Calls, Directive, Done, Failed, Leg, Mode, Results, Step, ended_early


class Planning:
    name = "planning"
    default = least = 0
    most = 10
    takes_tools = True

    def step(self, run: Directive, results: Results) -> Step:
        plan = results.get("plan")
        if plan is None:
            return Calls([
                Leg(
                    "plan",
                    "planner",
                    model=run.primary,
                    profile=run.profile or "planning",
                    min_weight=run.primary_min_weight,
                    has_form=run.has_form,
                )
            ])  # fmt: skip
        if plan.error is not None:
            return Failed(plan.error)
        return Done(plan.body, plan.name, ended_early(results))


MODE: Final[Mode] = Planning()
