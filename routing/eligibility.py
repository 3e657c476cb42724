"""Which targets may answer a request, and why the others may not. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from keys.auth import KeyRecord
from providers.formats.base import Dialect
from providers.formats.dialect import Usage
from providers.formats.envelope import Envelope
from routing.policy import Policy
from routing.pricing import cost_nano, plain_cost_nano
from routing.snapshot import Target

HEADROOM = 1.15
BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1_500
EXPECTED_OUTPUT_TOKENS = 512
CACHED_FROM_TOKENS = 1_024  # the providers' caches begin there
CACHED_SHARE = 0.8  # of a later turn's input, which is what came before it
BINARY_BYTES = 512
_RUN = re.compile(rb"[A-Za-z0-9+/=]{16,}")  # shorter than BINARY_BYTES, lest every byte of a run begins another try


class Needs(NamedTuple):
    """What a request takes, as far as it can be told without a tokenizer."""

    input_tokens: int
    output_tokens: int
    abilities: frozenset[str]


NO_ABILITIES: Final[frozenset[str]] = frozenset()


EMBEDDINGS: Final = frozenset({"embeddings"})


def needs_of_embedding(envelope: Envelope) -> Needs:
    return Needs(max(envelope.messages_size, 0) // BYTES_PER_TOKEN + 1, 0, EMBEDDINGS)


def needs_of(envelope: Envelope) -> Needs:
    size, extra = envelope.messages_size, 0
    wanted = set()
    if envelope.has_images or envelope.has_documents:
        binary = [run for run in _RUN.findall(envelope.body) if len(run) >= BINARY_BYTES]
        size -= sum(map(len, binary))
        extra = TOKENS_PER_IMAGE * max(len(binary), 1)
        if envelope.has_images:
            wanted.add("vision")
        if envelope.has_documents:
            wanted.add("documents")
    if envelope.has_tools:
        wanted.add("tools")
    if envelope.has_json_schema:
        wanted.add("structured_output")
    output = EXPECTED_OUTPUT_TOKENS
    if envelope.max_output_tokens is not None:
        output = min(output, envelope.max_output_tokens)
    return Needs(
        input_tokens=max(size, 0) // BYTES_PER_TOKEN + extra + 1,
        output_tokens=output * max(envelope.n, 1),
        abilities=frozenset(wanted) if wanted else NO_ABILITIES,
    )


def expected_cost(target: Target, needs: Needs, is_home: bool = False) -> int | None:
    """In nano-dollars; None without a price. `is_home`: the conversation's earlier turns went there, so that most of
    the input is in its provider's cache, if it is long enough for one."""
    if target.prices is None:
        return None
    if is_home and needs.input_tokens >= CACHED_FROM_TOKENS:
        cached = int(needs.input_tokens * CACHED_SHARE)
        usage = Usage(input_tokens=needs.input_tokens, cached_input_tokens=cached, output_tokens=needs.output_tokens)
        return cost_nano(target.prices, usage)
    return plain_cost_nano(target.prices, needs.input_tokens, needs.output_tokens)


def exclusion(
    target: Target,
    *,
    dialect: Dialect,
    needs: Needs,
    policy: Policy,
    key: KeyRecord,
    resting: str,
    latency_ms: float,
    vault_open: bool,
    cost: int | None,
) -> str:
    """Why the router may not pick the target; empty when it may. `resting`: what its health says; `cost`: expected, in
    nano-dollars."""
    if not key.may_use(target.model_id):
        return "model_not_allowed"
    if target.weight < policy.min_weight:
        return "below_min_weight"
    if needs.input_tokens * HEADROOM > target.max_context_tokens:
        return "context_too_small"
    if needs.abilities and not needs.abilities <= target.abilities:
        return "lacks_" + min(needs.abilities - target.abilities)
    if target.abilities == EMBEDDINGS and dialect.family != "embeddings":
        return "embeddings_only"
    if unusable := unusable_because(target, dialect=dialect, vault_open=vault_open):
        return unusable
    if resting:
        return resting
    if key.budgets and target.prices is None:
        return "no_price"
    if policy.max_budget_nano is not None:
        if cost is None:
            if policy.budget_is_own:
                return "no_price"
        elif cost > policy.max_budget_nano:
            return "over_budget"
    if policy.max_latency_ms is not None and latency_ms > policy.max_latency_ms:
        return "over_latency"
    return ""


def unusable_because(target: Target, *, dialect: Dialect, vault_open: bool) -> str:
    """Why nobody can call the target at the moment for a client of that dialect; empty when one can."""
    if target.dialect_for(dialect) is None:
        return "no_dialect"
    provider = target.provider
    if provider.needs_credential:
        if provider.credential is None:
            return "no_credential"
        if not vault_open:
            return "vault_locked"
    return ""
