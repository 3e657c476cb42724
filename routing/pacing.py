"""Spends a budget evenly over its period: the price of money, in points of reward per unit of cost, that makes the
router's choices cost what is left for each request. Pure: `spent` and `elapsed` are arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

UNLIMITED: Final = 1e12  # a pressure under which only cost counts


@dataclass(frozen=True, slots=True)
class PaceSettings:
    step: float = 0.02  # of the multiplier's logarithm, per request that costs twice what it may
    first_points: float = 0.005  # points that a request of average allowance gives up, to begin with
    correction: float = 60.0  # how hard spending ahead of pace, as a share of the budget, is pushed back
    widest: float = 1.0  # largest change of the logarithm by one request
    start_share: float = 0.02  # of the period, in which the pace so far says nothing yet

    def __post_init__(self) -> None:
        if min(self.step, self.first_points, self.widest) <= 0 or self.correction < 0:
            raise ValueError("step, first_points and widest must be positive, correction not negative")


class Pace(msgspec.Struct):
    """What a pacer has learned: JSON through msgspec."""

    log_price: float | None = None
    requests: float = 0.0
    expected: float = 0.0


class Pacer:
    """Of one budget in one process. Dual ascent on the multiplier of the cost constraint: each decision's expected
    cost, known before the draw, moves it, so one dear request does not; what was spent corrects it."""

    def __init__(self, settings: PaceSettings | None = None, pace: Pace | None = None) -> None:
        self.settings = settings or PaceSettings()
        self.pace = pace or Pace()
        self._target = 0.0

    def pressure(self, *, spent: float, budget: float, elapsed: float, requests: float | None = None) -> float:
        """To choose under, in points per unit of cost. `elapsed`: the share of the period that is over, 0 to 1, by time
        or by usual traffic. `requests`: that are expected in the whole period; None: the rate so far goes on."""
        left = budget - spent
        if left <= 0.0 or elapsed >= 1.0:
            self._target = 0.0
            return UNLIMITED if left <= 0.0 else 0.0
        pace, settings = self.pace, self.settings
        if requests is not None:
            self._target = left / max(requests * (1.0 - elapsed), 1.0)
        elif pace.requests and pace.expected > 0.0 and spent > 0.0 and elapsed >= settings.start_share:
            # what may be spent per time from now on, against what was: so much dearer may a request be
            self._target = pace.expected / pace.requests * (left / (1.0 - elapsed)) / (spent / elapsed)
        elif pace.requests and elapsed > 0.0:
            self._target = left / (1.0 - elapsed) / (pace.requests / elapsed)
        else:
            self._target = 0.0
        if pace.log_price is None:
            if self._target <= 0.0:
                return 0.0
            pace.log_price = math.log(settings.first_points / self._target)
        ahead = (spent - budget * elapsed) / budget
        lift = settings.correction * ahead / math.sqrt(max(1.0 - elapsed, 0.02))
        return min(math.exp(min(pace.log_price + min(max(lift, -6.0), 6.0), 27.0)), UNLIMITED)

    def note(self, expected_cost: float) -> None:
        """A decision under the last `pressure`, and what it is expected to cost (Choice.expected_cost)."""
        pace, settings = self.pace, self.settings
        pace.requests += 1.0
        pace.expected += expected_cost
        if self._target > 0.0 and pace.log_price is not None:
            change = settings.step * (expected_cost / self._target - 1.0)
            pace.log_price += min(max(change, -settings.widest), settings.widest)

    def begin(self) -> None:
        """A new period: the price stays, the counts start afresh."""
        self.pace = Pace(log_price=self.pace.log_price)
        self._target = 0.0
