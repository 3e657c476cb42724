"""A script as OpenAI chat completions would say it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tokenhub.conformance.scripts import Script, arguments, pieces
from tokenhub.conformance.values import Stop, Usage

_FINISH: Final = {Stop.LENGTH: "length", Stop.TOOLS: "tool_calls"}
CREATED: Final = 1_754_688_908


def usage(value: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": value.input,
        "completion_tokens": value.output,
        "total_tokens": value.input + value.output,
        "prompt_tokens_details": {"cached_tokens": value.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": value.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def call_id(ticket: int, number: int) -> str:
    return f"call_Conf{ticket:08}x{number:02}"


def whole(script: Script, request: dict[str, Any], ticket: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": script.text or None,
        "refusal": script.refusal or None,
        "annotations": [],
    }
    if script.thinking:
        message["reasoning_content"] = script.thinking
    if script.calls:
        message["tool_calls"] = [
            {
                "id": call_id(ticket, number),
                "type": "function",
                "function": {"name": one.name, "arguments": arguments(script, one)},
            }
            for number, one in enumerate(script.calls)
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH.get(script.stop, "stop")}
    return {
        "id": f"chatcmpl-Conf{ticket}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request["model"],
        "choices": [choice],
        "usage": usage(script.usage),
        "service_tier": "default",
        "system_fingerprint": "fp_ff25b2783a",
    }


def events(script: Script, request: dict[str, Any], ticket: int) -> Iterator[bytes]:
    with_usage = (request.get("stream_options") or {}).get("include_usage") is True
    head = {
        "id": f"chatcmpl-Conf{ticket}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": request["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_ff25b2783a",
    }

    def chunk(choices: list[dict[str, Any]], used: Any = None) -> bytes:
        told = {"usage": used} if with_usage else {}
        return b"data: %b\n\n" % _json({**head, "choices": choices, **told, "obfuscation": "8RXlE4Z5"}).encode()

    def delta(finish: str | None = None, **fields: Any) -> bytes:
        return chunk([{"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish}])

    yield delta(role="assistant", content=None if script.calls else "", refusal=None)
    for piece in pieces(script.thinking, script.piece):
        yield delta(reasoning_content=piece)
    for piece in pieces(script.text, script.piece):
        yield delta(content=piece)
    for piece in pieces(script.refusal, script.piece):
        yield delta(refusal=piece)
    for number, call in enumerate(script.calls):
        function = {"name": call.name, "arguments": ""}
        yield delta(
            tool_calls=[{"index": number, "id": call_id(ticket, number), "type": "function", "function": function}]
        )
        for piece in pieces(arguments(script, call), script.piece):
            yield delta(tool_calls=[{"index": number, "function": {"arguments": piece}}])
    yield delta(_FINISH.get(script.stop, "stop"))
    if with_usage:
        yield chunk([], usage(script.usage))
    yield b"data: [DONE]\n\n"


def error(status: int, words: str) -> dict[str, Any]:
    """Also of responses and embeddings."""
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error")
    code = {400: "invalid_value", 429: "rate_limit_exceeded"}.get(status)
    return {"error": {"message": words, "type": kind, "param": None, "code": code}}


def error_event() -> bytes:
    return b"data: %b\n\n" % _json(error(500, "The server had an error while processing your request.")).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
