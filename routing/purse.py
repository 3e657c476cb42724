"""The money of one request: before each attempt an upper bound of what it can cost is reserved from every budget that
concerns its payer, and at the end what it did cost is settled. Belongs to the event loop.

The bound: every byte of text as a token, a declared most for each image, PDF and recording, the whole context where
the input stands elsewhere, all twice where a cache is to keep some for an hour, times `n` answers, at the dearest price
that can apply. Where the client set no limit of its own to the answer, or one that the rest of a budget cannot pay, the
answer is limited to what it can pay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from time import time
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from django.db.utils import DatabaseError

from keys.auth import BudgetRecord
from keys.ledger import BudgetExceeded, BudgetGone, Ledger, Reserved
from providers.formats.base import Dialect
from providers.formats.envelope import Envelope
from routing.errors import ApiError
from routing.pricing import HIDDEN_TOKENS, HOUR_CACHE_FACTOR, Prices, dollars, upper_bound_nano
from routing.snapshot import Target
from telemetry.logs import EventLogger

log = EventLogger(__name__)
if TYPE_CHECKING:
    from routing.call import Call

LEAST_OUTPUT_TOKENS: Final = 16
UNLIMITED_OUTPUT_TOKENS: Final = 32_768  # what a model may answer of which no limit is known
MOST_TOKENS_PER_IMAGE: Final = 16_384  # OpenAI's newer models take up to 14,364 of 12 megapixels, Qwen 16,384
MOST_BILLED_PER_IMAGE: Final = {"gpt-4o-mini": 48_169}  # 2,833 and eight tiles of 5,667: more than it reads
BYTES_PER_RECORDED_TOKEN: Final = 20  # of base64; of the tightest codec it is a hundred
HELD_SECONDS: Final = 2.0  # after so long, what requests under way do not need may be back
HOUR: Final = b'"1h"'  # so a client of Anthropic asks a cache to keep what it sends
_DEARER: Final = {
    "service_tier": frozenset({"auto", "default", "flex", "scale", "standard", "standard_only"}),
    "speed": frozenset({"standard"}),
}
"""Parameters for which providers charge other prices than a model's, with the words that make nothing dearer."""
_TIERS: Final = frozenset(_DEARER)
_ELSEWHERE: Final = frozenset({"previous_response_id", "conversation", "prompt"})  # name texts that stand there
UNUSUAL: Final = _TIERS | _ELSEWHERE


class _Thinking(msgspec.Struct):
    budget_tokens: int | None = None


class NoPrice(Exception):
    """What nobody can price, no budget can bear."""


class Payer(Protocol):
    """Of a call's attempts."""

    def cover_at_once(self, call: Call, target: Target) -> bool:
        """Whether it has reserved what an attempt that has none beside it can cost; else `cover` must."""
        ...

    def beside(self) -> Payer:
        """The same, for attempts that are made side by side."""
        ...

    async def cover(self, call: Call, target: Target) -> tuple[Call, int]:
        """The call as it may be sent, and an amount that `over` must have once the attempt is over."""
        ...

    def over(self, amount: int) -> None: ...


