"""What the router says of its choices, in sentences for people. Pure."""

from __future__ import annotations

from typing import Final

_EXCLUDED: Final = {
    "model_not_allowed": "The client key may not use it.",
    "below_min_weight": "Its weight is below the least that was asked for.",
    "context_too_small": "The request is longer than its context.",
    "embeddings_only": "It makes embeddings, and no chat.",
    "no_price": "It has no price, so that no ceiling can hold.",
    "over_budget": "It would cost more than the ceiling.",
    "over_latency": "It is slower than was asked for.",
    "no_dialect": "Its provider speaks no dialect that fits.",
    "no_credential": "Its provider has no credential.",
    "vault_locked": "The vault is locked, and the provider's credential in it.",
    "rate_limited": "It rests: its provider limits the rate.",
    "auth": "It rests: its provider refused the credential.",
    "down": "It rests after failures.",
}
UNPRICED: Final = (
    "The router counts them as much as the dearest model, their requests have no cost in the log, and neither client"
    " keys with a budget nor requests with a ceiling of their own can use them."
)
"""What it means that models have no price."""
AUTO: Final = frozenset({"", "*", "auto", "tokenhub/auto"})
MODE_PREFIX: Final = "tokenhub/"
"""Names in requests by which the router chooses, in its usual mode and in the one that is named."""
LAST_RESORT: Final = "last-resort"
_LACKS: Final = "lacks_"
_ROUTED: Final = "routed-weight-"
_REASONS: Final = {
    "model-hint": "It was asked for by name.",
    "alias-variant": "The alias stands for it.",
    LAST_RESORT: "It was down, but nobody else was left.",
    "thompson": "It was drawn by chance, from what was learned.",
    "escalated-context-overflow": "The first one could not hold so long a request.",
    "retried-transient": "It was asked once more after a passing failure.",
}


def exclusion_in_words(why: str) -> str:
    if why.startswith(_LACKS):
        return f"It cannot do {why[len(_LACKS) :].replace('_', ' ')}."
    return _EXCLUDED.get(why, why.replace("_", " "))


def reason_in_words(reason: str) -> str:
    if reason.startswith(_ROUTED):
        return f"The router chose it by its score; its weight is {reason[len(_ROUTED) :]}."
    return _REASONS.get(reason, reason)
