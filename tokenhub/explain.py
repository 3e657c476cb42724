"""A request's page as a story: what was asked, who was called and when, who was compared and left out and why, what it
took and cost by kind, and what the router would do today. From the row alone, and from today's prices."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from django.urls import reverse
from django.utils import timezone

from providers.formats.dialect import Usage
from routing.models import Model
from routing.pricing import NANO, Prices, cost_nano, dollars
from routing.snapshot_build import prices_of
from routing.words import AUTO, exclusion_in_words, reason_in_words
from telemetry.models import RequestLog
from tokenhub.refusals import Refusal, refusal

_FAILOVER: Final = "failover-"
_PARTS: Final = ("cost", "latency", "failure", "capability")
_KINDS: Final = (
    ("input", "Input, fresh"), ("cached_input", "Input, from a cache"), ("cache_write", "Input, written to a cache"),
    ("hour_cache_write", "Input, written to a cache for an hour"),
    ("output", "Output"), ("reasoning", "Output, thought"),
)  # fmt: skip


class Attempt(NamedTuple):
    """`at` and `width`: of its bar, in percent of the whole."""

    number: int
    model: str
    provider: str
    is_answer: bool
    outcome: str
    message: str
    latency_ms: int
    at: float
    width: float


class Candidate(NamedTuple):
    """`parts`: name, number, and its bar in percent of the largest of all. `excluded`: why, in words; `code`: as the
    API has it."""

    model: str
    provider: str
    is_chosen: bool
    score: float
    parts: list[tuple[str, float, float]]
    probability: float
    excluded: str
    code: str
    is_priced: bool


class Kind(NamedTuple):
    name: str
    tokens: int
    cost_usd: str | None


class Story(NamedTuple):
    outcome: str
    mood: str
    asked: str
    reason: str
    refusal: Refusal | None
    attempts: list[Attempt]
    total_ms: int
    beside_ms: int
    first_at: float | None
    candidates: list[Candidate]
    excluded: list[Candidate]
    kinds: list[Kind]
    cost_note: str
    headers: list[tuple[str, str]]
    question: dict[str, Any]
    links: dict[str, str]


def story(row: RequestLog) -> Story:
    attempts, total = timeline(row)
    called = sum(one.latency_ms for one in attempts)
    candidates = compared(row)
    kinds, note = by_kind(row)
    first = row.time_to_first_chunk_ms
    return Story(
        outcome=outcome(row),
        mood="warn" if row.client_disconnected else "bad" if row.status >= 400 else "good",
        asked=asked(row),
        reason=reason(row),
        refusal=refusal(row),
        attempts=attempts,
        total_ms=total,
        beside_ms=max(row.latency_ms - called, 0),
        first_at=100 * first / total if first is not None and total else None,
        candidates=[one for one in candidates if not one.excluded],
        excluded=[one for one in candidates if one.excluded],
        kinds=kinds,
        cost_note=note,
        headers=headers(row),
        question=question(row),
        links=links(row),
    )


def outcome(row: RequestLog) -> str:
    if row.client_disconnected:
        return f"The client left after {row.latency_ms:,} ms"
    if row.status < 400 and not row.error_code:
        if row.counts_tokens:
            return f"Tokens were counted for {row.model_id} at {row.provider_id} in {row.latency_ms:,} ms"
        whom = f"{row.model_id} at {row.provider_id} answered" if row.model_id else "Answered"
        return f"{whom} in {row.latency_ms:,} ms"
    return f"Failed with {row.status} {row.error_code or row.error_class} after {row.latency_ms:,} ms".replace(
        "  ", " "
    )


def asked(row: RequestLog) -> str:
    who = row.api_key_name or "Somebody without a client key"
    if not row.asked_for:
        return f"{who} called {row.endpoint}: nothing was asked for."
    if row.counts_tokens:
        return f"{who} asked how many tokens a request to {row.asked_for} would have."
    if row.mode or row.requested_model in AUTO:
        what = f"the router to choose, in the mode {row.mode}" if row.mode else "the router to choose"
    else:
        what = f"the alias {row.alias}" if row.alias else f"the model {row.requested_model}"
    return f"{who} asked for {what}."


def reason(row: RequestLog) -> str:
    if row.routing_reason.startswith(_FAILOVER):
        error = row.routing_reason.removeprefix(_FAILOVER).replace("_", " ")
        return f"Another one was asked before, and failed: {error}."
    if row.routing_reason:
        return reason_in_words(row.routing_reason)
    return "" if row.attempts or not row.asked_for else "It was refused before anybody was asked."


# -- when ------------------------------------------------------------------------------------------------------------
def timeline(row: RequestLog) -> tuple[list[Attempt], int]:
    """One after the other, as they were made; and how long the axis is. What a stream took after its head belongs to
    the last one."""
    told = row.detail.get("attempts", [])
    total = max(row.latency_ms, sum(one.get("latency_ms", 0) for one in told), 1)
    found: list[Attempt] = []
    at = 0
    for number, one in enumerate(told, 1):
        took = one.get("latency_ms", 0)
        error, status = one.get("error_class", ""), one.get("status", 0)
        words = error.replace("_", " ") or "answered"
        found.append(
            Attempt(
                number, one["model"], one["provider"], not error, f"{words} ({status})" if status else words,
                one.get("message", ""), took, 100 * at / total, max(100 * took / total, 0.5),
            )
        )  # fmt: skip
        at += took
    return found, total


# -- who -------------------------------------------------------------------------------------------------------------
def compared(row: RequestLog) -> list[Candidate]:
    told = row.detail.get("candidates", [])
    most = max((abs(one.get(part, 0.0)) for one in told for part in _PARTS), default=0.0) or 1.0
    unpriced = Model.objects.unpriced(timezone.now()).ids({one["model"] for one in told}) if told else set()
    return [
        Candidate(
            one["model"],
            one["provider"],
            (one["model"], one["provider"]) == (row.model_id, row.provider_id),
            one.get("score", 0.0),
            [(part, one.get(part, 0.0), 100 * abs(one.get(part, 0.0)) / most) for part in _PARTS],
            one.get("probability", 0.0),
            exclusion_in_words(one["excluded"]) if one.get("excluded") else "",
            one.get("excluded", ""),
            one["model"] not in unpriced,
        )
        for one in told
    ]


# -- how much --------------------------------------------------------------------------------------------------------
def by_kind(row: RequestLog) -> tuple[list[Kind], str]:
    """Tokens, with the cost of each kind where the prices of that moment are known: they must add up to what was
    charged."""
    usage = Usage(
        input_tokens=row.input_tokens, output_tokens=row.output_tokens, cached_input_tokens=row.cached_input_tokens,
        cache_write_tokens=row.cache_write_tokens, reasoning_tokens=row.reasoning_tokens,
        hour_cache_write_tokens=row.detail.get("hour_cache_write_tokens", 0),
    )  # fmt: skip
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    for_an_hour = min(usage.hour_cache_write_tokens, written)
    thought = min(usage.reasoning_tokens, usage.output_tokens)
    tokens = {
        "input": usage.input_tokens - cached - written, "cached_input": cached,
        "cache_write": written - for_an_hour, "hour_cache_write": for_an_hour,
        "output": usage.output_tokens - thought, "reasoning": thought,
    }  # fmt: skip
    prices, note = None, ""
    if row.cost_usd is None:
        note = "It has no cost: the model had no price." if row.model_id else ""
    else:
        prices = _prices(row.model_id, row.created_at)
        if prices is None or cost_nano(prices, usage) != int(row.cost_usd * NANO):
            prices, note = None, "What each kind cost cannot be told any more: the prices were others at that time."
    held = prices.of(usage.input_tokens) if prices is not None else None
    kinds = [
        Kind(name, tokens[kind], None if held is None else f"${dollars(tokens[kind] * getattr(held, kind) // 1000)}")
        for kind, name in _KINDS
        if tokens[kind] or kind in {"input", "output"}
    ]
    if row.usage_estimated:
        note = f"The provider told no usage: these numbers are an estimate. {note}".strip()
    return kinds, note


def _prices(model_id: str, at: datetime) -> Prices | None:
    model = Model.objects.filter(pk=model_id).prefetch_related("dated_prices").first()
    if model is None:
        return None
    return prices_of(model, sorted(model.dated_prices.all(), key=lambda one: one.starts_at), at)


def headers(row: RequestLog) -> list[tuple[str, str]]:
    """What the client was told in headers, as far as the log knows it."""
    failed = row.status >= 400
    told = {
        "X-TokenHub-Request-ID": str(row.request_id),
        "X-Request-ID": row.client_request_id or str(row.request_id),
        "X-TokenHub-Model": "" if failed else row.model_id,
        "X-TokenHub-Provider": "" if failed else row.provider_id,
        "X-TokenHub-Reason": "" if failed else row.routing_reason,
        "X-TokenHub-Attempts": str(row.attempts) if row.attempts else "",
        "X-TokenHub-Alias": "" if failed else row.alias,
        "X-TokenHub-Estimated-Cost-USD": "" if failed else _dollars(row.estimated_cost_usd),
        "X-TokenHub-Cost-USD": "" if failed or row.stream else _dollars(row.cost_usd),
        "X-TokenHub-Warning": row.detail.get("warning", ""),
        "X-TokenHub-Error-Code": row.error_code if failed else "",
        "Retry-After": str(row.detail.get("retry_after", "")),
    }
    return [(name, value) for name, value in told.items() if value]


def _dollars(amount: Any) -> str:
    return "" if amount is None else dollars(int(amount * NANO))


# -- what now --------------------------------------------------------------------------------------------------------
def question(row: RequestLog) -> dict[str, Any]:
    """For `/admin/v1/routing/simulate`. What the request needed, such as tools, is not in the log."""
    found: dict[str, Any] = {"token_count": row.input_tokens or 1000, "output_tokens": row.output_tokens or 256}
    if row.mode:
        found["mode"] = row.mode
    elif row.asked_for and row.asked_for not in AUTO:
        found["model_hint"] = row.requested_model
    if row.api_key_id:
        found["api_key_id"] = row.api_key_id
    return found


def links(row: RequestLog) -> dict[str, str]:
    """To the requests of the same model, key and error."""
    log = reverse("admin:telemetry_requestlog_changelist")
    fields = {"model": "model_id", "key": "api_key_id", "error": "error_code"}
    wanted = {name: (field, getattr(row, field)) for name, field in fields.items()}
    return {name: f"{log}?{urlencode([pair])}" for name, pair in wanted.items() if pair[1]}