class Purse(Reserved, eq=False, kw_only=True):
    """A payer. `budgets`: at least one. `fail_open`: where they cannot be read, requests are free. `open`: reserved for
    attempts under way. `spent`: by answers that came before the one that the client gets."""

    ledger: Ledger
    budgets: Sequence[BudgetRecord]
    fail_open: bool = False
    open: int = 0
    spent: int = 0
    turn: asyncio.Lock | None = None
    """Of attempts that are begun at the same time; None: nobody has asked to wait yet."""

    def cover_at_once(self, call: Call, target: Target) -> bool:
        """Nothing can be told of it without looking closer."""
        return False

    async def cover(self, call: Call, target: Target) -> tuple[Call, int]:
        """Reserves for one attempt; the call as it may be sent, and the amount, which is `open` until the attempt is
        over. Raises BudgetExceeded, NoPrice, ApiError when the budgets cannot be read, or a parameter has no price."""
        if self.budgets:
            require_priced(call.envelope)
        if target.prices is None:
            raise NoPrice
        if self.turn is None:
            self.turn = asyncio.Lock()
        async with self.turn:
            return await self._cover(call, target, target.prices)

    async def _cover(self, call: Call, target: Target, prices: Prices) -> tuple[Call, int]:
        envelope = call.envelope
        tokens = most_input(envelope, target)
        asked = most_output(envelope, target)
        count = envelope.n
        least = upper_bound_nano(prices, tokens, min(asked, least_output(envelope)) * count)
        most = upper_bound_nano(prices, tokens, asked * count)
        before = self.spent + self.open
        try:
            got = await self._reserve(most=before + most, least=before + least) - before
        except DatabaseError as problem:
            if self.fail_open:
                log.error("money_fail_open", error=type(problem).__name__)
                return call, 0
            raise ApiError(
                "accounting_unavailable",
                "The budgets cannot be read at the moment, so nothing can be spent.",
                hint="Try again in a moment.",
                retry_after_seconds=2,
            ) from None
        limit = asked
        if got < most:
            limit = _affordable(target, tokens, count, got, asked)
            got = upper_bound_nano(prices, tokens, limit * count)
            for one in self.held:
                self.ledger.lower_to(one, before + got)
        self.open += got
        is_known = not asked or target.max_output_tokens is not None
        if limit == envelope.max_output_tokens or (limit == asked and is_known):
            return call, got
        return limited(call, target, limit), got

    async def _reserve(self, *, most: int, least: int) -> int:
        """What every budget has reserved by now, at least. One that is no more is forgotten."""
        place = 0
        while place < len(self.budgets):
            try:
                if place < len(self.held):
                    await self.ledger.raise_to(self.held[place], most=most, least=least)
                else:
                    self.held.append(await self.ledger.reserve(self.budgets[place], most=most, least=least))
            except BudgetGone:
                self.budgets = [*self.budgets[:place], *self.budgets[place + 1 :]]
                del self.held[place : place + 1]
                continue
            most = min(most, self.held[place].amount)
            place += 1
        return most

    def beside(self) -> Purse:
        return self

    def over(self, amount: int) -> None:
        """The attempt that it was reserved for."""
        self.open -= amount


def most_input(envelope: Envelope, target: Target) -> int:
    size = envelope.messages_size + HIDDEN_TOKENS
    is_elsewhere = envelope.has_any(_ELSEWHERE)
    if envelope.has_media:
        media = envelope.media
        size += media.recordings // BYTES_PER_RECORDED_TOKEN - media.data
        if media.images:
            size += _most_of_images(media.images, target)
        size += min(media.pages, target.max_context_tokens)  # a compressed page of 4 kB has some 4,500 tokens
        is_elsewhere = is_elsewhere or media.has_more_elsewhere
    if is_elsewhere:
        size = max(size, target.max_context_tokens)
    if target.may_cache_for_an_hour and HOUR in envelope.body:
        size *= HOUR_CACHE_FACTOR
    return size


def require_priced(envelope: Envelope) -> None:
    """Raises ApiError for what costs more than prices know: no budget could tell how much."""
    if not envelope.has_any(_TIERS):
        return
    for name, plain in _DEARER.items():
        word = envelope.raw(name)
        if word and word != b"null" and word.strip(b'"').decode(errors="replace") not in plain:
            raise ApiError(
                "invalid_request",
                f"With this {name} a model costs more than its prices say, so no budget can pay for it.",
                param=name,
                hint=f"Leave {name} out, or ask the operator for a client key without a budget.",
            )


def _most_of_images(count: int, target: Target) -> int:
    for name, each in MOST_BILLED_PER_IMAGE.items():
        if name in target.upstream_model:
            return each * count
    return min(MOST_TOKENS_PER_IMAGE * count, target.max_context_tokens)


