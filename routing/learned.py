"""What the mode thompson has learned, for people: the estimate of each model's mean reward as a curve, overall or in
one context. Reads what all workers wrote down; learners themselves belong to their event loops. Synchronous Django."""

from __future__ import annotations

from math import exp, lgamma, log, sqrt
from typing import Final, NamedTuple

import msgspec

from routing.bandit import Arm, Bandit, Context, Posterior, State
from routing.models import BanditDelta, Model

CONTEXTS: Final = 40
POINTS: Final = 60
Z_95: Final = 1.959964
_state = msgspec.json.Decoder(State).decode


class Place(NamedTuple):
    """A context. `rewards`: how many count by now; older ones fade."""

    key: str
    label: str
    rewards: float


class Estimate(NamedTuple):
    """Of a model's mean reward. `rewards`: that count overall by now; `here`: in the context."""

    model_id: str
    mean: float
    low: float
    high: float
    rewards: float
    here: float
    posterior: Posterior


class Learned(NamedTuple):
    """`estimates`: the best first. `context`: the one that was asked for, or None."""

    estimates: list[Estimate]
    contexts: list[Place]
    context: Place | None


def learned(*, now: float, key: str = "") -> Learned:
    """`key`: of a context; one that nothing is known of, or none: overall. Raises DatabaseError."""
    bandit = Bandit()
    for payload in BanditDelta.objects.order_by("pk").values_list("payload", flat=True):
        try:
            bandit.merge(_state(payload.encode()))
        except msgspec.MsgspecError:  # the learner's log says so
            continue
    state = bandit.export()
    places = sorted(
        (Place(one, _label(one), sums.count[0]) for one, sums in state.contexts.items()),
        key=lambda place: (-place.rewards, place.key),
    )
    chosen = next((place for place in places if place.key == key), None)
    context = Context(*key.split("|")) if chosen is not None else Context(*[""] * len(Context._fields))
    own = state.cells.get(key, {}) if chosen is not None else {}
    found = []
    for model_id, weight in Model.objects.filter(enabled=True, provider__enabled=True).values_list("pk", "weight"):
        posterior = bandit.posterior(context, Arm(model_id, weight=weight), now)
        reach = Z_95 * _deviation(posterior)
        sums, here = state.arms.get(model_id), own.get(model_id)
        found.append(
            Estimate(
                model_id,
                posterior.mean,
                max(posterior.mean - reach, 0.0),
                min(posterior.mean + reach, 1.0),
                sums.count[0] if sums is not None else 0.0,
                here.count[0] if here is not None else 0.0,
                posterior,
            )
        )
    found.sort(key=lambda one: (-one.mean, one.model_id))
    return Learned(found, places[:CONTEXTS], chosen)


def _label(key: str) -> str:
    size, abilities, task, language, turns, tag = key.split("|")
    told = [size, f"with {abilities}" if abilities else "", f"“{task}”" if task else "", language]
    told += [f"{turns} turn{'' if turns == '1' else 's'}", f"project {tag}" if tag else ""]
    return ", ".join(one for one in told if one)


def _deviation(one: Posterior) -> float:
    whole = one.alpha + one.beta
    return sqrt(one.alpha * one.beta / (whole * whole * (whole + 1)))


def curve(one: Posterior, low: float, high: float) -> list[tuple[float, float]]:
    """Its density between the two as points from 0 to 1; the highest is 1. In logarithms: a steep one overflows."""
    places = [low + (high - low) * (step + 0.5) / POINTS for step in range(POINTS)]
    constant = lgamma(one.alpha + one.beta) - lgamma(one.alpha) - lgamma(one.beta)
    heights = [
        constant + (one.alpha - 1) * log(min(max(at, 1e-9), 1 - 1e-9)) + (one.beta - 1) * log(max(1 - at, 1e-9))
        for at in places
    ]
    top = max(heights)
    return [((step + 0.5) / POINTS, exp(height - top)) for step, height in enumerate(heights)]
