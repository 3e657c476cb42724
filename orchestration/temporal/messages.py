"""What workflow and activities tell each other. Of a run only what its steps need: the request stays in the database.
Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestration.plan import Plan
from orchestration.steps import Directive, Done, Failed, Leg

VERSION: Final = 1
"""Of `Begun`: a worker that is older leaves the run to others. A changed order of activities needs no new one, but
`workflow.patched`."""


class Begun(msgspec.Struct, frozen=True):
    """`has_ceiling`: legs that are called side by side share the run's money, so one activity calls them all."""

    run_id: str
    directive: Directive
    has_ceiling: bool
    version: int = VERSION

    @classmethod
    def of(cls, plan: Plan) -> Begun:
        return cls(plan.id, plan.directive, plan.ceiling is not None)


class Asked(msgspec.Struct, frozen=True):
    run_id: str
    legs: list[Leg]


class Ended(msgspec.Struct, frozen=True):
    """`legs`: in the order in which they were called."""

    run_id: str
    step: Done | Failed
    legs: list[str]


class Progress(msgspec.Struct, frozen=True):
    """Names of legs."""

    under_way: list[str]
    finished: list[str]


def workflow_id(run_id: str) -> str:
    return f"plan-{run_id}"