def most_output(envelope: Envelope, target: Target) -> int:
    """Tokens of one answer; 0 of embeddings, whatever else their model can."""
    if not envelope.n:
        return 0
    ceiling = target.max_output_tokens or UNLIMITED_OUTPUT_TOKENS
    if envelope.max_output_tokens is None:
        return ceiling
    return envelope.max_output_tokens


def least_output(envelope: Envelope) -> int:
    """Tokens of the shortest answer worth sending, which Anthropic wants to be longer than the thoughts that the client
    wants."""
    if thinking := envelope.raw("thinking"):
        try:
            wanted = msgspec.json.decode(thinking, type=_Thinking).budget_tokens
        except msgspec.DecodeError:  # its provider will say what is wrong with it
            wanted = None
        if wanted is not None:
            return max(wanted, 0) + LEAST_OUTPUT_TOKENS
    return LEAST_OUTPUT_TOKENS


def _affordable(target: Target, tokens: int, count: int, amount: int, asked: int) -> int:
    """The largest limit whose bound the amount pays."""
    assert target.prices is not None  # noqa: S101
    low, high = 0, asked
    while low < high:
        middle = (low + high + 1) // 2
        if upper_bound_nano(target.prices, tokens, middle * count) <= amount:
            low = middle
        else:
            high = middle - 1
    return low


def limited(call: Call, target: Target, limit: int) -> Call:
    """The call with that limit of its answer, in tokens."""
    dialect, envelope = call.dialect, call.envelope
    return replace(
        call,
        envelope=_limited(dialect, envelope, target, limit),
        plain=call.plain and _limited(dialect, call.plain, target, limit),
        lowered_to=limit,
        _parsed=None,
        _parsed_plain=None,
    )


def _limited(dialect: Dialect, envelope: Envelope, target: Target, limit: int) -> Envelope:
    fields = msgspec.json.decode(envelope.body, type=dict[str, msgspec.Raw])
    name = "max_tokens"
    if dialect.name == "openai-responses":
        name = "max_output_tokens"
    elif dialect.name == "openai-chat" and (
        envelope.raw("max_completion_tokens") or (_is_openai(target) and not envelope.raw("max_tokens"))
    ):
        name = "max_completion_tokens"
    fields[name] = msgspec.Raw(b"%d" % limit)
    return dialect.read_envelope(msgspec.json.encode(fields))


def _is_openai(target: Target) -> bool:
    """Its newer models know `max_completion_tokens` only; many a compatible service knows `max_tokens` only."""
    hosts = [urlsplit(one.shown).hostname or "" for one in target.provider.endpoints]
    return all(host.endswith((".openai.com", ".azure.com")) for host in hosts)


def exceeded(problem: BudgetExceeded) -> ApiError:
    """With the budget, what is spent of it, what the request needs, and when that may be there."""
    budget, resets_at = problem.budget, problem.resets_at
    wait = max(resets_at - time(), 1.0) if resets_at < inf else None
    held = ""
    if problem.spent + problem.needed <= budget.amount:
        wait = HELD_SECONDS
        held = " The rest is held for requests under way, and comes back when they cost less."
    details: dict[str, object] = {
        "budget_usd": budget.amount / 1e9, "spent_usd": problem.spent / 1e9, "needed_usd": problem.needed / 1e9,
        "budget": budget.whose, "period": budget.every,
        "resets_at": _moment(resets_at) if resets_at < inf else None,
    }  # fmt: skip
    return ApiError(
        "budget_exceeded",
        f"The budget of {budget.whose}, ${dollars(budget.amount)} per {budget.every}, cannot pay this request: "
        f"${dollars(problem.spent)} of it is spent, and the request may cost at least ${dollars(problem.needed)}."
        f"{held}",
        hint="Ask for less with max_tokens, wait for the budget's next period, or ask the operator for more.",
        retry_after_seconds=wait,
        details=details,
        noted=details,
    )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
