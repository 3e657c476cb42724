"""The bandit at work: it picks among the eligible targets in the mode `thompson`, and learns from what became of each
request. Belongs to the event loop; what it learned leaves for other workers through `outgoing`, and theirs comes in by
`merge`. Time is Unix time, for rewards may settle days later and in another process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from time import monotonic, time
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from keys.ledger import Pace
from routing.bandit import (
    Arm,
    Bandit,
    Choice,
    Context,
    Reward,
    RewardWeights,
    Settings,
    State,
    compose,
    context_of,
    thrift,
)
from routing.pacing import Pacer
from routing.pricing import NANO
from routing.repeats import Repeats, fingerprint
from routing.snapshot import Target

MODE: Final = "thompson"
LATENCY_REFERENCE_MS: Final = 10_000.0
OUTGOING_SECONDS: Final = 1.0
MAX_LATE: Final = 10_000
MAX_PACERS: Final = 10_000
PARTS: Final = frozenset(one.name for one in fields(RewardWeights))
_encode = msgspec.json.Encoder().encode
_state = msgspec.json.Decoder(State).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_any = msgspec.json.Decoder().decode


class _Turn(msgspec.Struct):
    role: str = ""


_turn = msgspec.json.Decoder(_Turn).decode


@dataclass(slots=True)
class Lesson:
    """What is learned from one request once its outcome is known. `expected`: each candidate's cost, in dollars.
    `request`: its fingerprint. `is_heard`: what the answer says must be kept until then; `is_judged`: for a judge.
    `paces`: of the payer's budgets, with their amounts in nano-dollars; `pressure`: what came of them, in points of
    reward per dollar."""

    context: Context
    expected: dict[str, float]
    request: int = 0
    is_heard: bool = False
    is_judged: bool = False
    paces: list[tuple[int, Pace]] = field(default_factory=list)
    pressure: float = 0.0


class Late(NamedTuple):
    """A part of an earlier answer's reward, which came to be known after it. `since`: monotonic time."""

    key_id: str
    request_id: str
    part: str
    value: float
    since: float


