"""Learns from rewards which model suits which kind of request: the mode `thompson`. Pure: `now` and `rng` are
arguments. Arms are models, contexts cheap features of a request. docs/developer/bandit.md has the formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANY: Final = 40  # from so many arms on, numpy is faster
REMEMBERED: Final = 4096  # learned arms that a panel can catch up with
LEAST: Final = 1e-9  # a probability below is none
LEAST_COST: Final = 1e-15  # in dollars; below, nothing can be divided by it
_PAGE_1, _PAGE_3 = 1.5976, 0.070566  # log odds of a normal variable below z: Page (1977), to 0.00014
_ID, _COST, _LATENCY = itemgetter(0), itemgetter(1), itemgetter(2)  # of an Arm


# -- what a gateway knows of a request --------------------------------------------------------------------------------
_CODE = re.compile(r"```|\bdef \w+\(|\bfunction\b|\bclass \w+|#include|[;{]\s*$", re.MULTILINE)
_SQL = re.compile(r"^(?>.*?\bSELECT\b).+\bFROM\b", re.MULTILINE)  # a line's first SELECT alone: one pass over any text
_CHOICES = re.compile(r"\([A-Da-d1-4]\)|^[^\S\n]*[A-D][.)] ", re.MULTILINE)
_NUMBER = re.compile(r"\d+")
_OPENING = re.compile(r"\s*(\W?)(\w{0,12})")
_OPENINGS: Final = frozenset(  # a request's first word says much of what it asks for
    """
    analyse analyze answer are calculate can choose classify compare complete compute continue convert could create
    define describe design determine did do does draft edit evaluate explain extract find fix generate give how
    identify if implement improve is list name please question read refactor rephrase review rewrite select should
    show solve sort suggest summarise summarize tell translate true what when where which who why will would write
    """.split()  # noqa: SIM905  seventy quoted words are not read by anybody
)
LOOKED_AT: Final = 4000  # characters of the text


class Context(NamedTuple):
    """`tag`: what else tells requests apart, such as a project or an application: it gets posteriors of its own, which
    lean on those of the same context without it."""

    size: str = "small"
    abilities: str = ""
    task: str = ""
    language: str = ""
    turns: str = "1"
    tag: str = ""

    @property
    def key(self) -> str:
        return "|".join(part.replace("|", "/") for part in self)


def context_of(
    *, input_tokens: int, text: str = "", tools: bool = False, vision: bool = False, turns: int = 1, tag: str = ""
) -> Context:
    """`text`: of the last user message. Takes some 20 µs at most: only its first 4,000 characters are looked at."""
    text = text[:LOOKED_AT]
    return Context(
        size="small" if input_tokens < 1_000 else "medium" if input_tokens <= 10_000 else "large",
        abilities="+".join(name for name, needed in (("tools", tools), ("vision", vision)) if needed),
        task=task_of(text),
        language=language_of(text),
        turns="1" if turns <= 1 else "2-5" if turns <= 5 else "6+",
        tag=tag,
    )


def task_of(text: str) -> str:
    """`code`; else the word that the text opens with, if it is a common one, or `[` for a mark; else by its looks."""
    if _CODE.search(text) or ("FROM" in text and _SQL.search(text)):
        return "code"
    opening = _OPENING.match(text)
    if opening and opening[1]:
        return opening[1].replace("|", "/")
    if opening and (word := opening[2].lower()) in _OPENINGS:
        return word
    if _CHOICES.search(text):
        return "choices"
    return "numbers" if len(_NUMBER.findall(text)) > 1 else ""


def language_of(text: str) -> str:
    """Only the script: `latin`, `cyrillic`, `cjk`, or `other`. Empty without letters."""
    if text.isascii():
        return "latin" if text else ""
    counts = {"latin": 0, "cyrillic": 0, "cjk": 0, "other": 0}
    for letter in text[:400]:
        if letter.isalpha():
            code = ord(letter)
            cjk = 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7AF
            name = "latin" if code < 0x250 else "cyrillic" if 0x400 <= code < 0x530 else "cjk" if cjk else "other"
            counts[name] += 1
    return max(counts, key=counts.__getitem__) if any(counts.values()) else ""


# -- what a reward is made of -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RewardWeights:
    """Only the parts that are known count, by their weights. Explicit feedback says most."""

    success: float = 1.0
    cost: float = 0.0  # `choose` takes prices into account by itself
    latency: float = 0.2
    feedback: float = 4.0
    validity: float = 2.0
    regenerated: float = 2.0
    judge: float = 3.0


class RewardPart(NamedTuple):
    """`share`: of the reward that this part decided, its weight among the known ones."""

    name: str
    value: float
    weight: float
    share: float


class Reward(NamedTuple):
    value: float
    parts: tuple[RewardPart, ...]

    def shown(self) -> dict[str, dict[str, float]]:
        """Where it comes from: each part's value and weight by its name."""
        return {part.name: {"value": part.value, "weight": part.weight} for part in self.parts}


