"""The error that a client gets when no target answered. Pure; the table is in the HTTP contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from providers.outcomes import ErrorClass
from routing.attempt import AttemptFailed
from routing.errors import ApiError
from routing.snapshot import Snapshot, Target

SHOWN = 10
_PASSING = frozenset({"rate_limited", "auth", "down", "over_latency", "vault_locked"})


def after_failures(failures: Sequence[tuple[Target, AttemptFailed]]) -> ApiError:
    """From every failed attempt, in order; at least one."""
    last_target, last = failures[-1]
    tried = {target.model_id: failure.error for target, failure in failures}
    if len(tried) == 1:
        return _alone(last_target, last)
    rejections = [failure for _, failure in failures if failure.error is ErrorClass.INVALID_REQUEST]
    if rejections:
        return rejected(rejections[-1])
    if all(error is ErrorClass.CONTEXT_OVERFLOW for error in tried.values()):
        return _alone(last_target, last)  # the request is too long for all of them: nothing that trying again mends
    timeouts = all(error is ErrorClass.TIMEOUT for error in tried.values())
    return ApiError(
        "all_models_failed",
        "No model answered: " + ", ".join(f"{model} ({error})" for model, error in tried.items()) + ".",
        hint="Try again in a moment; the request log tells what each provider said.",
        status=504 if timeouts else None,
        error_class=last.error.value,
    )


def nobody_eligible(
    snapshot: Snapshot, excluded: Mapping[str, str], *, retry_after_seconds: float | None = None
) -> ApiError:
    """`excluded`: model id to reason. `retry_after_seconds`: until the first of those comes back whose provider limits
    the rate, where there are such."""
    if not snapshot.targets:
        return ApiError(
            "no_models_configured",
            "No model is configured.",
            hint="Add a provider and a model in the admin, then try again.",
        )
    if not snapshot.routable:
        return ApiError(
            "no_models_configured",
            "The router has no model to choose from: no enabled provider has one. Sandbox models answer only by name.",
            hint="Add models to a provider in the admin, or name a sandbox model.",
        )
    usable = {model: why for model, why in excluded.items() if why != "model_not_allowed"}
    if usable and set(usable.values()) == {"vault_locked"}:
        return vault_locked()
    if usable and set(usable.values()) == {"context_too_small"}:
        return ApiError(
            "context_length_exceeded",
            "The request is longer than what any model here can take.",
            param="messages",
            hint="Shorten it, or ask the operator for a model with a longer context.",
        )
    named = ", ".join(f"{model} ({why})" for model, why in list(usable.items())[:SHOWN])
    if retry_after_seconds is not None:
        return ApiError(
            "upstream_rate_limited",
            f"The providers limit the rate, and no other model can take this request: {named}.",
            hint="Wait as Retry-After says.",
            retry_after_seconds=retry_after_seconds,
            error_class=ErrorClass.RATE_LIMITED.value,
        )
    return ApiError(
        "no_eligible_models",
        f"No model can take this request: {named}." if named else "No model that this client key may use is left.",
        hint="Name a model, relax the policy, or ask the operator.",
        is_lasting=is_lasting(excluded),
    )


def is_lasting(excluded: Mapping[str, str]) -> bool:
    """Whether none of the reasons passes by itself, so that the same request would be refused again."""
    return bool(excluded) and _PASSING.isdisjoint(excluded.values())


def rejected(failure: AttemptFailed) -> ApiError:
    """The client's own fault, in the provider's words and with its status."""
    return ApiError(
        "upstream_rejected",
        failure.message,
        param=(failure.wire.param or None) if failure.wire else None,
        status=failure.status if 400 <= failure.status < 500 else None,
        error_class=failure.error.value,
    )


def _alone(target: Target, failure: AttemptFailed) -> ApiError:
    """The error when a single target was asked."""
    error = failure.error
    match error:
        case ErrorClass.INVALID_REQUEST:
            return rejected(failure)
        case ErrorClass.CONTEXT_OVERFLOW:
            return ApiError("context_length_exceeded", failure.message, param="messages", error_class=error.value)
        case ErrorClass.RATE_LIMITED:
            return ApiError(
                "upstream_rate_limited",
                f"The provider limits the rate of {target.model_id}: {failure.message}",
                hint="Wait as Retry-After says, or allow fallback to other models.",
                retry_after_seconds=failure.retry_after,
                error_class=error.value,
            )
        case ErrorClass.TIMEOUT:
            return ApiError("upstream_timeout", failure.message, error_class=error.value)
    return ApiError(
        "upstream_error",
        f"{target.model_id} failed: {failure.message}",
        hint="Try again in a moment." if error is ErrorClass.TRANSIENT else "Ask the operator to check the provider.",
        error_class=error.value,
    )


def vault_locked() -> ApiError:
    return ApiError(
        "vault_locked",
        "The vault is locked, so no provider's credential can be used.",
        hint="Ask the operator to unlock it.",
        error_class="vault_locked",
    )


def unusable(target: Target, reason: str) -> ApiError:
    if reason == "vault_locked":
        return vault_locked()
    if reason == "no_dialect":
        return ApiError(
            "invalid_request",
            f"{target.model_id} does not serve this endpoint; it speaks {', '.join(target.provider.dialects)}.",
            param="model",
            hint="Name another model, or ask the operator to add the dialect to the provider.",
        )
    if reason == "no_price":
        return ApiError(
            "invalid_request",
            f"{target.model_id} has no price, so no budget can pay for it.",
            param="model",
            hint="Name another model, or ask the operator to enter its prices; 0 is free.",
        )
    why = "its provider has no credential yet"
    return ApiError(
        "upstream_error",
        f"{target.model_id} cannot be called: {why}.",
        hint="Ask the operator to complete the provider.",
    )