class Learner:
    def __init__(self, *, rng: Random, settings: Settings | None = None, weights: RewardWeights | None = None) -> None:
        self._rng = rng
        self._bandit = Bandit(settings)
        self._weights = weights or RewardWeights()
        self._pacers: dict[int, Pacer] = {}
        self._last_sent = 0.0
        self._has_news = False
        self.outgoing: deque[bytes] = deque()
        self.repeats = Repeats()
        self.late: deque[Late] = deque(maxlen=MAX_LATE)
        """For the poller's thread, which finds the answer that it is about and has the learner revise it."""

    def began(self, lesson: Lesson, key_id: str) -> None:
        """A request whose model the bandit will choose."""
        now = monotonic()
        if earlier := self.repeats.asked(lesson.request, now):
            self.late.append(Late(key_id, earlier, "regenerated", 0.0, now))

    def choose(self, lesson: Lesson, candidates: Sequence[tuple[Target, int | None, float]]) -> Choice:
        """`candidates`: each target with its expected cost in nano-dollars and its latency in milliseconds; at least
        one. A target without a price counts as the dearest."""
        dearest = max((cost or 0 for _, cost, _ in candidates), default=0)
        arms = [
            Arm(target.model_id, (dearest if cost is None else cost) / NANO, latency_ms, target.weight)
            for target, cost, latency_ms in candidates
        ]
        lesson.expected.update((arm.id, arm.cost) for arm in arms)
        pacers = [self._pacer(pace) for _, pace in lesson.paces]
        for pacer, (amount, pace) in zip(pacers, lesson.paces, strict=True):
            pressure = pacer.pressure(spent=pace.spent / NANO, budget=amount / NANO, elapsed=pace.elapsed)
            lesson.pressure = max(lesson.pressure, pressure)
        choice = self._bandit.choose(lesson.context, arms, rng=self._rng, now=time(), pressure=lesson.pressure)
        for pacer in pacers:
            pacer.note(choice.expected_cost)
        return choice

    def _pacer(self, pace: Pace) -> Pacer:
        """Of a budget's period. Few are alive at a time: those of periods that are over are forgotten."""
        found = self._pacers.get(pace.period)
        if found is None:
            if len(self._pacers) >= MAX_PACERS:
                del self._pacers[next(iter(self._pacers))]
            found = self._pacers[pace.period] = Pacer()
        return found

    def failed(self, lesson: Lesson, model_id: str) -> None:
        self._learn(lesson.context, model_id, compose({"success": 0.0}, self._weights))

    def answered(
        self,
        lesson: Lesson,
        model_id: str,
        *,
        latency_ms: float,
        cost_nano: int | None,
        request_id: str,
        is_valid: bool | None = None,
    ) -> Reward | None:
        """The reward, as far as it is known by now. `is_valid`: whether the answer has the form that was asked for, and
        its calls of tools can be made."""
        self.repeats.answered(lesson.request, request_id, monotonic())
        parts = {"success": 1.0, "latency": thrift(latency_ms, LATENCY_REFERENCE_MS)}
        if is_valid is not None:
            parts["validity"] = float(is_valid)
        cost = None if cost_nano is None else cost_nano / NANO
        if cost is not None and (dearest := max(lesson.expected.values(), default=0.0)) > 0:
            parts["cost"] = thrift(cost, dearest)
        reward = compose(parts, self._weights)
        self._learn(lesson.context, model_id, reward, cost=cost, expected=lesson.expected.get(model_id))
        return reward

    def composed(self, parts: Mapping[str, float]) -> Reward | None:
        """Of an answer of which more has come to be known. None if nothing of it has a weight. May be called from any
        thread."""
        return compose({name: value for name, value in parts.items() if name in PARTS}, self._weights)

    def revise(self, context: str, model_id: str, reward: Reward, *, before: float, at: float) -> None:
        """The reward of an earlier choice takes the place of `before`. `at`: when the model was chosen, Unix time."""
        features = (*context.split("|"), *[""] * len(Context._fields))[: len(Context._fields)]
        self._learn(Context(*features), model_id, reward, previous=before, at=at)
        self.send()

    def _learn(
        self,
        context: Context,
        model_id: str,
        reward: Reward | None,
        *,
        previous: float | None = None,
        at: float | None = None,
        cost: float | None = None,
        expected: float | None = None,
    ) -> None:
        if reward is None:
            return
        now = time()
        self._bandit.learn(
            context,
            model_id,
            reward.value,
            now=now,
            previous=previous,
            at=at,
            cost=cost,
            expected_cost=expected or None,
        )
        self._has_news = True
        if now - self._last_sent > OUTGOING_SECONDS:
            self.send()

    # -- between workers -----------------------------------------------------------------------------------------------
    def send(self) -> None:
        """Puts what was learned since the last time into `outgoing`."""
        if self._has_news:
            self._has_news = False
            self._last_sent = time()
            self.outgoing.append(_encode(self._bandit.deltas()))

    def merge(self, deltas: bytes) -> None:
        """What another worker sent. Raises msgspec.MsgspecError."""
        self._bandit.merge(_state(deltas))


def folded(parts: Sequence[bytes]) -> bytes:
    """Several of them as one. Raises msgspec.MsgspecError."""
    bandit = Bandit()
    for part in parts:
        bandit.merge(_state(part))
    return _encode(bandit.export())


def lesson_of(
    turns: bytes,
    *,
    input_tokens: int,
    tools: bool,
    vision: bool,
    tag: str,
    owner: str = "",
    system: bytes = b"",
    is_judged: bool = False,
) -> Lesson:
    """`turns` and `system`: the conversation as it stands in the request; `owner`: the client key's id."""
    text, count = _last_of_user(turns)
    return Lesson(
        context_of(input_tokens=input_tokens, text=text, tools=tools, vision=vision, turns=count, tag=tag),
        {},
        request=fingerprint(owner, system, turns),
        is_heard=tools,
        is_judged=is_judged,
    )


def _last_of_user(turns: bytes) -> tuple[str, int]:
    """What the user said last, and how many turns of the user there are."""
    try:
        if turns[:1] == b'"':
            return str(_any(turns)), 1
        raws = _list(turns)
        users = [raw for raw in raws if _turn(raw).role == "user"]
        content: Any = _any(users[-1]).get("content") if users else ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError):
        return "", 1
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else "", max(len(users), 1)
