"""Anthropic messages to and from the canonical form: requests and whole answers. The wire types stand in
anthropic_types, streams in anthropic_stream. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats import anthropic_types as wire
from providers.formats.anthropic_wire import WireUsage
from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Document,
    Image,
    Message,
    OutputSchema,
    Part,
    Refusal,
    StopReason,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from providers.formats.dialect import Rendered, Usage
from providers.formats.errors import InvalidRequest
from providers.formats.reading import further_fields, given, is_json_object, read_answer, read_body

_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(wire.Request).decode
_KNOWN = frozenset(wire.Request.__struct_fields__) | {"cache_control"}  # a caching mark asks for no other answer
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_EMPTY_SCHEMA = Raw(b'{"type":"object","properties":{}}')
MAX_TEMPERATURE = 1.0
UNPARSED_ARGUMENTS = "unparsed_arguments"

STOP_REASONS: Final = {
    "end_turn": StopReason.END,
    "max_tokens": StopReason.LENGTH,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "tool_use": StopReason.TOOL_CALLS,
    "pause_turn": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT,
}
WORDS: Final = {reason: word for word, reason in STOP_REASONS.items()}


# -- a client's request --------------------------------------------------------------------------------------------
def parse_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    read = read_body(_request, body)
    others = further_fields(body, _KNOWN)
    if others.get("service_tier") == "auto":
        del others["service_tier"]
    thinking = others.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        del others["thinking"]
    messages = [Message("system", tuple(_texts(read.system)))] if read.system else []
    messages += [Message(one.role, tuple(_parts(one.content, number))) for number, one in enumerate(read.messages)]
    request = ChatRequest(
        messages=messages,
        max_output_tokens=read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stop=list(read.stop_sequences or ()),
        stream=bool(read.stream),
        user=(read.metadata.user_id if read.metadata is not None else None) or "",
        others=others,
    )
    for tool in read.tools or ():
        if tool.type not in {None, "custom"} or not tool.name:
            request.dropped.append(f"tools.{tool.type or 'unnamed'}")
            continue
        request.tools.append(
            Tool(tool.name, tool.description or "", given(tool.input_schema), tool.strict, given(tool.cache_control))
        )
    if (choice := read.tool_choice) is not None:
        match choice.type:
            case "auto" | "none":
                request.tool_choice = ToolChoice(choice.type)
            case "any":
                request.tool_choice = ToolChoice("required")
            case "tool":
                request.tool_choice = ToolChoice("named", choice.name)
        if choice.disable_parallel_tool_use is not None:
            request.parallel_tool_calls = not choice.disable_parallel_tool_use
    if (config := read.output_config) is not None:
        if config.effort:
            others["output_config.effort"] = config.effort
        if config.format is not None and (schema := given(config.format.schema)) is not None:
            request.output_schema = OutputSchema(schema, strict=True)
    return request


def _texts(content: str | list[wire.TextBlock]) -> list[Text]:
    if isinstance(content, str):
        return [Text(content)]
    return [Text(block.text, given(block.cache_control)) for block in content]


def _parts(content: str | list[wire.Block], number: int) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    return [_part(block, f"messages[{number}].content[{place}]") for place, block in enumerate(content)]


def _part(block: wire.Block, param: str) -> Part:
    match block:
        case wire.ThinkingBlock():
            return Thinking(block.thinking, block.signature)
        case wire.RedactedThinkingBlock():
            return Thinking(redacted=block.data)
        case wire.ToolUseBlock():
            return ToolCall(
                block.id, block.name, bytes(block.input).decode("utf-8", "replace"), given(block.cache_control)
            )
        case wire.ToolResultBlock():
            inner: Sequence[Text | Image | Document] = ()
            if isinstance(block.content, str):
                inner = [Text(block.content)]
            elif block.content:
                inner = [_plain_part(one, f"{param}.content[{place}]") for place, one in enumerate(block.content)]
            return ToolResult(block.tool_use_id, tuple(inner), bool(block.is_error), given(block.cache_control))
    return _plain_part(block, param)


def _plain_part(
    block: wire.TextBlock | wire.ImageBlock | wire.DocumentBlock | wire.SearchResultBlock, param: str
) -> Text | Image | Document:
    mark = None if isinstance(block, wire.SearchResultBlock) else given(block.cache_control)
    match block:
        case wire.TextBlock():
            return Text(block.text, mark)
        case wire.SearchResultBlock():
            return Text("\n".join([block.title, block.source, *(one.text for one in block.content)]).strip())
        case wire.ImageBlock(source=wire.Base64Source() as source):
            return Image("", source.data, source.media_type, "", mark)
        case wire.ImageBlock(source=wire.UrlSource() as source):
            return Image(source.url, cache_control=mark)
        case wire.DocumentBlock(source=wire.Base64Source() | wire.TextSource() as source):
            return Document("", source.data, source.media_type, block.title or "", mark)
        case wire.DocumentBlock(source=wire.UrlSource() as source):
            return Document(source.url, name=block.title or "", cache_control=mark)
    raise InvalidRequest(
        f"{param}: a file that another provider stores cannot be passed on; send its content in base64.",
        f"{param}.source",
        code="unsupported_parameter",
    )


# -- a request for an upstream ---------------------------------------------------------------------------------------
def render_request(request: ChatRequest, *, upstream_model: str, max_output_tokens_default: int) -> Rendered:
    """Raises InvalidRequest."""
    dropped = [*request.dropped, *request.others]
    system: list[dict[str, Any]] = []
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in request.messages:
        if message.role == "system":
            system += [_block(part) for part in message.parts if isinstance(part, Text) and part.text.strip()]
            continue
        blocks = _blocks(message, dropped)
        if not blocks:
            continue
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((message.role, blocks))
    if not turns:  # instructions alone: somebody has to say them
        turns, system = [("user", system)], []
    if not turns[0][1]:
        raise InvalidRequest("messages hold no content.", "messages")
    for role, blocks in turns:
        if role == "user":  # an answer to tool calls begins with their results
            blocks.sort(key=lambda block: block["type"] != "tool_result")
    _trim_prefill(turns)
    limit = request.max_output_tokens
    body: dict[str, Any] = {
        "model": upstream_model,
        "max_tokens": max_output_tokens_default if limit is None else limit,
        "messages": [{"role": role, "content": _shortened(blocks)} for role, blocks in turns],
    }
    if system:
        body["system"] = _shortened(system)
    _add_tools(body, request)
    if request.temperature is not None:
        body["temperature"] = min(request.temperature, MAX_TEMPERATURE)
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if stops := [one for one in request.stop if one.strip()]:
        body["stop_sequences"] = stops
    if request.user:
        body["metadata"] = {"user_id": request.user}
    if request.output_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": request.output_schema.schema}}
    if request.stream:
        body["stream"] = True
    return Rendered(_encode(body), tuple(dict.fromkeys(dropped)))


def _shortened(blocks: list[dict[str, Any]]) -> Any:
    """One plain text stands as a string."""
    if len(blocks) == 1 and blocks[0]["type"] == "text" and len(blocks[0]) == 2:
        return blocks[0]["text"]
    return blocks


def _trim_prefill(turns: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """An answer that is begun by the client must not end in white space here."""
    role, blocks = turns[-1]
    if role == "assistant" and blocks[-1]["type"] == "text":
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()


def _add_tools(body: dict[str, Any], request: ChatRequest) -> None:
    if not request.tools:
        return
    tools = []
    for tool in request.tools:
        shown: dict[str, Any] = {"name": tool.name, "input_schema": tool.schema or _EMPTY_SCHEMA}
        if tool.description:
            shown["description"] = tool.description
        if tool.strict:
            shown["strict"] = True
        if tool.cache_control is not None:
            shown["cache_control"] = tool.cache_control
        tools.append(shown)
    body["tools"] = tools
    choice = request.tool_choice
    if choice is None and request.parallel_tool_calls is not False:
        return
    mode = choice.mode if choice is not None else "auto"
    wanted: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(mode, mode)}
    if choice is not None and mode == "named":
        wanted["name"] = choice.name
    if request.parallel_tool_calls is False and mode != "none":
        wanted["disable_parallel_tool_use"] = True
    body["tool_choice"] = wanted


def _blocks(message: Message, dropped: list[str]) -> list[dict[str, Any]]:
    blocks = []
    for part in message.parts:
        match part:
            case Text(text=text) if not text.strip():
                continue  # refused here: text must not be empty
            case Refusal(text=text):
                blocks.append({"type": "text", "text": text})
            case Thinking(signature="", redacted=""):
                dropped.append("messages.reasoning_content")  # without a signature it is not taken back
            case _:
                blocks.append(_block(part))
    return blocks


def _block(part: Part) -> dict[str, Any]:
    block: dict[str, Any]
    match part:
        case Text():
            block = {"type": "text", "text": part.text}
        case Image(url=url) if url:
            block = {"type": "image", "source": {"type": "url", "url": url}}
        case Image():
            source = {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data}
            block = {"type": "image", "source": source}
        case Document():
            block = {"type": "document", "source": _document_source(part)}
            if part.name:
                block["title"] = part.name
        case Thinking(redacted=redacted) if redacted:
            return {"type": "redacted_thinking", "data": redacted}
        case Thinking():
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case Refusal():
            return {"type": "text", "text": part.text}
        case ToolCall():
            block = {"type": "tool_use", "id": tool_id(part.id), "name": part.name, "input": arguments(part.arguments)}
        case ToolResult():
            block = {"type": "tool_result", "tool_use_id": tool_id(part.call_id)}
            inner = [_block(one) for one in part.parts if not isinstance(one, Text) or one.text]
            if inner:
                block["content"] = _shortened(inner)
            if part.is_error:
                block["is_error"] = True
    if part.cache_control is not None:
        block["cache_control"] = part.cache_control
    return block


def _document_source(part: Document) -> dict[str, str]:
    if part.url:
        return {"type": "url", "url": part.url}
    kind = "text" if part.media_type == "text/plain" else "base64"
    return {"type": kind, "media_type": part.media_type, "data": part.data}


def tool_id(identity: str) -> str:
    """Only letters, digits, _ and - are taken here. The same id always gives the same one."""
    if _TOOL_ID.fullmatch(identity):
        return identity
    return "call_" + sha256(identity.encode("utf-8", "replace")).hexdigest()[:24]


def arguments(text: str) -> Raw:
    """As an object. What is none, such as arguments that were cut, is kept as the text that it is."""
    if not text.strip():
        return Raw(b"{}")
    if is_json_object(text):
        return Raw(text.encode("utf-8"))
    return Raw(_encode({UNPARSED_ARGUMENTS: text}))


# -- answers -------------------------------------------------------------------------------------------------------
class _Response(msgspec.Struct):
    content: list[wire.StartedBlock]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: WireUsage | None = None


_response = msgspec.json.Decoder(_Response).decode


def parse_response(body: bytes) -> ChatResponse:
    """Raises UnreadableAnswer."""
    read = read_answer(_response, body, "it is no message")
    parts: list[Part] = []
    for block in read.content:
        match block.type:
            case "text":
                parts.append(Text(block.text))
            case "thinking":
                parts.append(Thinking(block.thinking, block.signature))
            case "redacted_thinking":
                parts.append(Thinking(redacted=block.data))
            case "tool_use":
                written = bytes(block.input).decode("utf-8", "replace") or "{}"
                parts.append(ToolCall(block.id, block.name, written))
    return ChatResponse(
        id=read.id,
        model=read.model,
        parts=tuple(parts),
        stop_reason=STOP_REASONS.get(read.stop_reason or "end_turn", StopReason.END),
        usage=read.usage.over(None) if read.usage is not None else None,
        stop_sequence=read.stop_sequence,
    )


def render_response(response: ChatResponse) -> bytes:
    blocks: list[dict[str, Any]] = []
    for part in response.parts:
        match part:
            case Text() | Refusal():
                blocks.append({"type": "text", "text": part.text})
            case Thinking(redacted=redacted) if redacted:
                blocks.append({"type": "redacted_thinking", "data": redacted})
            case Thinking():
                blocks.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
            case ToolCall():
                blocks.append(
                    {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments(part.arguments)}
                )
    return _encode(
        {
            "id": message_id(response.id),
            "type": "message",
            "role": "assistant",
            "model": response.model,
            "content": blocks,
            "stop_reason": WORDS[response.stop_reason],
            "stop_sequence": response.stop_sequence,
            "usage": rendered_usage(response.usage or Usage()),
        }
    )


def message_id(identity: str) -> str:
    return identity if identity.startswith("msg_") else f"msg_{identity.removeprefix('chatcmpl-')}"


def rendered_usage(usage: Usage) -> dict[str, Any]:
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return {
        "input_tokens": max(fresh, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