def compose(parts: Mapping[str, float | None], weights: RewardWeights) -> Reward | None:
    """A reward from 0 to 1 of parts from 0 (bad) to 1 (good), by the names of the weights; None: not known (yet). A
    call that failed is worth 0 whatever else is known. None when nothing is known. Raises ValueError for others."""
    known = []
    for name, value in parts.items():
        weight = getattr(weights, name, None)
        if weight is None or (value is not None and not 0.0 <= value <= 1.0):
            raise ValueError(f"{name} = {value} is no part of a reward")
        if value is not None and weight > 0.0:
            known.append((name, float(value), float(weight)))
    if not known:
        return None
    if any(name == "success" and value == 0.0 for name, value, _ in known):
        known = [one for one in known if one[0] == "success"]
    total = sum(weight for _, _, weight in known)
    shown = tuple(RewardPart(name, value, weight, weight / total) for name, value, weight in known)
    return Reward(sum(part.value * part.share for part in shown), shown)


def thrift(amount: float, reference: float) -> float:
    """A cost or a latency as a part of a reward: 1 for nothing, a half at the reference, towards 0 beyond."""
    return 1.0 if reference <= 0 else reference / (reference + max(amount, 0.0))


# -- settings and values ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Settings:
    """Rewards are points from 0 to 1, and so are the errors (standard deviations)."""

    half_life_seconds: float = 30 * 86_400.0  # of the longest window
    windows: int = 6
    window_ratio: float = 4.0  # each window is so much shorter than the one before
    contradiction: float = 2.2  # standard errors by which a shorter window overrules a longer one
    contradiction_size: float = 4.0  # rewards that it takes at least
    prior_mean: float = 0.8
    prior_per_weight: float = 0.02  # per point of capability above or below 5
    prior_error: float = 0.25  # of an arm of which nothing is known
    context_error: float = 0.02  # by which an arm is better or worse in a context than overall
    level_error: float = 0.05  # by which all arms are better or worse in a context
    noise_size: float = 5.0  # rewards until an arm's own noise counts more than that of all arms
    cost_size: float = 5.0  # the same for what it costs, against what it was expected to
    cost_weight: float = 0.005  # points that the dearest candidate loses against one that costs nothing
    latency_weight: float = 0.0  # the same for the slowest
    exploration: float = 0.5  # factor to the standard errors
    trial_size: int = 15  # rewards until an arm is no longer new
    trial_share: float = 0.1  # of the requests that all new arms get together
    margin: float = 0.005  # expected reward of a choice below that of the best single model, at most: as a share of it

    def __post_init__(self) -> None:
        if not (self.half_life_seconds > 0 and self.windows >= 1 and self.window_ratio > 1):
            raise ValueError("windows need a half-life and a ratio above 1")
        if not (0 <= self.margin <= 1 and 0 <= self.trial_share < 1 and self.exploration >= 0):
            raise ValueError("margin and trial_share are shares, exploration is not negative")
        if min(self.prior_error, self.context_error, self.level_error, self.noise_size, self.cost_size) <= 0:
            raise ValueError("errors and sizes must be positive")


