"""What a trace is told of a request and of its calls, by OpenTelemetry's conventions for HTTP servers and for
generative AI: names and figures, nothing of what was said. Called only where tracing is on. No Django, no I/O."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any, Final

import msgspec

from providers.client import Url
from providers.formats.base import Dialect
from providers.formats.dialect import Usage
from routing.errors import ApiError
from routing.snapshot import Target
from telemetry.tracing import CANCELLED, Leg, Trace

if TYPE_CHECKING:
    from routing.visit import Visit

MAX_NAME: Final = 200
_OTHER_OPERATIONS: Final = {"anthropic-count-tokens": "count_tokens"}


# -- a call ------------------------------------------------------------------------------------------------------------
def begun(trace: Trace, target: Target, dialect: Dialect, url: Url, *, stream: bool) -> Leg:
    operation = "embeddings" if dialect.family == "embeddings" else _OTHER_OPERATIONS.get(dialect.name, "chat")
    told = {
        "provider.type": target.provider.type,
        "server.address": url.host,
        "server.port": url.port,
        "gen_ai.request.stream": stream,
        "tokenhub.model": target.model_id,
        "tokenhub.provider": target.provider.id,
        "tokenhub.dialect": dialect.name,
    }
    return trace.began(operation, target.upstream_model, told)


def answered(leg: Leg, body: bytes | None, first: bytes) -> None:
    """By a whole answer's `body`, or by the `first` bytes of a stream, which goes on."""
    leg.has_answered = True
    if body is not None:
        named = named_model(body)
        leg.end()
    else:
        named = named_model(first.partition(b"data:")[2].partition(b"\n")[0])
        leg.told["gen_ai.response.time_to_first_chunk"] = (time_ns() - leg.started) / 1e9
    if named:
        leg.told["gen_ai.response.model"] = named


def usage_told(usage: Usage) -> dict[str, int]:
    told = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {name: count for name, count in told.items() if count}


class _Inner(msgspec.Struct):
    model: str = ""


class _Named(msgspec.Struct):
    """Where the dialects name the model: at the top, or in a stream's first event one level below."""

    model: str = ""
    message: _Inner | None = None
    response: _Inner | None = None


_read_named = msgspec.json.Decoder(_Named).decode


def named_model(body: bytes) -> str:
    """The model that an answer, or the first event of a stream, says it is of. Empty where it says nothing."""
    try:
        found = _read_named(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    inner = found.message or found.response
    return (found.model or (inner.model if inner is not None else ""))[:MAX_NAME]


# -- the request -------------------------------------------------------------------------------------------------------
def ended(
    visit: Visit, trace: Trace, *, status: int, model: str, provider: str, cost_nano: int | None, error: ApiError | None
) -> None:
    """Hands the trace over."""
    method = visit.scope["method"]
    told: dict[str, Any] = {
        "http.request.method": method,
        "http.route": visit.endpoint,
        "url.path": visit.endpoint,
        "url.scheme": visit.scope.get("scheme", "http"),
        "http.response.status_code": 200 if visit.started else status,
        "tokenhub.request_id": visit.request_id,
        "tokenhub.dialect": visit.dialect.name,
        "tokenhub.stream": visit.stream,
        "tokenhub.attempts": len(visit.attempts),
    }
    named = {
        "tokenhub.requested_model": visit.requested_model,
        "tokenhub.alias": visit.alias,
        "tokenhub.mode": visit.mode,
        "tokenhub.model": model,
        "tokenhub.provider": provider,
        "tokenhub.reason": visit.reason,
        "tokenhub.project": visit.key.project if visit.key is not None else "",
        "error.type": error.code if error is not None else "",
    }
    told |= {name: value for name, value in named.items() if value}
    if cost_nano is not None:
        told["tokenhub.cost_usd"] = cost_nano / 1e9
    if visit.first_chunk_ms is not None:
        told["tokenhub.time_to_first_chunk_ms"] = visit.first_chunk_ms
    if visit.client_left:
        told["tokenhub.client_disconnected"] = True
    cut_off = error.error_class or error.code if error is not None else ""
    tracer = visit.runtime.tracer
    assert tracer is not None  # noqa: S101  it began the trace
    tracer.finish(
        trace,
        f"{method} {visit.endpoint}",
        failed=status >= 500,
        leg_error=CANCELLED if visit.client_left else cut_off,
        told=told,
    )
