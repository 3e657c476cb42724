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
    CACHE_HINTS,
    ChatRequest,
    ChatResponse,
    Document,
    Image,
    Message,
    OutputSchema,
    Part,
    Reasoning,
    Refusal,
    StopReason,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from providers.formats.dialect import Rendered, UpstreamModel, Usage
from providers.formats.errors import InvalidRequest
from providers.formats.reading import further_fields, given, is_json_object, object_schema, read_answer, read_body
from providers.formats.reasoning import (
    MIN_BUDGET,
    budget_of,
    claude_effort,
    effort_of,
    may_reason,
    samples_in_one_way,
    takes_adaptive_thinking,
    takes_one_of_temperature_and_top_p,
    takes_output_schema,
)
from providers.formats.repair import repaired
from providers.formats.seal import sealed, unsealed

_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(wire.Request).decode
_KNOWN = frozenset(wire.Request.__struct_fields__) | {"cache_control"}  # a caching mark asks for no other answer
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_TEMPERATURE = 1.0
MAX_USER_LENGTH: Final = 256
MAX_OUTPUT_TOKENS_DEFAULT: Final = 4096
HIGHEST_DEFAULT: Final = 32_000
NAME: Final = "anthropic-messages"
_ANY_OBJECT: Final = Raw(b'{"type":"object"}')
_TAKEN: Final = frozenset({"top_k", "safety_identifier"})
_TIERS: Final = {"standard": "default", "priority": "priority"}
_TIERS_HERE: Final = {tier: word for word, tier in _TIERS.items()}
_IMAGE_STARTS: Final = {
    "/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp",
}  # fmt: skip
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
    if others.get("thread") is not None:  # the package then sends the whole history, by itself
        raise InvalidRequest(
            "thread needs a provider that keeps threads; this model's does not. Send the whole conversation instead.",
            "thread",
            code="unsupported_parameter",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )
    if (tier := others.get("service_tier")) == "auto":
        del others["service_tier"]
    elif tier == "standard_only":
        others["service_tier"] = "default"
    messages = [Message("system", tuple(_texts(read.system)))] if read.system else []
    dropped: list[str] = []
    for number, one in enumerate(read.messages):
        messages.append(Message(one.role, tuple(_parts(one.content, number, dropped))))
    request = ChatRequest(
        messages=messages,
        max_output_tokens=read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stop=list(read.stop_sequences or ()),
        stream=bool(read.stream),
        user=(read.metadata.user_id if read.metadata is not None else None) or "",
        reasoning=_wanted_reasoning(read),
        others=others,
        dropped=dropped,
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
    config = read.output_config
    if config is not None and config.format is not None and (schema := given(config.format.schema)) is not None:
        request.output_schema = OutputSchema(schema, strict=True)
    return request


def _wanted_reasoning(read: wire.Request) -> Reasoning | None:
    effort = (read.output_config.effort if read.output_config is not None else None) or ""
    asked = read.thinking
    if asked is None or asked.type == "disabled":
        return Reasoning(effort, named="output_config.effort") if effort else None
    summary = "auto" if asked.display == "summarized" else ""
    return Reasoning(effort, asked.budget_tokens, summary, named="thinking")


def _texts(content: str | list[wire.TextBlock]) -> list[Text]:
    if isinstance(content, str):
        return [Text(content)]
    return [Text(block.text, given(block.cache_control)) for block in content]


def _parts(content: str | list[wire.Block], number: int, dropped: list[str]) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    parts = []
    for place, block in enumerate(content):
        param = f"messages[{number}].content[{place}]"
        if isinstance(block, wire.ServerBlock):
            dropped.append(f"messages.{block.kind}")
        elif isinstance(block, wire.CompactionBlock):
            raise InvalidRequest(
                f"{param}: a compaction block, which stands for the history, can be read by its own provider only.",
                param,
                code="unsupported_parameter",
            )
        else:
            parts.append(_part(block, param))
    return parts


def _part(block: wire.SaidBlock, param: str) -> Part:
    match block:
        case wire.ThinkingBlock():
            return thinking(block.thinking, block.signature)
        case wire.RedactedThinkingBlock():
            return thinking("", redacted=block.data)
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


def thinking(text: str, signature: str = "", redacted: str = "") -> Thinking:
    part = Thinking(text, signature, redacted, NAME if signature or redacted else "")
    return unsealed(part, redacted or signature) or part


def _plain_part(
    block: wire.TextBlock | wire.ImageBlock | wire.DocumentBlock | wire.SearchResultBlock | wire.ToolReferenceBlock,
    param: str,
) -> Text | Image | Document:
    if isinstance(block, wire.ToolReferenceBlock):
        return Text(f"The tool {block.tool_name} can be called now.")
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
def render_request(request: ChatRequest, model: UpstreamModel) -> Rendered:
    """Raises InvalidRequest."""
    dropped = list(request.dropped)
    system: list[dict[str, Any]] = []
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in repaired(request.messages):
        if message.name:
            dropped.append("messages.name")
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
    default = min(model.max_output_tokens or MAX_OUTPUT_TOKENS_DEFAULT, HIGHEST_DEFAULT)
    body: dict[str, Any] = {
        "model": model.name,
        "max_tokens": default if limit is None else min(limit, model.max_output_tokens or limit),
        "messages": [{"role": role, "content": _shortened(blocks)} for role, blocks in turns],
    }
    if system:
        body["system"] = _shortened(system)
    _add_tools(body, request)
    _add_reasoning(body, request, model, turns, dropped)
    output_tool = _add_output_schema(body, request, model, dropped)
    _add_sampling(body, request, model, dropped)
    user = request.user or request.others.get("safety_identifier")
    if isinstance(user, str) and user:
        long = len(user) > MAX_USER_LENGTH
        body["metadata"] = {"user_id": sha256(user.encode("utf-8", "replace")).hexdigest() if long else user}
    if request.logprobs is not None:
        dropped.append("logprobs")
    for name, value in request.others.items():
        if name == "service_tier" and value == "default":
            body["service_tier"] = "standard_only"
        elif name not in _TAKEN and name not in CACHE_HINTS:
            dropped.append(name)
    if request.stream:
        body["stream"] = True
    return Rendered(_encode(body), tuple(dict.fromkeys(dropped)), output_tool=output_tool)


def _add_reasoning(
    body: dict[str, Any],
    request: ChatRequest,
    model: UpstreamModel,
    turns: Sequence[tuple[str, list[dict[str, Any]]]],
    dropped: list[str],
) -> None:
    """Asks the model to think, where it can and may: not while it is made to call a tool, nor in the middle of a turn
    that it began without thinking, nor within a limit too small for any thought."""
    wanted = request.reasoning
    if wanted is None:
        return
    if not may_reason(model.name, model.abilities):
        if wanted.effort != "none":
            dropped.append(wanted.named)
        return
    if wanted.effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    is_forced = body.get("tool_choice", {}).get("type") in {"any", "tool"}
    if takes_adaptive_thinking(model.name):
        effort = wanted.effort or (effort_of(wanted.budget_tokens) if wanted.budget_tokens else "")
        if effort:
            body["output_config"] = {"effort": claude_effort(effort)}
        if is_forced:
            dropped.append(wanted.named)
        else:
            body["thinking"] = {"type": "adaptive"}
            if wanted.summary:
                body["thinking"]["display"] = "summarized"
        return
    budget = wanted.budget_tokens or budget_of(wanted.effort)
    if request.max_output_tokens is None:
        body["max_tokens"] = min(budget + body["max_tokens"], model.max_output_tokens or HIGHEST_DEFAULT)
    budget = max(min(budget, body["max_tokens"] * 4 // 5), MIN_BUDGET)
    if is_forced or budget >= body["max_tokens"] or _is_amid_unthought_turn(turns):
        dropped.append(wanted.named)
    else:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _is_amid_unthought_turn(turns: Sequence[tuple[str, list[dict[str, Any]]]]) -> bool:
    """Whether the model is to go on after tool results, in a turn that holds no thinking."""
    if len(turns) < 2 or turns[-1][1][0].get("type") != "tool_result":
        return False
    return turns[-2][1][0].get("type") not in {"thinking", "redacted_thinking"}


class _Turn(msgspec.Struct):
    role: str
    content: Any = None


class _Asked(msgspec.Struct):
    messages: list[_Turn]
    thinking: wire.Thinking | None = None


_asked = msgspec.json.Decoder(_Asked).decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def without_unthought_turn(body: bytes) -> Rendered:
    """A client's own body from which the thoughts of another provider were taken: a turn that goes on without any
    cannot be asked for further ones within a budget."""
    try:
        asked = _asked(body)
    except msgspec.ValidationError:
        return Rendered(body)  # its provider says what is wrong with it
    turns = [
        (
            turn.role,
            [block for block in turn.content if isinstance(block, dict)] if isinstance(turn.content, list) else [],
        )
        for turn in asked.messages
    ]
    is_budgeted = asked.thinking is not None and asked.thinking.type == "enabled"
    if not is_budgeted or any(not blocks for _, blocks in turns[-2:]) or not _is_amid_unthought_turn(turns):
        return Rendered(body)
    fields = _fields(body)
    del fields["thinking"]
    return Rendered(_encode(fields), ("thinking",))


def _dicts(content: Any) -> list[dict[str, Any]]:
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _add_output_schema(body: dict[str, Any], request: ChatRequest, model: UpstreamModel, dropped: list[str]) -> str:
    """Makes the model say its answer as the arguments of a tool, whose name is returned; the API's own structured
    output serves where the model thinks, for then no tool can be forced."""
    wanted = request.output_schema
    choice = body.get("tool_choice", {}).get("type")
    if wanted is None or choice == "tool":
        return ""
    thinks = body.get("thinking", {}).get("type") in {"adaptive", "enabled"}
    if thinks and wanted.schema is not None and takes_output_schema(model.name):
        config = body.setdefault("output_config", {})
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
        return ""
    if thinks and request.reasoning is not None:
        del body["thinking"]
        dropped.append(request.reasoning.named)
    names = {tool.name for tool in request.tools}
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", wanted.name)[:60] or "output"
    while name in names:
        name += "_"
    tool = {
        "name": name,
        "description": wanted.description or "Gives the answer. Call it with the whole answer as its arguments.",
        "input_schema": wanted.schema or _ANY_OBJECT,
    }
    body["tools"] = [*body.get("tools", []), tool]
    if request.tools and choice != "none":
        body["tool_choice"] = {**body.get("tool_choice", {}), "type": "any"}
    else:
        body["tool_choice"] = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
    return name


def _add_sampling(body: dict[str, Any], request: ChatRequest, model: UpstreamModel, dropped: list[str]) -> None:
    top_k = request.others.get("top_k")
    wanted = {"temperature": request.temperature, "top_p": request.top_p, "top_k": top_k}
    if wanted["temperature"] is not None:
        wanted["temperature"] = min(wanted["temperature"], MAX_TEMPERATURE)
    thinks = body.get("thinking", {}).get("type") in {"adaptive", "enabled"}
    for name, value in wanted.items():
        if value is None:
            continue
        second = name == "top_p" and "temperature" in body and takes_one_of_temperature_and_top_p(model.name)
        if (value != 1 and (thinks or samples_in_one_way(model.name))) or second:
            dropped.append(name)
        elif not (value == 1 and samples_in_one_way(model.name)):
            body[name] = value
    if stops := [one for one in request.stop if one.strip()]:
        body["stop_sequences"] = stops
    if len(stops) < len([one for one in request.stop if one]):
        dropped.append("stop")  # white space alone ends nothing here


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
        shown: dict[str, Any] = {"name": tool.name, "input_schema": object_schema(tool.schema)}
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
            case Thinking() if part.source != NAME or not (part.signature or part.redacted):
                dropped.append("messages.thinking")  # only what was signed here is taken back
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
            source = {"type": "base64", "media_type": _image_type(part), "data": part.data}
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


def _image_type(part: Image) -> str:
    """By what it begins with: a wrong name, such as image/jpg, is refused here, and nowhere else."""
    for start, media_type in _IMAGE_STARTS.items():
        if part.data.startswith(start):
            return media_type
    return part.media_type or "image/png"


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


def parse_response(body: bytes, *, output_tool: str = "") -> ChatResponse:
    """What `output_tool` was called with is the answer's text. Raises UnreadableAnswer."""
    read = read_answer(_response, body, "it is no message")
    parts: list[Part] = []
    outputs: list[Text] = []
    for block in read.content:
        match block.type:
            case "text":
                parts.append(Text(block.text))
            case "thinking":
                parts.append(thinking(block.thinking, block.signature))
            case "redacted_thinking":
                parts.append(thinking("", redacted=block.data))
            case "tool_use":
                written = bytes(block.input).decode("utf-8", "replace") or "{}"
                if output_tool and block.name == output_tool:
                    outputs.append(Text(written))
                else:
                    parts.append(ToolCall(block.id, block.name, written))
    reason = STOP_REASONS.get(read.stop_reason or "end_turn", StopReason.END)
    if outputs:
        parts = [*(part for part in parts if not isinstance(part, Text)), outputs[0]]
        if not any(isinstance(part, ToolCall) for part in parts) and reason is StopReason.TOOL_CALLS:
            reason = StopReason.END
    return ChatResponse(
        id=read.id,
        model=read.model,
        parts=tuple(parts),
        stop_reason=reason,
        usage=read.usage.over(None) if read.usage is not None else None,
        stop_sequence=read.stop_sequence,
        service_tier=service_tier(read.usage),
    )


def service_tier(usage: WireUsage | None) -> str:
    return _TIERS.get((usage.service_tier if usage is not None else None) or "", "")


def render_response(response: ChatResponse) -> bytes:
    blocks: list[dict[str, Any]] = []
    for part in response.parts:
        match part:
            case Text() | Refusal():
                blocks.append({"type": "text", "text": part.text})
            case Thinking():
                blocks.append(thinking_block(part))
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
            "usage": rendered_usage(response.usage or Usage(), response.service_tier),
        }
    )


def thinking_block(part: Thinking) -> dict[str, str]:
    """What another dialect's provider signed or encrypted is sealed, so that it comes back with the next turn."""
    seal = sealed(part) if part.source not in {"", NAME} else ""
    if part.redacted or (seal and not part.text):
        return {"type": "redacted_thinking", "data": seal or part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": seal or part.signature}


def message_id(identity: str) -> str:
    return identity if identity.startswith("msg_") else f"msg_{identity.removeprefix('chatcmpl-')}"


def rendered_usage(usage: Usage, tier: str = "") -> dict[str, Any]:
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    shown: dict[str, Any] = {
        "input_tokens": max(fresh, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        shown["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if word := _TIERS_HERE.get(tier):
        shown["service_tier"] = word
    return shown
