"""What is told of a request's way: why a target answered it, and what a failed attempt was. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from providers.outcomes import ErrorClass
from routing.attempt import AttemptFailed
from routing.call import Call
from routing.snapshot import Target
from routing.words import LAST_RESORT
from telemetry.journal import OUTRUN, Attempt


def reason_of(call: Call, target: Target, failures: Sequence[tuple[Target, AttemptFailed]]) -> str:
    """The routing reason of the contract. `failures`: what went before, in order."""
    if not failures:
        if target is call.last_resort:
            return LAST_RESORT
        if target is not call.hint:
            return "thompson" if call.lesson is not None else f"routed-weight-{target.weight}"
        return "alias-variant" if call.alias is not None else "model-hint"
    last_target, last = failures[-1]
    if last_target is target and last.error is ErrorClass.MODEL_UNAVAILABLE:  # found in another dialect
        return reason_of(call, target, [one for one in failures if one[0] is not target])
    if last_target is target:
        return "retried-transient"
    if last.error is ErrorClass.CONTEXT_OVERFLOW:
        return "escalated-context-overflow"
    return f"failover-{last.error.value}"


def outrun_record(target: Target, latency_ms: float) -> Attempt:
    return Attempt(
        model=target.model_id,
        provider=target.provider.id,
        error_class=OUTRUN,
        latency_ms=int(latency_ms),
        message="Another model spoke first.",
    )


def attempt_record(target: Target, failure: AttemptFailed, latency_ms: float) -> Attempt:
    return Attempt(
        model=target.model_id,
        provider=target.provider.id,
        error_class=failure.error.value,
        status=failure.status,
        latency_ms=int(latency_ms),
        message=failure.message[:300],
    )
