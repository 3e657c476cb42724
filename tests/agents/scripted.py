"""A scripted model: a real loopback server that speaks chat completions, messages and responses, and whose answers a
function of the test decides. It knows the wire formats by itself, so that no code of ours judges ours.

    def script(asked: Asked) -> Answer:
        return Answer("done") if asked.results else Answer(calls=(Call("Write", {"path": "x"}),))

    with Scripted() as upstream:
        upstream.script = script
        …
        upstream.asked              # every request as it was read"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.upstream import Fault, Reply, Request, Upstream
from tests.support.wire import encode

Dialect = Literal["chat", "messages", "responses"]
PATHS: dict[str, Dialect] = {"chat/completions": "chat", "messages": "messages", "responses": "responses"}
INPUT_TOKENS, OUTPUT_TOKENS = 120, 30


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool. A custom tool of the Responses dialect takes text for its arguments."""

    name: str
    arguments: dict[str, Any] | str
    id: str = "call_1"
    namespace: str = ""

    @property
    def written(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, slots=True)
class Answer:
    """Reasoning, then text, then calls, as far as there are any."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its dialect says it."""

    dialect: Dialect
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)

    @property
    def tools(self) -> list[str]:
        return [tool.get("name") or tool.get("function", {}).get("name", "") for tool in self.body.get("tools") or ()]

    def parameters(self, name: str) -> dict[str, Any]:
        """The JSON schema of what that tool takes."""
        one: dict[str, Any] = self.body["tools"][self.tools.index(name)]
        one = one.get("function", one)
        schema: dict[str, Any] = one["input_schema" if self.dialect == "messages" else "parameters"]
        return schema

    @property
    def calls(self) -> dict[str, str]:
        """Names of the called tools in the history, by the call's id."""
        match self.dialect:
            case "chat":
                said = [call for message in self.body["messages"] for call in message.get("tool_calls") or ()]
                return {call["id"]: call["function"]["name"] for call in said}
            case "messages":
                return {block["id"]: block["name"] for block in self._blocks("tool_use")}
            case "responses":
                kinds = {"function_call", "custom_tool_call"}
                return {item["call_id"]: item["name"] for item in self._items() if item.get("type") in kinds}

    @property
    def results(self) -> dict[str, str]:
        """What the tools gave, by the call's id."""
        match self.dialect:
            case "chat":
                said = [message for message in self.body["messages"] if message["role"] == "tool"]
                return {message["tool_call_id"]: _text(message["content"]) for message in said}
            case "messages":
                return {block["tool_use_id"]: _text(block.get("content")) for block in self._blocks("tool_result")}
            case "responses":
                kinds = {"function_call_output", "custom_tool_call_output"}
                found = [item for item in self._items() if item.get("type") in kinds]
                return {item["call_id"]: _text(item["output"]) for item in found}

    def _blocks(self, kind: str) -> Iterator[dict[str, Any]]:
        for message in self.body["messages"]:
            if isinstance(message["content"], list):
                yield from (block for block in message["content"] if block["type"] == kind)

    def _items(self) -> list[dict[str, Any]]:
        return self.body["input"] if isinstance(self.body["input"], list) else []


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


class Scripted(Upstream):
    def __init__(self) -> None:
        super().__init__()
        self.script: Callable[[Asked], Answer] = lambda _: Answer("Nobody told me what to say.")
        self.asked: list[Asked] = []
        self._breaks_after = 0

    def break_off(self, *, after: int) -> None:
        """The next stream ends with a reset after so many events."""
        self._breaks_after = after

    def reply_to(self, request: Request) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/v1/")
        if request.method == "POST" and path == "messages/count_tokens":
            return Reply(body=encode({"input_tokens": INPUT_TOKENS}))
        if request.method != "POST" or path not in PATHS:
            return super().reply_to(request)
        asked = Asked(PATHS[path], request.json, request.headers)
        self.asked.append(asked)
        if self._queue:
            return self._queue.popleft()
        events, whole = {"chat": _chat, "messages": _messages, "responses": _responses}[asked.dialect](
            asked.body, self.script(asked), len(self.requests)
        )
        if not asked.body.get("stream"):
            return Reply(body=encode(whole))
        at, self._breaks_after = self._breaks_after, 0
        return Reply(events=tuple(events), fault=Fault.RESET_MIDWAY if at else Fault.NONE, at=at)


def _pieces(text: str) -> list[str]:
    """In four or so, as models stream."""
    step = max(1, -(-len(text) // 4))
    return [text[start : start + step] for start in range(0, len(text), step)]


def _event(data: dict[str, Any], *, named: bool = True) -> bytes:
    name = b"event: %b\n" % data["type"].encode() if named else b""
    return name + b"data: %b\n\n" % encode(data)


def _chat(body: dict[str, Any], answer: Answer, number: int) -> tuple[list[bytes], dict[str, Any]]:
    head: dict[str, Any] = {"id": f"chatcmpl-{number}", "created": 1_700_000_000, "model": body["model"]}
    usage = {
        "prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }  # fmt: skip
    reason = "tool_calls" if answer.calls else "stop"
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.written}}
        for call in answer.calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}

    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _pieces(answer.text)]
    for index, call in enumerate(calls):
        function = {"name": answer.calls[index].name, "arguments": ""}
        deltas.append({"tool_calls": [{**call, "index": index, "function": function}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in _pieces(answer.calls[index].written)
        ]
    chunk: dict[str, Any] = {**head, "object": "chat.completion.chunk"}
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason})
    events = [_event({**chunk, "choices": [one]}, named=False) for one in choices]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(_event({**chunk, "choices": [], "usage": usage}, named=False))
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return [*events, b"data: [DONE]\n\n"], whole


