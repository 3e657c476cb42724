"""A script as Anthropic would say it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tokenhub.conformance.scripts import STOP_SEQUENCE, Script, arguments, pieces
from tokenhub.conformance.values import Stop, Usage

_STOPS: Final = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.TOOLS: "tool_use",
    Stop.SEQUENCE: "stop_sequence",
    Stop.REFUSAL: "refusal",
}


def usage(value: Usage) -> dict[str, Any]:
    return {
        "input_tokens": value.input - value.cached - value.written,
        "cache_creation_input_tokens": value.written,
        "cache_read_input_tokens": value.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": value.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": value.output,
        "service_tier": "standard",
    }


def call_id(ticket: int, number: int) -> str:
    return f"toolu_01Conf{ticket:08}x{number:02}"


def whole(script: Script, request: dict[str, Any], ticket: int) -> dict[str, Any]:
    blocks, stop = _blocks(script, request, ticket)
    return {
        "id": f"msg_01Conf{ticket}",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": STOP_SEQUENCE if script.stop is Stop.SEQUENCE else None,
        "usage": usage(script.usage),
    }


def _blocks(script: Script, request: dict[str, Any], ticket: int) -> tuple[list[dict[str, Any]], str]:
    blocks: list[dict[str, Any]] = []
    if script.thinking:
        blocks.append({"type": "thinking", "thinking": script.thinking, "signature": script.seal})
    if script.redacted:
        blocks.append({"type": "redacted_thinking", "data": script.redacted})
    forced = _forced_tool(request) if script.is_schema else ""
    if forced:
        call = {"type": "tool_use", "id": call_id(ticket, 0), "name": forced, "input": json.loads(script.text)}
        return [*blocks, call], "tool_use"
    text = script.text or script.refusal
    if script.is_schema and not (request.get("output_config") or {}).get("format"):
        text = "Here is some prose, for nobody demanded JSON."
    if text:
        blocks.append({"type": "text", "text": text})
    for number, one in enumerate(script.calls):
        given = {} if script.is_cut_in_call else one.arguments
        blocks.append({"type": "tool_use", "id": call_id(ticket, number), "name": one.name, "input": given})
    return blocks, _STOPS[script.stop]


def _forced_tool(request: dict[str, Any]) -> str:
    """The name of the one tool that the request leaves."""
    choice = request.get("tool_choice") or {}
    if choice.get("type") == "tool":
        return str(choice["name"])
    tools = request.get("tools") or []
    return str(tools[0]["name"]) if choice.get("type") == "any" and len(tools) == 1 else ""


def events(script: Script, request: dict[str, Any], ticket: int) -> Iterator[bytes]:
    message = whole(script, request, ticket)
    blocks, used = message["content"], message["usage"]
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**used, "output_tokens": 1},
    }
    yield _event("message_start", message=start)
    for index, block in enumerate(blocks):
        empty, deltas = _in_pieces(block, script.piece)
        if script.is_cut_in_call:
            text = arguments(script, script.calls[-1])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text, script.piece)]
        yield _event("content_block_start", index=index, content_block=empty)
        if not index:
            yield b'event: ping\ndata: {"type": "ping"}\n\n'
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    told = {name: value for name, value in used.items() if name.endswith("tokens")}
    yield _event("message_delta", delta=delta, usage=told)
    yield _event("message_stop")


def _in_pieces(block: dict[str, Any], size: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            said = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"], size)]
            return {"type": "text", "text": ""}, said
        case "thinking":
            said = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"], size)]
            said.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, said
        case "tool_use":
            text = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
            said = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(text, size)]]
            return {**block, "input": {}}, said
    return block, []


def error(status: int, words: str) -> dict[str, Any]:
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_011Conf"}


def error_event() -> bytes:
    return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def _event(kind: str, **fields: Any) -> bytes:
    """Padded with blanks, as Anthropic pads them."""
    text = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}{' ' * (len(text) % 12)}\n\n".encode()