class Arm(NamedTuple):
    """`cost`: expected, in a currency unit that `pressure` shares; `weight`: capability, 0 to 10."""

    id: str
    cost: float = 0.0
    latency_ms: float = 0.0
    weight: float | None = None


class Choice(NamedTuple):
    """`order`: the chosen arm, then the others by the same draw. `probability`: with which the first was chosen,
    exactly. `scores`: expected reward less what cost and latency count, in points. `expected_cost`: of this decision
    before the draw, over all arms. `probabilities`: of the arms that had a chance."""

    order: list[str]
    probability: float
    scores: dict[str, float]
    expected_cost: float = 0.0
    probabilities: dict[str, float] = {}  # a NamedTuple's default, never written to


class Posterior(NamedTuple):
    """A Beta distribution of an arm's mean reward."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)


# -- statistics that add up -------------------------------------------------------------------------------------------
class Sums(msgspec.Struct, array_like=True):
    """Weighted counts, sums and sums of squares as of `at`, one per window."""

    at: float
    count: list[float]
    total: list[float]
    square: list[float]
    chosen: float = 0.0
    cost: float = 0.0
    expected: float = 0.0


class State(msgspec.Struct):
    """All that is learned, or a part of it: adding states up in any order gives the same. JSON through msgspec."""

    arms: dict[str, Sums] = {}
    contexts: dict[str, Sums] = {}
    cells: dict[str, dict[str, Sums]] = {}  # by context, then arm
    noise: Sums | None = None


@dataclass(slots=True)
class _Arm:
    sums: Sums
    version: int = 0
    seen: int = -1
    good_until: float = -math.inf
    window: int = 0
    mean: float = 0.0
    variance: float = 0.0
    noise: float = 0.0
    count: float = 0.0
    prior_share: float = 1.0
    prior: float = 0.0
    ratio: float = 1.0


@dataclass(slots=True)
class _Cell:
    """The estimate is `base` + `open` times the context's level."""

    arm: _Arm
    version: int = -1
    good_until: float = -math.inf
    base: float = 0.0
    open: float = 1.0
    variance: float = 0.0
    ratio: float = 1.0
    trial: bool = True


@dataclass(slots=True)
class _Context:
    """`parent`: the same without a tag."""

    key: str
    sums: Sums
    parent: _Context | None = None
    level: float = 0.0
    cells: dict[str, _Cell] = field(default_factory=dict)
    panel: _Panel | None = None


@dataclass(slots=True)
class _Panel:
    """A context's estimates of many arms as arrays, and how far they have caught up with what was learned."""

    ids: list[str]
    index: dict[str, int]
    base: NDArray[np.float64]
    open: NDArray[np.float64]
    variance: NDArray[np.float64]
    ratio: NDArray[np.float64]
    trial: NDArray[np.bool_]
    seen: int
    good_until: float