def _messages(body: dict[str, Any], answer: Answer, number: int) -> tuple[list[bytes], dict[str, Any]]:
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    end = {"stop_reason": "tool_use" if answer.calls else "end_turn", "stop_sequence": None}
    blocks: list[dict[str, Any]] = []
    streamed: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": "c2lnbmVk"})
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(answer.reasoning)]
        deltas.append({"type": "signature_delta", "signature": "c2lnbmVk"})
        streamed.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(answer.text)]
        streamed.append(({"type": "text", "text": ""}, deltas))
    for call in answer.calls:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        blocks.append(block)
        pieces = ["", *_pieces(call.written)]
        streamed.append(
            ({**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces])
        )
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"]}
    whole = {**message, "content": blocks, **end, "usage": usage}
    start = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events = [_event({"type": "message_start", "message": start})]
    for index, (block, deltas) in enumerate(streamed):
        events.append(_event({"type": "content_block_start", "index": index, "content_block": block}))
        events += [_event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        events.append(_event({"type": "content_block_stop", "index": index}))
    events.append(_event({"type": "message_delta", "delta": end, "usage": {"output_tokens": OUTPUT_TOKENS}}))
    events.append(_event({"type": "message_stop"}))
    return events, whole


def _responses(body: dict[str, Any], answer: Answer, number: int) -> tuple[list[bytes], dict[str, Any]]:
    """Each item is announced empty, filled piece by piece, and repeated whole, as OpenAI's own server does."""
    items: list[dict[str, Any]] = []
    inner: list[dict[str, Any]] = []

    def add(item: dict[str, Any], empty: dict[str, Any], filled: list[dict[str, Any]]) -> None:
        index = len(items)
        items.append(item)
        inner.append({"type": "response.output_item.added", "output_index": index, "item": {**item, **empty}})
        inner.extend({**event, "output_index": index, "item_id": item["id"]} for event in filled)
        inner.append({"type": "response.output_item.done", "output_index": index, "item": item})

    if answer.reasoning:
        part: dict[str, Any] = {"type": "summary_text", "text": answer.reasoning}
        item: dict[str, Any] = {"id": f"rs_{number}", "type": "reasoning", "summary": [part]}
        item["encrypted_content"] = "c2VhbGVk"
        prefix, at = "response.reasoning_summary", {"summary_index": 0}
        add(item, {"summary": [], "encrypted_content": ""}, [
            {"type": f"{prefix}_part.added", **at, "part": {**part, "text": ""}},
            *({"type": f"{prefix}_text.delta", **at, "delta": piece} for piece in _pieces(answer.reasoning)),
            {"type": f"{prefix}_text.done", **at, "text": answer.reasoning},
            {"type": f"{prefix}_part.done", **at, "part": part},
        ])  # fmt: skip
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        item = {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        at, pieces = {"content_index": 0}, _pieces(answer.text)
        add(item, {"content": [], "status": "in_progress"}, [
            {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
            *({"type": "response.output_text.delta", **at, "delta": one, "logprobs": []} for one in pieces),
            {"type": "response.output_text.done", **at, "text": answer.text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": part},
        ])  # fmt: skip
    for index, call in enumerate(answer.calls):
        if isinstance(call.arguments, str):
            kind, key, prefix, prefix_id = "custom_tool_call", "input", "response.custom_tool_call_input", "ctc"
        else:
            kind, key, prefix, prefix_id = "function_call", "arguments", "response.function_call_arguments", "fc"
        item = {
            "id": f"{prefix_id}_{number}_{index}", "type": kind, "status": "completed", "call_id": call.id,
            "name": call.name, key: call.written,
        }  # fmt: skip
        if call.namespace:
            item["namespace"] = call.namespace
        add(item, {key: "", "status": "in_progress"}, [
            *({"type": f"{prefix}.delta", "delta": piece} for piece in _pieces(call.written)),
            {"type": f"{prefix}.done", key: call.written},
        ])  # fmt: skip

    usage = {
        "input_tokens": INPUT_TOKENS, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }  # fmt: skip
    whole = {
        "id": f"resp_{number}", "object": "response", "created_at": 1_700_000_000, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": body.get("instructions"), "model": body["model"], "output": items,
        "parallel_tool_calls": True, "previous_response_id": None, "store": False, "temperature": 1.0, "top_p": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}}, "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []), "truncation": "disabled", "metadata": {}, "usage": usage,
    }  # fmt: skip
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    listed = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *inner,
        {"type": "response.completed", "response": whole},
    ]
    return [_event({**event, "sequence_number": at}) for at, event in enumerate(listed)], whole


def structured(asked: Asked, value: dict[str, Any]) -> Answer:
    """The value in the way that the request demands: by the tool that it forces, else as text."""
    choice = asked.body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "tool":
        return Answer(calls=(Call(choice["name"], value, id="call_structured"),))
    return Answer(json.dumps(value))


def too_long(dialect: Dialect) -> Reply:
    """What providers say of a conversation that their model cannot hold."""
    error: dict[str, Any] = {"type": "invalid_request_error", "code": "context_length_exceeded", "param": "input"}
    error["message"] = "Your input exceeds the context window of this model. Please adjust your input and try again."
    if dialect == "chat":
        error["message"] = "This model's maximum context length is 128000 tokens, but your messages have 210000."
    if dialect == "messages":
        message = "prompt is too long: 210000 tokens > 200000 maximum"
        return Reply(status=400, body=encode({"type": "error", "error": {"type": error["type"], "message": message}}))
    return Reply(status=400, body=encode({"error": error}))
