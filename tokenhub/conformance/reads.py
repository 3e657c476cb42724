"""What an upstream received, out of its dialect's words, held to the rules by which the real provider refuses requests.
Pure. Each reader raises BrokenRule."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from tokenhub.conformance.rules import a_count, a_list, a_text, an_object, json_object, need, short
from tokenhub.conformance.values import CHAT, MESSAGES, RESPONSES, BrokenRule, Part, Received, Tool

_DATA_URL = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,(.*)", re.DOTALL)
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]+")
_LEAST_BUDGET = 1024


# -- OpenAI chat ---------------------------------------------------------------------------------------------------
def chat(body: dict[str, Any]) -> Received:
    read = Received(
        stream=body.get("stream") is True, max_tokens=body.get("max_completion_tokens", body.get("max_tokens"))
    )
    waiting: list[str] = []
    for number, message in enumerate(a_list(body.get("messages"), "messages")):
        what, role = f"messages[{number}]", a_text(an_object(message, "a message").get("role"), "a message's role")
        if role == "tool":
            identity = message.get("tool_call_id")
            need(identity in waiting, f"{what}: no call before it has the id {short(identity)}")
            waiting.remove(identity)
            read.parts.append(Part("tool", "result", _joined(message.get("content"), what), identity))
            continue
        need(not waiting, f"{what}: the calls {waiting} have no results")
        need(role in {"system", "developer", "user", "assistant"}, f"{what}.role is {short(role)}")
        if role in {"system", "developer"}:
            read.system += _joined(message.get("content"), what)
            continue
        if message.get("reasoning_content"):
            read.parts.append(Part(role, "thinking", message["reasoning_content"]))
        need("thinking_blocks" not in message, f"Unknown parameter: '{what}.thinking_blocks'.")
        _chat_content(read, role, message.get("content"), what)
        for call in message.get("tool_calls") or ():
            need(role == "assistant", f"{what}: a call of the {role}")
            identity = a_text(call.get("id"), f"{what}: a call's id", filled=True)
            function = an_object(call.get("function"), f"{what}: a call's function")
            json_object(a_text(function.get("arguments"), "arguments"), f"{what}: a call's arguments")
            read.parts.append(Part(role, "call", function["arguments"], identity, function["name"]))
            waiting.append(identity)
    need(not waiting, f"the calls {waiting} have no results")
    for tool in body.get("tools") or ():
        function = an_object(tool.get("function"), "a tool's function")
        read.tools.append(Tool(function["name"], function.get("description", ""), function.get("parameters") or {}))
    choice = body.get("tool_choice")
    read.tool_choice = choice["function"]["name"] if isinstance(choice, dict) else choice or ""
    read.one_call_at_a_time = body.get("parallel_tool_calls") is False
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        a_text(wanted["json_schema"].get("name"), "response_format.json_schema.name", filled=True)
        read.schema = wanted["json_schema"].get("schema")
    stop = body.get("stop") or ()
    read.stop = (stop,) if isinstance(stop, str) else tuple(stop)
    read.reasoning = bool(body.get("reasoning_effort") or body.get("reasoning"))
    return read


def _chat_content(read: Received, role: str, content: Any, what: str) -> None:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    for part in content or ():
        match part.get("type"):
            case "text":
                read.parts.append(Part(role, "text", part["text"]))
            case "refusal":
                read.parts.append(Part(role, "text", part["refusal"]))
            case "image_url":
                read.parts.append(Part(role, "image", _image(part["image_url"]["url"])))
            case "file":
                name = a_text(part["file"].get("filename"), f"{what}: filename", filled=True)
                read.parts.append(Part(role, "document", _data(part["file"]["file_data"]), name=name))
            case kind:
                raise BrokenRule(f"{what}.content: {short(kind)} is no type of a part")


def _image(url: str) -> str:
    """Its address, or its data without the words around it."""
    data = _DATA_URL.fullmatch(url)
    need(data is not None or url.startswith(("http://", "https://")), f"no address of an image: {url[:80]!r}")
    return data[1] if data is not None else url


def _data(url: str) -> str:
    data = _DATA_URL.fullmatch(url)
    if data is None:
        raise BrokenRule(f"no data of a file: {url[:80]!r}")
    return data[1]


def _joined(content: Any, what: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(a_text(an_object(one, what).get("text"), f"{what}: a part's text") for one in a_list(content, what))


# -- Anthropic messages --------------------------------------------------------------------------------------------
def messages(body: dict[str, Any]) -> Received:
    limit = a_count(body.get("max_tokens"), "max_tokens")
    need(limit, "max_tokens: Input should be greater than or equal to 1")
    read = Received(stream=body.get("stream") is True, max_tokens=limit, stop=tuple(body.get("stop_sequences") or ()))
    read.system = _joined(body.get("system") or "", "system")
    waiting: list[str] = []
    for number, message in enumerate(a_list(body.get("messages"), "messages")):
        what, role = f"messages.{number}", a_text(an_object(message, "a message").get("role"), "a message's role")
        need(role in {"user", "assistant"}, f"{what}.role is {short(role)}")
        need(number or role == "user", "messages: the first message has to be the user's")
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else a_list(content, what)
        need(blocks, f"{what}: content is empty")
        if waiting:
            given = [block.get("tool_use_id") for block in blocks[: len(waiting)]]
            need(
                role == "user" and sorted(map(str, given)) == sorted(waiting),
                f"{what}: results of {waiting} must come first",
            )
            waiting = []
        for block in blocks:
            _block(read, role, an_object(block, what), what, waiting)
    need(not waiting, f"messages: tool_use ids without tool_result blocks: {waiting}")
    for tool in body.get("tools") or ():
        schema = an_object(tool.get("input_schema"), "tools: input_schema")
        need(schema.get("type") == "object", f"tools: input_schema.type is {short(schema.get('type'))}")
        read.tools.append(
            Tool(a_text(tool.get("name"), "tools: name", filled=True), tool.get("description", ""), schema)
        )
    choice = body.get("tool_choice") or {}
    need(not choice or read.tools, "tool_choice may only be specified while providing tools")
    read.tool_choice = {"any": "required", "tool": choice.get("name", "")}.get(
        choice.get("type", ""), choice.get("type", "")
    )
    read.one_call_at_a_time = choice.get("disable_parallel_tool_use") is True
    read.schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    thinking = body.get("thinking") or {}
    read.reasoning = thinking.get("type") in {"enabled", "adaptive"}
    if thinking.get("type") == "enabled":
        budget = a_count(thinking.get("budget_tokens"), "thinking.budget_tokens")
        need(budget >= _LEAST_BUDGET, f"thinking.budget_tokens: {budget} is less than {_LEAST_BUDGET}")
        need(budget < limit, f"max_tokens {limit} must be greater than thinking.budget_tokens {budget}")
        _need_thoughts_first(body["messages"])
    if read.reasoning:
        need(body.get("temperature", 1) == 1, "temperature may only be set to 1 when thinking is enabled")
        need(
            choice.get("type", "auto") in {"auto", "none"},
            "Thinking may not be enabled when tool_choice forces tool use",
        )
    for name in body.keys() - _MESSAGES_FIELDS:
        raise BrokenRule(f"{name}: Extra inputs are not permitted")
    return read


def _need_thoughts_first(turns: list[dict[str, Any]]) -> None:
    """With a budget for reasoning, the turn whose calls are being answered has to begin with its reasoning."""
    last = [turn["content"] for turn in turns if turn["role"] == "assistant"][-1:]
    blocks = last[0] if last and turns[-1]["role"] == "user" and isinstance(last[0], list) else []
    if any(block.get("type") == "tool_use" for block in blocks):
        first = blocks[0].get("type")
        need(
            first in {"thinking", "redacted_thinking"},
            f"Expected `thinking` or `redacted_thinking`, but found `{first}`. When `thinking` is enabled, a final "
            "`assistant` message must start with a thinking block.",
        )


_MESSAGES_FIELDS: Final = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k",
        "tools", "tool_choice", "thinking", "metadata", "output_config", "service_tier", "container", "inference_geo",
        "cache_control",
    }
)  # fmt: skip


def _block(read: Received, role: str, block: dict[str, Any], what: str, waiting: list[str]) -> None:
    match block.get("type"):
        case "text":
            need(block["text"].strip(), f"{what}: text content blocks must contain non-whitespace text")
            read.parts.append(Part(role, "text", block["text"]))
        case "image":
            source = block["source"]
            if source["type"] == "base64":
                a_text(source.get("media_type"), f"{what}: media_type", filled=True)
            read.parts.append(Part(role, "image", source["url"] if source["type"] == "url" else source["data"]))
        case "document":
            source = block["source"]
            need(source["type"] == "base64", f"{what}: source.type is {short(source['type'])}")
            a_text(source.get("media_type"), f"{what}: media_type", filled=True)
            read.parts.append(Part(role, "document", source["data"], name=block.get("title") or ""))
        case "thinking":
            seal = a_text(block.get("signature"), f"{what}: thinking.signature", filled=True)
            read.parts.append(Part(role, "thinking", block["thinking"], seal=seal))
        case "redacted_thinking":
            read.parts.append(Part(role, "thinking", seal=a_text(block.get("data"), f"{what}: data", filled=True)))
        case "tool_use":
            identity = a_text(block.get("id"), f"{what}: tool_use.id", filled=True)
            need(_ANTHROPIC_ID.fullmatch(identity), f"{what}: tool_use.id {identity!r} must match [a-zA-Z0-9_-]+")
            given = an_object(block.get("input"), f"{what}: tool_use.input")
            read.parts.append(Part(role, "call", json.dumps(given), identity, block["name"]))
            waiting.append(identity)
        case "tool_result":
            text = _joined(block.get("content") or "", what)
            read.parts.append(Part(role, "result", text, block["tool_use_id"], is_error=block.get("is_error") is True))
        case kind:
            raise BrokenRule(f"{what}: {short(kind)} is no type of a block")


# -- OpenAI responses ----------------------------------------------------------------------------------------------
def responses(body: dict[str, Any]) -> Received:
    read = Received(stream=body.get("stream") is True, max_tokens=body.get("max_output_tokens"))
    read.system = body.get("instructions") or ""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else a_list(given, "input")
    calls: list[str] = []
    for number, item in enumerate(items):
        _item(read, an_object(item, "an item"), f"input[{number}]", calls)
    need(not calls, f"No tool output found for function calls {calls}")
    for tool in body.get("tools") or ():
        need(tool.get("type") == "function", f"tools: type is {short(tool.get('type'))}")
        read.tools.append(
            Tool(a_text(tool.get("name"), "tools: name"), tool.get("description") or "", tool.get("parameters") or {})
        )
    choice = body.get("tool_choice")
    read.tool_choice = choice["name"] if isinstance(choice, dict) else choice or ""
    read.one_call_at_a_time = body.get("parallel_tool_calls") is False
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        a_text(wanted.get("name"), "text.format.name", filled=True)
        read.schema = wanted.get("schema")
    read.reasoning = bool((body.get("reasoning") or {}).get("effort"))
    for name in (
        "messages",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "n",
        "seed",
        "stream_options",
    ):
        need(
            name not in body or (name == "stream_options" and "include_usage" not in (body[name] or {})),
            f"Unknown parameter: '{name}'.",
        )
    return read


def _item(read: Received, item: dict[str, Any], what: str, calls: list[str]) -> None:
    match item.get("type", "message"):
        case "message":
            _spoken(read, item, what)
        case "reasoning":
            a_text(item.get("id"), f"{what}.id", filled=True)
            text = "".join(one["text"] for one in a_list(item.get("summary"), f"{what}.summary"))
            part = Part("assistant", "thinking", text, item["id"], seal=item.get("encrypted_content") or "")
            need(
                part.seal, f"{what}: Item '{part.id}' not found. Items are not persisted when `store` is set to false."
            )
            read.parts.append(part)
        case "function_call":
            identity = a_text(item.get("call_id"), f"{what}.call_id", filled=True)
            need(len(identity) <= 64, f"{what}.call_id: string too long")
            json_object(a_text(item.get("arguments"), f"{what}.arguments"), f"{what}.arguments")
            name = a_text(item.get("name"), f"{what}.name", filled=True)
            need(str(item.get("id") or "fc_").startswith("fc"), f"{what}.id: expected an ID that begins with 'fc'")
            read.parts.append(Part("assistant", "call", item["arguments"], identity, name))
            calls.append(identity)
        case "function_call_output":
            identity = a_text(item.get("call_id"), f"{what}.call_id", filled=True)
            need(identity in calls, f"No tool call found for function call output with call_id {identity}.")
            calls.remove(identity)
            output = item.get("output")
            read.parts.append(Part("tool", "result", _joined(output, f"{what}.output"), identity))
        case kind:
            raise BrokenRule(f"{what}: {short(kind)} is no type of an input item")


def _spoken(read: Received, item: dict[str, Any], what: str) -> None:
    role, content = a_text(item.get("role"), f"{what}.role"), item.get("content")
    need(role in {"system", "developer", "user", "assistant"}, f"{what}.role is {short(role)}")
    need(str(item.get("id") or "msg_").startswith("msg"), f"{what}.id: expected an ID that begins with 'msg'")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else a_list(content, what)
    if role in {"system", "developer"}:
        read.system += _joined(parts, what)
        return
    for part in parts:
        kind = part.get("type")
        if isinstance(content, list):
            fits = {"output_text", "refusal"} if role == "assistant" else {"input_text", "input_image", "input_file"}
            need(kind in fits, f"{what}: Invalid value: {short(kind)} in a message of the {role}")
        match kind:
            case "input_image":
                read.parts.append(Part(role, "image", _image(a_text(part.get("image_url"), f"{what}.image_url"))))
            case "input_file":
                name = a_text(part.get("filename"), f"{what}: filename", filled=True)
                read.parts.append(Part(role, "document", _data(part["file_data"]), name=name))
            case "refusal":
                read.parts.append(Part(role, "text", part["refusal"]))
            case _:
                read.parts.append(Part(role, "text", a_text(part.get("text"), f"{what}: a part's text")))


READERS: Final[dict[str, Callable[[dict[str, Any]], Received]]] = {CHAT: chat, MESSAGES: messages, RESPONSES: responses}