class Bandit:
    """One per process. What it learns goes to the others as `deltas`, which they `merge`."""

    def __init__(self, settings: Settings | None = None, state: State | None = None) -> None:
        self.settings = settings = settings or Settings()
        lives = [settings.half_life_seconds / settings.window_ratio**step for step in range(settings.windows)]
        self._rates = [math.log(2) / life for life in lives]
        self._fresh_seconds = lives[-1] / 20  # estimates are as good as exact for so long
        self._arms: dict[str, _Arm] = {}
        self._contexts: dict[Context, _Context] = {}
        self._cells: dict[str, dict[str, Sums]] = {}  # by context, then arm
        self._noise = self._one(0.0, 0.0, 0.0, 0.0)
        self._noise_variance = 0.0
        self._learned: list[str] = []  # the latest of them
        self._forgotten = 0  # how many more there were
        self._news = State(arms={}, contexts={}, cells={})
        self.merge(state or State())

    # -- choosing -----------------------------------------------------------------------------------------------------
    def choose(
        self, context: Context, arms: Sequence[Arm], *, rng: Random, now: float, pressure: float = 0.0
    ) -> Choice:
        """`pressure`: points per unit of cost, as a Pacer says; it takes the place of `cost_weight`. Raises ValueError
        without arms."""
        if not arms:
            raise ValueError("there is no arm to choose")
        place = self._context(context)
        if len(arms) >= MANY:
            return self._choose_many(place, arms, rng, now, pressure)
        settings = self.settings
        dearest = slowest = 0.0
        means, variances, costs, on_trial = [], [], [], []
        cells, level = place.cells, place.level
        for position, arm in enumerate(arms):
            cell = cells.get(arm.id)
            if cell is None or cell.version != cell.arm.version or cell.good_until < now:
                cell = self._estimate(place, arm, now)
            means.append(cell.base + cell.open * level)
            variances.append(cell.variance)
            cost = arm.cost * cell.ratio
            costs.append(cost)
            if cost > dearest:
                dearest = cost
            if arm.latency_ms > slowest:
                slowest = arm.latency_ms
            if cell.trial:
                on_trial.append(position)
        some_known = 0 < len(on_trial) < len(arms)
        if some_known:
            self._raise_hopes(arms, means, on_trial)
        price = pressure or (settings.cost_weight / dearest if dearest > LEAST_COST else 0.0)
        values = [mean - price * cost for mean, cost in zip(means, costs, strict=True)]
        if settings.latency_weight and slowest:
            per_ms = settings.latency_weight / slowest
            values = [value - per_ms * arm.latency_ms for value, arm in zip(values, arms, strict=True)]
        leader = max(values)
        leading = values.index(leader)
        spread = variances[leading]
        # the odds that an arm is better than the leading one: of two arms, those of Thompson's draw
        exp, root, width = math.exp, math.sqrt, settings.exploration or LEAST
        weights = []
        for value, variance in zip(values, variances, strict=True):
            z = min((leader - value) / (root(spread + variance) * width), 8.0)
            weights.append(exp(-z * (_PAGE_1 + _PAGE_3 * z * z)))
        if some_known:
            self._cap_trials(arms, weights, on_trial)
        whole = sum(weights)
        weights = [weight / whole if weight > LEAST * whole else 0.0 for weight in weights]
        # the floor: no more than `margin` below the best single arm that is known, at what cost counts now
        worth = [mean - pressure * cost for mean, cost in zip(means, costs, strict=True)] if pressure else means
        best = -math.inf
        for position, one in enumerate(worth):
            if one > best and not (some_known and position in on_trial):
                best, holder = one, position
        short = best - sum(weight * one for weight, one in zip(weights, worth, strict=True))
        allowed = settings.margin * abs(means[holder])
        if short > allowed:
            kept = allowed / short
            weights = [weight * kept for weight in weights]
            weights[holder] += 1.0 - kept
        # a race of exponential clocks: the first is drawn with exactly its weight, the rest without replacement
        draw, log = rng.random, math.log
        times = [-log(1.0 - draw()) / weight if weight else math.inf for weight in weights]
        ranks = sorted(range(len(arms)), key=lambda one: (times[one], -values[one]))
        first = ranks[0]
        if first in on_trial:
            self._note_trial(arms[first].id, now)
        ids = [arm.id for arm in arms]
        return Choice(
            [ids[one] for one in ranks],
            weights[first] / sum(weights),
            dict(zip(ids, values, strict=True)),
            sum(weight * cost for weight, cost in zip(weights, costs, strict=True)),
            dict(zip(ids, weights, strict=True)),
        )

    def _raise_hopes(self, arms: Sequence[Arm], means: list[float], on_trial: list[int]) -> None:
        """What is not known of a new arm is taken to be as good as the best known one."""
        new = set(on_trial)
        best = max(mean for position, mean in enumerate(means) if position not in new)
        for position in on_trial:
            known = self._arms[arms[position].id]
            if best > known.prior:
                means[position] += known.prior_share * (best - known.prior)

    def _cap_trials(self, arms: Sequence[Arm], weights: list[float], on_trial: list[int]) -> None:
        """New arms together get no more than their share; one waits while too many of its rewards are outstanding."""
        for position in on_trial:
            known = self._arms[arms[position].id]
            if known.sums.chosen - known.count >= self.settings.trial_size:
                weights[position] *= 0.01
        trials = sum(weights[position] for position in on_trial)
        share = self.settings.trial_share
        others = sum(weights) - trials
        if others <= LEAST * trials:
            return  # it wins by its price, not by what is not known of it
        if trials * (1.0 - share) > share * others:
            factor = share * others / ((1.0 - share) * trials)
            for position in on_trial:
                weights[position] *= factor

    def _choose_many(self, place: _Context, arms: Sequence[Arm], rng: Random, now: float, pressure: float) -> Choice:
        """The same by arrays."""
        import numpy as np

        settings = self.settings
        ids = [*map(_ID, arms)]
        panel = self._panel(place, arms, ids, now)
        means = panel.base + panel.open * place.level
        costs = np.fromiter(map(_COST, arms), float, len(arms)) * panel.ratio
        trials = np.flatnonzero(panel.trial)
        some_known = 0 < len(trials) < len(arms)
        if some_known:
            best_known = float(means[~panel.trial].max())
            known = [self._arms[ids[position]] for position in trials]
            hopes = np.array([one.prior_share * max(best_known - one.prior, 0.0) for one in known])
            means[trials] += hopes
        dearest = float(costs.max())
        values = means - (pressure or (settings.cost_weight / dearest if dearest > LEAST_COST else 0.0)) * costs
        if settings.latency_weight:
            latencies = np.fromiter(map(_LATENCY, arms), float, len(arms))
            values -= settings.latency_weight / (float(latencies.max()) or 1.0) * latencies
        leading = int(values.argmax())
        errors = np.sqrt(panel.variance + panel.variance[leading]) * (settings.exploration or LEAST)
        z = np.minimum((values[leading] - values) / errors, 8.0)
        weights = np.exp(-z * (_PAGE_1 + _PAGE_3 * z * z))
        if some_known:
            listed = weights.tolist()
            self._cap_trials(arms, listed, trials.tolist())
            weights = np.array(listed)
        weights /= weights.sum()
        weights[weights <= LEAST] = 0.0
        worth = means - pressure * costs if pressure else means
        best = int(np.where(panel.trial, -np.inf, worth).argmax() if some_known else worth.argmax())
        short = float(worth[best] - weights @ worth)
        allowed = settings.margin * abs(float(means[best]))
        if short > allowed:
            weights *= allowed / short
            weights[best] += 1.0 - allowed / short
        uniform = np.frombuffer(rng.randbytes(8 * len(arms)), dtype=np.uint64) >> np.uint64(11)
        clocks = -np.log((uniform + 1.0) * 2.0**-53)
        with np.errstate(divide="ignore"):
            times = clocks / weights
        far = weights == 0.0
        times[far] = 1e300 - values[far] * 1e290  # without a chance: by their values
        ranks = times.argsort().tolist()
        first = ranks[0]
        if panel.trial[first]:
            self._note_trial(ids[first], now)
        return Choice(
            [ids[one] for one in ranks],
            float(weights[first] / weights.sum()),
            dict(zip(ids, values.tolist(), strict=True)),
            float(weights @ costs),
            {ids[one]: float(weights[one]) for one in np.flatnonzero(weights > 1e-4)},
        )

    # -- learning -----------------------------------------------------------------------------------------------------
    def learn(
        self,
        context: Context,
        arm_id: str,
        reward: float,
        *,
        now: float,
        previous: float | None = None,
        at: float | None = None,
        cost: float | None = None,
        expected_cost: float | None = None,
    ) -> None:
        """`previous`: the reward of the same choice that this one replaces. `at`: when the choice was made; evidence
        that settles late counts as what it is, old. `cost`, `expected_cost`: what the call cost, what its arm said.
        Raises ValueError for a reward outside 0 to 1."""
        if not 0.0 <= reward <= 1.0 or not (previous is None or 0.0 <= previous <= 1.0):
            raise ValueError(f"a reward of {reward} after {previous}")
        at = now if at is None else min(at, now)
        place = self._context(context)
        arm = self._arm(arm_id)
        cell = place.cells.get(arm_id)
        if cell is None or cell.version != arm.version:
            cell = self._estimate(place, Arm(arm_id), now)
        estimate = cell.base + cell.open * place.level
        count, more = (1.0, reward) if previous is None else (0.0, reward - previous)

        def square(shift: float) -> float:
            return (reward - shift) ** 2 - (0.0 if previous is None else (previous - shift) ** 2)

        news = State(
            arms={arm_id: self._one(at, count, more - count * place.level, square(place.level))},
            contexts={},
            cells={},
        )
        level: _Context | None = place
        while level is not None:
            news.contexts[level.key] = self._one(at, count, more - count * arm.mean, square(arm.mean))
            news.cells[level.key] = {arm_id: self._one(at, count, more, square(0.0))}
            level = level.parent
        if previous is None:
            news.noise = self._one(at, 1.0, 0.0, (reward - estimate) ** 2)
            if cost is not None and expected_cost:
                for sums in (news.arms[arm_id], *(cells[arm_id] for cells in news.cells.values())):
                    sums.cost, sums.expected = cost, expected_cost
        self._add(news)
        _add_state(self._news, news, self._rates)

    def posterior(self, context: Context, arm: Arm, now: float) -> Posterior:
        """The Beta distribution with the estimate's mean and variance."""
        place = self._context(context)
        cell = self._estimate(place, arm, now)
        mean = min(max(cell.base + cell.open * place.level, 1e-3), 1.0 - 1e-3)
        strength = max(mean * (1.0 - mean) / cell.variance - 1.0, 1e-3)
        return Posterior(mean * strength, (1.0 - mean) * strength)

    # -- between processes, and over restarts -------------------------------------------------------------------------
    def deltas(self) -> State:
        """What was learned here since the last call."""
        news, self._news = self._news, State(arms={}, contexts={}, cells={})
        return news

    def merge(self, deltas: State) -> None:
        """What others learned. Each once, in any order."""
        self._add(deltas)

    def export(self) -> State:
        """All of it, the merged included: `Bandit(settings, state)` goes on from there."""
        whole = State(arms={}, contexts={}, cells={})
        _add_state(
            whole,
            State(
                arms={name: arm.sums for name, arm in self._arms.items()},
                contexts={place.key: place.sums for place in self._contexts.values()},
                cells=self._cells,
                noise=self._noise,
            ),
            self._rates,
        )
        return whole

    # -- estimates ----------------------------------------------------------------------------------------------------
    def _estimate(self, place: _Context, arm: Arm, now: float) -> _Cell:
        """From the sums, as of now."""
        settings = self.settings
        known = self._arm(arm.id)
        if arm.weight is not None:
            prior = min(max(settings.prior_mean + settings.prior_per_weight * (arm.weight - 5.0), 0.05), 0.95)
            if prior != known.prior:
                known.prior = prior
                known.version += 1
        if known.seen != known.version or known.good_until < now:
            self._estimate_arm(known, now)
        cell = place.cells.get(arm.id)
        if cell is None:
            cell = place.cells[arm.id] = _Cell(known)
        sums = self._cells.get(place.key, {}).get(arm.id)
        # what the next wider circle says: the arm overall, or the arm in this context without its tag
        mean, variance, ratio = known.mean, known.variance, known.ratio
        if place.parent is not None:
            wider = self._estimate(place.parent, arm, now)
            mean = wider.base + (wider.open - 1.0) * place.parent.level
            variance, ratio = wider.variance, wider.ratio
        prior_count = known.noise / settings.context_error**2
        cell.ratio = ratio
        count = total = 0.0
        if sums is not None:
            fading = math.exp(-self._rates[known.window] * max(now - sums.at, 0.0))
            count, total = sums.count[known.window] * fading, sums.total[known.window] * fading
            if sums.expected > 0.0:
                weight = max(sums.count[0], 0.0)
                own = sums.cost / sums.expected
                cell.ratio = (own * weight + ratio * settings.cost_size) / (weight + settings.cost_size)
        cell.open = prior_count / (prior_count + count)
        cell.base = cell.open * mean + total / (prior_count + count)
        cell.variance = known.noise / (prior_count + count) + cell.open**2 * variance
        cell.trial = known.count < settings.trial_size
        cell.version, cell.good_until = known.version, now + self._fresh_seconds
        return cell

    def _estimate_arm(self, known: _Arm, now: float) -> None:
        settings, sums = self.settings, known.sums
        fading = [math.exp(-rate * max(now - sums.at, 0.0)) for rate in self._rates]
        counts = [max(count * fade, 0.0) for count, fade in zip(sums.count, fading, strict=True)]
        totals = [total * fade for total, fade in zip(sums.total, fading, strict=True)]
        scatter = 0.0
        if counts[0] > 0.0:
            scatter = max(sums.square[0] * fading[0] - totals[0] ** 2 / counts[0], 0.0)
        size = settings.noise_size
        known.noise = max((size * self._noise_variance + scatter) / (size + counts[0]), 1e-6)
        known.window = window = _window(counts, totals, known.noise, settings)
        prior_count = known.noise / settings.prior_error**2
        known.prior_share = prior_count / (prior_count + counts[window])
        known.mean = (prior_count * known.prior + totals[window]) / (prior_count + counts[window])
        few = (counts[window] + 5.0) / (counts[window] + 1.0)  # few rewards say less than their scatter claims
        known.variance = min(few * known.noise / (prior_count + counts[window]), settings.prior_error**2)
        known.count = counts[0]
        known.ratio = (sums.cost + 1e-300) / (sums.expected + 1e-300) if sums.expected > 0.0 else 1.0
        known.seen, known.good_until = known.version, now + self._fresh_seconds

    def _panel(self, place: _Context, arms: Sequence[Arm], ids: list[str], now: float) -> _Panel:
        import numpy as np

        panel = place.panel
        learned = self._forgotten + len(self._learned)
        if panel is not None and panel.ids == ids and panel.good_until >= now and panel.seen >= self._forgotten:
            for arm_id in set(self._learned[panel.seen - self._forgotten :]):
                position = panel.index.get(arm_id)
                if position is not None:
                    cell = self._estimate(place, arms[position], now)
                    panel.base[position], panel.open[position] = cell.base, cell.open
                    panel.variance[position], panel.ratio[position] = cell.variance, cell.ratio
                    panel.trial[position] = cell.trial
            panel.seen = learned
            return panel
        cells = [self._estimate(place, arm, now) for arm in arms]
        place.panel = panel = _Panel(
            ids,
            {arm_id: position for position, arm_id in enumerate(ids)},
            np.array([cell.base for cell in cells]),
            np.array([cell.open for cell in cells]),
            np.array([cell.variance for cell in cells]),
            np.array([cell.ratio for cell in cells]),
            np.array([cell.trial for cell in cells]),
            learned,
            now + self._fresh_seconds,
        )
        return panel

    # -- sums ---------------------------------------------------------------------------------------------------------
    def _one(self, at: float, count: float, total: float, square: float) -> Sums:
        windows = len(self._rates)
        return Sums(at, [count] * windows, [total] * windows, [square] * windows)

    def _arm(self, arm_id: str) -> _Arm:
        known = self._arms.get(arm_id)
        if known is None:
            known = self._arms[arm_id] = _Arm(self._one(0.0, 0.0, 0.0, 0.0), prior=self.settings.prior_mean)
        return known

    def _context(self, context: Context) -> _Context:
        place = self._contexts.get(context)
        if place is None:
            parent = self._context(context._replace(tag="")) if context.tag else None
            place = self._contexts[context] = _Context(context.key, self._one(0.0, 0.0, 0.0, 0.0), parent)
        return place

    def _note_trial(self, arm_id: str, now: float) -> None:
        news = State(arms={arm_id: self._one(now, 0.0, 0.0, 0.0)}, contexts={}, cells={})
        news.arms[arm_id].chosen = 1.0
        self._add(news)
        _add_state(self._news, news, self._rates)

    def _add(self, more: State) -> None:
        for arm_id, sums in more.arms.items():
            known = self._arm(arm_id)
            known.sums = _sum(known.sums, sums, self._rates)
            known.version += 1
            self._learned.append(arm_id)
        if len(self._learned) > REMEMBERED:
            gone = len(self._learned) // 2
            del self._learned[:gone]
            self._forgotten += gone
        if more.noise is not None:
            self._noise = _sum(self._noise, more.noise, self._rates)
        settings = self.settings
        count, square = max(self._noise.count[0], 0.0), max(self._noise.square[0], 0.0)
        before = settings.prior_mean * (1.0 - settings.prior_mean)
        self._noise_variance = (settings.noise_size * before + square) / (settings.noise_size + count)
        for key, sums in more.contexts.items():
            fields = key.split("|")
            place = self._context(Context(*(fields + [""] * 6)[:6]))
            place.sums = _sum(place.sums, sums, self._rates)
            prior_count = self._noise_variance / settings.level_error**2
            place.level = place.sums.total[0] / (prior_count + max(place.sums.count[0], 0.0))
        for key, cells in more.cells.items():
            own = self._cells.setdefault(key, {})
            for arm_id, sums in cells.items():
                mine = own.get(arm_id)
                own[arm_id] = _sum(mine, sums, self._rates) if mine is not None else _fitted(sums, len(self._rates))


