"""What a run is made of, as plain data: what is asked, the calls that are due next, what came of each. A mode is a pure
function of these: whoever runs it, today or after a restart, gets the same next calls for the same results. Pure.

    mode.step(directive, results) ──▶ Calls: legs to be called now, side by side
                                  ──▶ Done: the answer
                                  ──▶ Failed: why there is none"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import msgspec
from msgspec import Raw

from routing.think import without_thoughts
from telemetry.journal import Attempt

Role = Literal["planner", "critic", "refiner", "voter", "judge", "assistant"]
StoppedBy = Literal["", "money", "time"]
MAX_ITERATIONS: Final = 10
MISMATCH: Final = "output_schema_mismatch"
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_encode = msgspec.json.Encoder().encode


class Seat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A voter's: the model that is asked, and those that may step in for it and for no other voter."""

    model: str
    spares: list[str] = []


class Directive(msgspec.Struct, frozen=True, omit_defaults=True):
    """`primary` and `review`: models that the client named, empty where the router decides. `profile`: the client's
    routing mode, empty for the mode's own. `has_form`: the final answer must have a form. `prompts`: the texts that
    were in force when the run began. `seed`: of whatever is left to chance."""

    mode: str
    iterations: int
    seed: int = 0
    primary: str = ""
    review: str = ""
    primary_min_weight: int | None = None
    review_min_weight: int | None = None
    plan_only: bool = False
    has_form: bool = False
    profile: str = ""
    prompts: dict[str, str] = {}
    seats: list[Seat] = []
    judge: str = ""


class Turn(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant"]
    content: str


class Leg(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of a model: the client's conversation, with `system` said before it and `turns` after it.

    `model`: by name, else the router decides, in the mode `profile` and with `min_weight` where these are given.
    `only`: nobody else; `without`: these not, unless nobody else is left and `if_possible` is set.
    `has_form`: the client's form is demanded and checked. `schema`: is asked for, and not checked.
    `is_own`: the client's parameters are not passed on."""

    name: str
    role: Role
    model: str = ""
    profile: str = ""
    min_weight: int | None = None
    system: str = ""
    turns: list[Turn] = []
    only: list[str] = []
    without: list[str] = []
    if_possible: bool = False
    has_form: bool = False
    schema: dict[str, Any] = {}
    max_tokens: int | None = None
    is_own: bool = False


class LegError(msgspec.Struct, frozen=True, omit_defaults=True):
    """As the client would be told. `stopped_by`: no fault of a model's, but the run's money or time is at its end."""

    code: str
    message: str
    status: int = 502
    hint: str = ""
    param: str | None = None
    error_class: str = ""
    retry_after_seconds: float | None = None
    details: dict[str, Any] = {}
    stopped_by: StoppedBy = ""


class Delivered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chat's client is told of its answer, beside the answer. `headers`: those of the router, by name."""

    reason: str
    estimated_cost_nano: int | None = None
    headers: dict[str, str] = {}


class LegResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a leg. `body`: the provider's whole answer in OpenAI chat form. `is_cut`: money allowed no more of
    the text. `request_id`: of its row in the request log. `cost_nano`: in nano-dollars, of all that was asked for it;
    None without prices."""

    name: str
    role: str
    text: str = ""
    body: Raw = Raw(b"null")
    model: str = ""
    provider: str = ""
    request_id: str = ""
    cost_nano: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    latency_ms: int = 0
    attempts: list[Attempt] = []
    is_cut: bool = False
    error: LegError | None = None
    delivered: Delivered | None = None


class Calls(msgspec.Struct, frozen=True, tag="calls"):
    legs: list[Leg]


class Done(msgspec.Struct, frozen=True, tag="done", omit_defaults=True):
    """`response`: as the client gets it. `by`: the leg that gave the answer. `is_partial`: money or time ended it."""

    response: Raw
    by: str
    is_partial: bool = False


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    error: LegError


Step = Calls | Done | Failed
Results = Mapping[str, LegResult]


class Mode(Protocol):
    """`default`, `least`, `most`: iterations. `takes_tools`: the answer is the provider's, whatever is in it."""

    name: str
    default: int
    least: int
    most: int
    takes_tools: bool

    def step(self, run: Directive, results: Results) -> Step:
        """What is due after these results, which are in the order in which their legs were called."""


def done(results: Results, by: LegResult, response: dict[str, Any]) -> Done:
    is_partial = ended_early(results)
    return Done(Raw(_encode({**response, "partial": True} if is_partial else response)), by.name, is_partial)


def ended_early(results: Results) -> bool:
    return any(one.is_cut or (one.error is not None and one.error.stopped_by) for one in results.values())


def filled(template: str, **values: str) -> str:
    """The prompt with each `{{name}}` replaced; what is put in is not looked into."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def placeholders(template: str) -> set[str]:
    return set(_PLACE.findall(template))


def thoughtless(text: str) -> str:
    """For another model to read."""
    return without_thoughts(text).strip() or text.strip()
