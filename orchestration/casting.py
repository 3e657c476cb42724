"""Who will take part in a run, found out before it costs anything: voters, judge, and for every leg that is ahead
whether somebody can be asked at all. The legs are learned from the mode itself, by a rehearsal with made-up answers.
Changes nothing, and calls nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from time import monotonic, time
from typing import Final, NamedTuple

import msgspec

from keys.auth import KeyRecord
from orchestration.plan import Plan, leg_body, leg_policy, leg_shape
from orchestration.registry import MODES, mode_of
from orchestration.steps import Calls, Leg, LegResult, Seat
from providers.formats.registry import DIALECTS
from routing.call import Call
from routing.consumers import formed
from routing.eligibility import expected_cost, needs_of
from routing.engine import Engine
from routing.errors import ApiError
from routing.failures import nobody_eligible, unusable
from routing.policy import Policy, choose
from routing.snapshot import Snapshot, Target

CHAT: Final = DIALECTS["openai-chat"]
FILLER: Final = "word " * 400  # about as long as an answer whose length nobody knows is taken to be
LEAST_VOTERS: Final = 2
_NO_POLICY: Final = Policy("")


class Estimate(NamedTuple):
    """Of a whole run; the cost in nano-dollars is None where a model has no price."""

    cost_nano: int | None
    tokens: int


class Casting:
    def __init__(self, engine: Engine, snapshot: Snapshot, key: KeyRecord, *, default_mode: str) -> None:
        self._engine = engine
        self._snapshot = snapshot
        self._key = key
        self._default_mode = default_mode
        self._excluded: dict[str, str] = {}

    # -- named models ----------------------------------------------------------------------------------------------
    def require(self, name: str, param: str) -> None:
        """Raises ApiError for a name that the key cannot use."""
        if not name:
            return
        try:
            choose(self._snapshot, name, _NO_POLICY, self._key)
        except ApiError as error:
            error.param = param
            raise

    def _targets_of(self, name: str) -> list[Target]:
        chosen = choose(self._snapshot, name, _NO_POLICY, self._key)
        if chosen.alias is not None:
            return [one.target for one in chosen.alias.variants]
        return [chosen.hint] if chosen.hint is not None else []

    # -- a vote ----------------------------------------------------------------------------------------------------
    def seated(self, plan: Plan, wanted: int | None) -> Plan:
        """With voters, the best first, and stand-ins for each. Where no number is asked for, it is what the models
        allow. Raises ApiError."""
        run, mode = plan.directive, MODES[plan.directive.mode]
        judging = self._targets_of(run.review) if run.review else []
        named = self._targets_of(run.primary) if run.primary else []
        leg = Leg(
            "voter-1",
            "voter",
            model="" if named else run.primary,
            profile=run.profile,
            min_weight=run.primary_min_weight,
            has_form=run.has_form,
        )
        voting = self._ranked(plan, leg)
        first = [one.model_id for one in named][:1]
        if not run.review:
            leg = Leg("judge", "judge", profile="high_confidence", min_weight=run.review_min_weight, is_own=True)
            judging = [one for one in self._ranked(plan, leg) if one.model_id not in first][:1]
            if not judging:
                raise self._nobody("No model is left to judge")
        reserved = {one.model_id for one in judging}
        names = first + [one.model_id for one in voting if one.model_id not in {*first, *reserved}]
        count = wanted or min(mode.default, len(names))
        if count < LEAST_VOTERS or len(names) < count:
            asked = f"A vote of {wanted}" if wanted else "A vote"
            needed = max(count, LEAST_VOTERS)
            raise self._nobody(f"{asked} needs {needed} models beside its judge, and there are {len(names)}")
        spares = names[count:]
        seats = [Seat(name, spares[place::count]) for place, name in enumerate(names[:count])]
        if named:
            seats[0] = msgspec.structs.replace(seats[0], model=run.primary)
        directive = msgspec.structs.replace(run, seats=seats, judge=run.review, iterations=count)
        return msgspec.structs.replace(plan, directive=directive)

    def _ranked(self, plan: Plan, leg: Leg) -> list[Target]:
        call = self.call(plan, leg)
        targets = self._engine.ranked(call)
        self._excluded = {one.model: one.excluded for one in call.candidates if one.excluded}
        return targets

    def _nobody(self, why: str) -> ApiError:
        error = nobody_eligible(self._snapshot, self._excluded)
        if error.code != "no_eligible_models":
            return error
        usable = {model: reason for model, reason in self._excluded.items() if reason != "model_not_allowed"}
        left_out = ", ".join(f"{model} ({reason})" for model, reason in list(usable.items())[:10])
        return ApiError(
            "no_eligible_models",
            f"{why}." + (f" Left out: {left_out}." if left_out else ""),
            hint="Ask for fewer voters, name models, relax the policy, or ask the operator.",
            is_lasting=error.is_lasting,
        )

    # -- the rehearsal ---------------------------------------------------------------------------------------------
    def estimate(self, plan: Plan) -> Estimate:
        """Raises ApiError when there is a leg for which nobody can be asked, or which nobody could pay."""
        cost: int | None = 0
        tokens = 0
        for leg, call, target in self._rehearsal(plan):
            is_paid = bool(self._key.budgets) or plan.ceiling is not None
            if is_paid and target.prices is None and leg.model:
                raise unusable(target, "no_price")
            expected = expected_cost(target, call.needs)
            cost = None if cost is None or expected is None else cost + expected
            tokens += call.needs.input_tokens + call.needs.output_tokens
        return Estimate(cost, tokens)

    def _rehearsal(self, plan: Plan) -> Iterator[tuple[Leg, Call, Target]]:
        mode, results = mode_of(plan.directive), dict[str, LegResult]()
        while isinstance(step := mode.step(plan.directive, results), Calls):
            for leg in step.legs:
                call, target = self._first(plan, leg)
                yield leg, call, target
                results[leg.name] = LegResult(leg.name, leg.role, FILLER + leg.name, model=target.model_id)

    def _first(self, plan: Plan, leg: Leg) -> tuple[Call, Target]:
        try:
            call = self.call(plan, leg)
            return call, self._engine.first_choice(call)
        except ApiError as error:
            if not (leg.if_possible and leg.without):
                if leg.role == "judge" and error.code == "no_eligible_models":
                    error.message = f"Nobody can judge. {error.message}"
                raise
        return self._first(plan, msgspec.structs.replace(leg, without=[]))

    def call(self, plan: Plan, leg: Leg) -> Call:
        """As it would be made, short of what making it leaves behind. Raises ApiError, InvalidRequest."""
        key = leg_key(self._key, leg, self._snapshot)
        policy = leg_policy(plan, leg, now=time(), default_mode=self._default_mode)
        envelope, plain = formed(CHAT, leg_body(plan, leg, stream=False), leg_shape(plan, leg))
        chosen = choose(self._snapshot, leg.model, policy, key)
        hint = chosen.hint
        if chosen.alias is not None:
            hint = max(chosen.alias.variants, key=lambda one: one.share).target
        needs = needs_of(envelope)
        if plain is not None:
            needs = needs._replace(abilities=needs.abilities - {"structured_output"})
        return Call(
            snapshot=self._snapshot,
            key=key,
            dialect=CHAT,
            envelope=envelope,
            policy=chosen.policy,
            hint=hint,
            needs=needs,
            started_at=monotonic(),
            alias=chosen.alias,
            plain=plain,
        )


def leg_key(key: KeyRecord, leg: Leg, snapshot: Snapshot) -> KeyRecord:
    """The client's key, for the models that the leg may be answered by. Its limits count the run, not each leg."""
    allowed: Collection[str] = key.allowed_models
    if leg.only:
        allowed = {usable for name in leg.only for usable in _usable(key, name, snapshot)} or {""}
    elif leg.without:
        allowed = set(allowed or {*snapshot.targets, *snapshot.aliases}) - set(leg.without) or {""}
    return replace(key, limits=(), allowed_models=frozenset(allowed))


def _usable(key: KeyRecord, name: str, snapshot: Snapshot) -> list[str]:
    """The name; or, of an alias that the key may not name, the models behind it that it may."""
    if key.may_use(name):
        return [name]
    alias = snapshot.aliases.get(name)
    models = [one.target.model_id for one in alias.variants] if alias is not None else []
    return [one for one in models if key.may_use(one)]