def _window(counts: Sequence[float], totals: Sequence[float], noise: float, settings: Settings) -> int:
    """The longest window whose mean no shorter one contradicts (Lepski's method)."""
    last = len(counts) - 1
    for window in range(last):
        if counts[window] <= 0.0:
            continue
        mean = totals[window] / counts[window]
        for shorter in range(window + 1, last + 1):
            count = counts[shorter]
            if count < settings.contradiction_size:
                break
            error = math.sqrt(noise / count)
            if abs(totals[shorter] / count - mean) > settings.contradiction * error:
                break
        else:
            return window
        if count < settings.contradiction_size:
            return window
    return last


def _fitted(sums: Sums, windows: int) -> Sums:
    """A copy with so many windows: those that it lacks are empty."""

    def fitted(values: list[float]) -> list[float]:
        return (values + [0.0] * windows)[:windows]

    return Sums(
        sums.at,
        fitted(sums.count),
        fitted(sums.total),
        fitted(sums.square),
        sums.chosen,
        sums.cost,
        sums.expected,
    )


def _sum(one: Sums, other: Sums, rates: Sequence[float]) -> Sums:
    """Both, faded to the later of their times."""
    other = _fitted(other, len(rates))
    if len(one.count) != len(rates):
        one = _fitted(one, len(rates))
    at = max(one.at, other.at)
    mine = [math.exp(-rate * (at - one.at)) for rate in rates]
    its = [math.exp(-rate * (at - other.at)) for rate in rates]

    def added(ours: list[float], theirs: list[float]) -> list[float]:
        return [a * x + b * y for a, x, b, y in zip(ours, mine, theirs, its, strict=True)]

    second = min(1, len(rates) - 1)
    return Sums(
        at,
        added(one.count, other.count),
        added(one.total, other.total),
        added(one.square, other.square),
        one.chosen * mine[second] + other.chosen * its[second],
        one.cost * mine[second] + other.cost * its[second],
        one.expected * mine[second] + other.expected * its[second],
    )


def _add_state(whole: State, part: State, rates: Sequence[float]) -> None:
    for ours, theirs in _pairs(whole, part):
        for name, sums in theirs.items():
            mine = ours.get(name)
            ours[name] = _sum(mine, sums, rates) if mine is not None else _fitted(sums, len(rates))
    if part.noise is not None:
        mine = whole.noise
        whole.noise = _sum(mine, part.noise, rates) if mine is not None else _fitted(part.noise, len(rates))


def _pairs(whole: State, part: State) -> Iterable[tuple[dict[str, Sums], dict[str, Sums]]]:
    yield whole.arms, part.arms
    yield whole.contexts, part.contexts
    for key, cells in part.cells.items():
        yield whole.cells.setdefault(key, {}), cells
