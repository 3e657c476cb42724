"""A script as OpenAI's Responses API would say it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenhub.conformance.says_chat import CREATED, call_id
from tokenhub.conformance.scripts import Script, arguments, pieces
from tokenhub.conformance.values import Stop, Usage


def usage(value: Usage) -> dict[str, Any]:
    return {
        "input_tokens": value.input,
        "input_tokens_details": {"cached_tokens": value.cached},
        "output_tokens": value.output,
        "output_tokens_details": {"reasoning_tokens": value.reasoning},
        "total_tokens": value.input + value.output,
    }


def reasoning_id(ticket: int) -> str:
    return f"rs_Conf{ticket:08}"


def whole(script: Script, request: dict[str, Any], ticket: int) -> dict[str, Any]:
    status = "incomplete" if script.stop is Stop.LENGTH else "completed"
    return {
        **_head(request, ticket),
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": _output(script, request, ticket, status),
        "usage": usage(script.usage),
    }


def _head(request: dict[str, Any], ticket: int) -> dict[str, Any]:
    return {
        "id": f"resp_Conf{ticket:08}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": request["model"],
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(request.get("reasoning") or {})},
        "service_tier": "default",
        "store": request.get("store", True),
        "temperature": 1.0,
        "text": request.get("text") or {"format": {"type": "text"}},
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _output(script: Script, request: dict[str, Any], ticket: int, status: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if script.thinking:
        item: dict[str, Any] = {"id": reasoning_id(ticket), "type": "reasoning", "summary": []}
        item["summary"] = [{"type": "summary_text", "text": script.thinking}]
        if "reasoning.encrypted_content" in (request.get("include") or ()):  # only those who ask get it
            item["encrypted_content"] = script.seal
        items.append(item)
    text = script.text
    if script.is_schema and ((request.get("text") or {}).get("format") or {}).get("type") != "json_schema":
        text = "Here is some prose, for nobody demanded JSON."
    part: dict[str, Any] | None = None
    if script.refusal:
        part = {"type": "refusal", "refusal": script.refusal}
    elif text:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    if part is not None:
        identity = f"msg_Conf{ticket:08}"
        items.append({"id": identity, "type": "message", "status": status, "content": [part], "role": "assistant"})
    for number, one in enumerate(script.calls):
        items.append(
            {
                "id": f"fc_Conf{ticket:08}x{number:02}",
                "type": "function_call",
                "status": status,
                "arguments": arguments(script, one),
                "call_id": call_id(ticket, number),
                "name": one.name,
            }
        )
    return items


def events(script: Script, request: dict[str, Any], ticket: int) -> Iterator[bytes]:
    """A counter gives each its sequence number."""
    for number, (kind, fields) in enumerate(_events(script, request, ticket)):
        told = {"type": kind, "sequence_number": number, **fields}
        yield b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(told).encode())


def _events(script: Script, request: dict[str, Any], ticket: int) -> Iterator[tuple[str, dict[str, Any]]]:
    head, final = _head(request, ticket), whole(script, request, ticket)
    yield "response.created", {"response": head}
    yield "response.in_progress", {"response": head}
    for index, item in enumerate(final["output"]):
        place = {"output_index": index}
        inner = {"item_id": item["id"], **place}
        match item["type"]:
            case "reasoning":
                early = {**item, "summary": []}
                if "encrypted_content" in item:
                    early["encrypted_content"] = "ZWFybHkgYW5kIG5vdCB0aGUgbGFzdA=="
                yield "response.output_item.added", {**place, "item": early}
                yield from _text(
                    item["summary"][0],
                    "reasoning_summary_part",
                    "reasoning_summary_text",
                    "text",
                    "summary_index",
                    inner,
                    script.piece,
                )
            case "message":
                yield "response.output_item.added", {**place, "item": {**item, "status": "in_progress", "content": []}}
                part = item["content"][0]
                name = "refusal" if part["type"] == "refusal" else "text"
                yield from _text(part, "content_part", part["type"], name, "content_index", inner, script.piece)
            case _:
                yield (
                    "response.output_item.added",
                    {**place, "item": {**item, "status": "in_progress", "arguments": ""}},
                )
                for piece in pieces(item["arguments"], script.piece):
                    yield "response.function_call_arguments.delta", {**inner, "delta": piece, "obfuscation": "xyz"}
                yield "response.function_call_arguments.done", {**inner, "arguments": item["arguments"]}
        yield "response.output_item.done", {**place, "item": item}
    yield f"response.{final['status']}", {"response": final}


def _text(
    part: dict[str, Any], part_kind: str, text_kind: str, name: str, counter: str, inner: dict[str, Any], size: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    where = {**inner, counter: 0}
    further: dict[str, Any] = {"logprobs": []} if text_kind == "output_text" else {}
    yield f"response.{part_kind}.added", {**where, "part": {**part, name: ""}}
    for piece in pieces(part[name], size):
        yield f"response.{text_kind}.delta", {**where, "delta": piece, **further, "obfuscation": "q3"}
    yield f"response.{text_kind}.done", {**where, name: part[name], **further}
    yield f"response.{part_kind}.done", {**where, "part": part}


def error_event(request: dict[str, Any], ticket: int, number: int) -> bytes:
    error = {"code": "server_error", "message": "The server had an error while processing your request."}
    response = {**_head(request, ticket), "status": "failed", "error": error}
    told = {"type": "response.failed", "sequence_number": number, "response": response}
    return b"event: response.failed\ndata: %b\n\n" % _json(told).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
