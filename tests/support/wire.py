"""What a well-behaved upstream says: bodies, events and errors of both dialects, for the fake upstream server."""

from __future__ import annotations

import json
from typing import Any

INPUT_TOKENS = 11
WORDS = ("Well", " met", " by", " moonlight", ",", " proud", " Titania", ".")
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def words(count: int) -> list[str]:
    return [WORDS[index % len(WORDS)] for index in range(count)]


def usage_of(*, anthropic: bool, count: int, override: dict[str, Any] | None) -> dict[str, Any]:
    if override is not None:
        return override
    if anthropic:
        return {"input_tokens": INPUT_TOKENS, "output_tokens": count}
    return {"prompt_tokens": INPUT_TOKENS, "completion_tokens": count, "total_tokens": INPUT_TOKENS + count}


def chat_body(model: str, count: int, usage: dict[str, Any], choices: int) -> bytes:
    message = {"role": "assistant", "content": "".join(words(count)), "refusal": None}
    listed = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"} for index in range(choices)
    ]
    return encode(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1700000000,
            "model": model,
            "choices": listed,
            "usage": usage,
        }
    )


def chat_events(model: str, count: int, usage: dict[str, Any] | None) -> list[bytes]:
    def event(choices: list[dict[str, Any]], **fields: Any) -> bytes:
        head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1700000000, "model": model}
        return b"data: %b\n\n" % encode({**head, "choices": choices, **fields})

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    events = [event(choice({"role": "assistant", "content": ""}))]
    events += [event(choice({"content": word})) for word in words(count)]
    events.append(event(choice({}, "stop")))
    if usage is not None:
        events.append(event([], usage=usage))
    return [*events, b"data: [DONE]\n\n"]


def messages_body(model: str, count: int, usage: dict[str, Any]) -> bytes:
    return encode(
        {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "".join(words(count))}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
    )


def messages_events(model: str, count: int, usage: dict[str, Any]) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))

    start = {**json.loads(messages_body(model, 0, {**usage, "output_tokens": 1})), "content": [], "stop_reason": None}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        event("message_start", message=start),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words(count)),
        event("content_block_stop", index=0),
        event("message_delta", delta=delta, usage={"output_tokens": usage.get("output_tokens", count)}),
        event("message_stop"),
    ]


def error_body(status: int, *, anthropic: bool) -> bytes:
    message = f"the fake upstream was told to answer {status}"
    if anthropic:
        kind = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            529: "overloaded_error",
        }.get(status, "api_error")
        return encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
    kind = {401: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error")
    kind = "invalid_request_error" if status in {400, 403, 404, 413, 422} else kind
    code = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}.get(status)
    return encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_event(*, anthropic: bool) -> bytes:
    if anthropic:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return b"event: error\ndata: %b\n\n" % encode(error)
    return b"data: %b\n\n" % encode({"error": {"message": "The server is overloaded", "type": "server_error"}})


def models_body(names: list[str]) -> bytes:
    data = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "fake"} for name in names]
    return encode({"object": "list", "data": data})


def embeddings_body(model: str, inputs: Any) -> bytes:
    count = len(inputs) if isinstance(inputs, list) else 1
    data = [{"object": "embedding", "index": index, "embedding": [0.25, -0.5, 1.0]} for index in range(count)]
    usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
    return encode({"object": "list", "data": data, "model": model, "usage": usage})
