"""Several models answer side by side, and another one, which is none of them, picks the best answer. Candidates stand
before the judge in an order that the seed shuffles, because judges like what comes first. Pure.

Where the judge says nothing that can be understood, or fails, the first-ranked voter that answered wins."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Final

import msgspec

from orchestration.steps import (
    MISMATCH,
    Calls,
    Directive,
    Failed,
    Leg,
    LegError,
    LegResult,
    Mode,
    Results,
    Step,
    Turn,
    done,
    filled,
    thoughtless,
)
from routing.shaping import Shape, check

LABELS: Final = "ABCDEFGHIJ"
JUDGE_TOKENS: Final = 2048
_LONE: Final = re.compile(
    r"\W*(?:(?:the|best|answer|candidate|option|response|selected|choice|winner|is)\b\W*)*([A-Za-z])\W*", re.IGNORECASE
)
_any = msgspec.json.Decoder().decode


class Vote:
    name = "vote"
    default = 3
    least, most = 2, 10
    takes_tools = False

    def step(self, run: Directive, results: Results) -> Step:
        if any(name not in results for name in _names(run)):
            return Calls([
                Leg(
                    name,
                    "voter",
                    model=seat.model,
                    profile=run.profile,
                    only=[seat.model, *seat.spares],
                    has_form=run.has_form,
                )
                for name, seat in zip(_names(run), run.seats, strict=True)
                if name not in results
            ])  # fmt: skip
        voters = [results[name] for name in _names(run)]
        answered = [one for one in voters if one.error is None]
        if not answered:
            return Failed(_gravest(voters))
        order = shuffled(len(answered), run.seed)
        choice: int | None = None
        judge = results.get("judge")
        if len(answered) > 1:
            if judge is None:
                return Calls([_judge(run, [answered[place] for place in order], voters)])
            if judge.error is None:
                label = chosen(judge.text, LABELS[: len(order)])
                choice = order[LABELS.index(label)] if label else None
        selected = choice or 0
        answer: dict[str, Any] = {
            "responses": [
                {"model": one.model, "content": one.text, "selected": place == selected}
                for place, one in enumerate(answered)
            ],
            "selected": selected,
            "judge": judge.model if judge is not None and judge.error is None else None,
        }
        if judge is not None:
            answer["judge_parsed"] = choice is not None
            if judge.error is not None:
                answer["judge_error"] = judge.error.code
        if failed := [one for one in voters if one.error is not None]:
            answer["failed"] = [{"model": one.model, "error": one.error.code} for one in failed if one.error]
        return done(results, answered[selected], answer)


def _names(run: Directive) -> list[str]:
    return [f"voter-{number}" for number in range(1, len(run.seats) + 1)]


def _gravest(voters: list[LegResult]) -> LegError:
    """The first; but what the models said goes before what kept them from it."""
    errors = [one.error for one in voters if one.error is not None]
    return next((one for one in errors if one.code == MISMATCH), errors[0])


def _judge(run: Directive, shown: list[LegResult], voters: list[LegResult]) -> Leg:
    labels = LABELS[: len(shown)]
    candidates = "\n\n".join(
        f"<candidate {label}>\n{thoughtless(one.text)}\n</candidate {label}>"
        for label, one in zip(labels, shown, strict=True)
    )
    asked = filled(run.prompts["vote.judge"], candidates=candidates, labels=", ".join(labels))
    return Leg(
        "judge",
        "judge",
        model=run.judge,
        profile="high_confidence",
        min_weight=run.review_min_weight,
        turns=[Turn("user", asked)],
        without=sorted({one.model for one in voters if one.model} | {one.model for one in run.seats}),
        schema={
            "type": "object",
            "properties": {"reason": {"type": "string"}, "selected": {"type": "string", "enum": list(labels)}},
            "required": ["reason", "selected"],
            "additionalProperties": False,
        },
        max_tokens=JUDGE_TOKENS,
        is_own=True,
    )


def shuffled(count: int, seed: int) -> list[int]:
    """The same for the same seed, in every version of Python."""
    return sorted(range(count), key=lambda place: sha256(b"%d:%d" % (seed, place)).digest())


def chosen(text: str, labels: str) -> str:
    """The label that the judge gave; empty where it gave none, two, or one that is not there."""
    checked = check(Shape("json"), text)
    if not checked.problems:
        value = _any(checked.text)
        picked = value.get("selected") if isinstance(value, dict) else None
        return _label(picked, labels) if isinstance(picked, str) else ""
    lone = _LONE.fullmatch(thoughtless(text))
    return _label(lone[1], labels) if lone is not None else ""


def _label(text: str, labels: str) -> str:
    label = text.strip().upper()
    return label if len(label) == 1 and label in labels else ""


MODE: Final[Mode] = Vote()
