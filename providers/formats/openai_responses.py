"""OpenAI Responses to and from the canonical form: requests and whole answers. The wire types stand in
openai_responses_types, streams in openai_responses_stream. Pure.

Nothing is stored here: a conversation stands whole in each request. Tools that take free text and tools in a namespace,
which no other dialect has, become plain functions on the way out and what they were on the way back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats import openai_responses_types as wire
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
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.openai_chat import DATA_URL, document, reasoning_effort, result_text, short_user
from providers.formats.openai_chat_wire import arguments_text
from providers.formats.openai_responses_wire import WireUsage
from providers.formats.reading import filled_list, further_fields, given, object_schema, read_answer, read_body
from providers.formats.reasoning import is_openai_model, is_openai_reasoner
from providers.formats.repair import repaired
from providers.formats.seal import sealed, unsealed

NAME: Final = "openai-responses"
MIN_OUTPUT_TOKENS: Final = 16
_MAX_NAME: Final = 64
_MAX_CALL_ID: Final = 64
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_request = msgspec.json.Decoder(wire.Request).decode
_repeated = msgspec.json.Decoder(wire.ToolsOnly).decode
_output_value = msgspec.json.Decoder(str | list[wire.Part]).decode
_KNOWN = frozenset(wire.Request.__struct_fields__) | {"stream_options", "store", "client_metadata"}
_ENCRYPTED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"
_FREE_TEXT: Final = Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)
_TAKEN: Final = frozenset({"service_tier", "safety_identifier", "verbosity"}) | CACHE_HINTS


@dataclass(frozen=True, slots=True)
class NamedTool:
    """A tool as the client knows it."""

    name: str
    namespace: str = ""
    is_free_text: bool = False


@dataclass(slots=True)
class Echo:
    """What an answer repeats of its request, and the client's tools by the names that they were given on the way."""

    request: wire.Request
    repeated: wire.ToolsOnly
    tools: dict[str, NamedTool] = field(default_factory=dict)


# -- a client's request --------------------------------------------------------------------------------------------
def parse_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    read = read_body(_request, body)
    _refuse_state(read)
    others = further_fields(body, _KNOWN)
    if others.get("service_tier") == "auto":
        del others["service_tier"]
    if read.text is not None and read.text.verbosity:
        others["verbosity"] = read.text.verbosity
    if read.truncation not in {None, "disabled"}:
        others["truncation"] = read.truncation
    echo = Echo(read, _repeated(body))
    request = ChatRequest(
        messages=[],
        parallel_tool_calls=read.parallel_tool_calls,
        max_output_tokens=read.max_output_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stream=bool(read.stream),
        user=read.user or "",
        others=others,
        echo=echo,
    )
    _read_tools(read, request, echo)
    request.messages = _messages(read, request.dropped)
    for wanted in read.include or ():
        if wanted == _LOGPROBS:
            request.logprobs = read.top_logprobs or 0
        elif wanted != _ENCRYPTED:
            request.dropped.append(f"include.{wanted}")
    if read.top_logprobs:
        request.logprobs = read.top_logprobs
    if (asked := read.reasoning) is not None and asked.effort:
        request.reasoning = Reasoning(asked.effort, None, asked.summary or asked.generate_summary or "")
    if read.text is not None and (wanted_format := read.text.format) is not None:
        request.output_schema = _output_schema(wanted_format)
    return request


def _refuse_state(read: wire.Request) -> None:
    """What only a provider that keeps conversations can do."""
    asked = {
        "previous_response_id": read.previous_response_id,
        "conversation": given(read.conversation),
        "prompt": given(read.prompt),
        "background": read.background or None,
    }
    for name, value in asked.items():
        if value is not None:
            raise InvalidRequest(
                f"{name} needs a provider that speaks OpenAI Responses itself; this model's does not."
                " Send the whole conversation as input instead.",
                name,
                code="unsupported_parameter",
            )


def _output_schema(wanted: wire.Format) -> OutputSchema | None:
    schema = given(wanted.schema)
    if wanted.type == "json_schema" and schema is not None:
        return OutputSchema(schema, wanted.name, wanted.strict, wanted.description or "")
    return OutputSchema(None) if wanted.type == "json_object" else None


def _read_tools(read: wire.Request, request: ChatRequest, echo: Echo) -> None:
    for tool in read.tools or ():
        _add_tool(tool, "", request, echo)
    match read.tool_choice:
        case None:
            pass
        case "auto" | "none" | "required":
            request.tool_choice = ToolChoice(read.tool_choice)
        case wire.ToolChoice(type="function" | "custom", name=str() as name, namespace=namespace):
            request.tool_choice = ToolChoice("named", flat_name(name, namespace or ""))
        case wire.ToolChoice(type="allowed_tools", tools=list() as allowed, mode=mode):
            names = {flat_name(str(one.get("name")), str(one.get("namespace") or "")) for one in allowed}
            request.tools = [tool for tool in request.tools if tool.name in names]
            request.tool_choice = ToolChoice("required" if mode == "required" else "auto")
        case str():
            raise InvalidRequest("tool_choice must be auto, none, required or a named tool.", "tool_choice")
        case _:
            request.dropped.append("tool_choice")


def _add_tool(tool: wire.Tool, namespace: str, request: ChatRequest, echo: Echo) -> None:
    description = tool.description or ""
    match tool.type:
        case "namespace":
            for one in tool.tools or ():
                _add_tool(one, tool.name or "", request, echo)
        case "function" | "custom" if tool.name:
            name = flat_name(tool.name, namespace)
            is_free_text = tool.type == "custom"
            echo.tools[name] = NamedTool(tool.name, namespace, is_free_text)
            if is_free_text:
                if isinstance(tool.format, dict) and (definition := tool.format.get("definition")):
                    description += (
                        f"\n\nThe input must match this {tool.format.get('syntax', '')} grammar:\n{definition}"
                    )
                request.tools.append(Tool(name, description, _FREE_TEXT))
            else:
                request.tools.append(Tool(name, description, given(tool.parameters), tool.strict))
        case _:
            request.dropped.append(f"tools.{tool.type}")


def flat_name(name: str, namespace: str) -> str:
    """One name for a tool in a namespace, of letters that every provider takes. The same pair gives the same one."""
    if not namespace:
        return name
    flat = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{namespace}__{name}")
    if len(flat) > _MAX_NAME:
        digest = sha256(flat.encode()).hexdigest()[:8]
        flat = f"{flat[: _MAX_NAME - 9]}_{digest}"
    return flat


def _messages(read: wire.Request, dropped: list[str]) -> list[Message]:
    """What the model said in one turn, its reasoning and calls included, is one message."""
    messages = [Message("system", (Text(read.instructions),))] if read.instructions else []
    if isinstance(read.input, str):
        return [*messages, Message("user", (Text(read.input),))]
    said: list[Part] = []

    def end_turn() -> None:
        if said:
            messages.append(Message("assistant", tuple(said)))
            said.clear()

    for number, item in enumerate(read.input):
        param = f"input[{number}]"
        match item.type or "message":
            case "message" if item.role == "assistant":
                said += _parts(item.content, param)
            case "message" if item.role in {"user", "system", "developer"}:
                end_turn()
                messages.append(
                    Message("user" if item.role == "user" else "system", tuple(_parts(item.content, param)))
                )
            case "message":
                raise InvalidRequest(f"{param}.role must be user, assistant, system or developer.", f"{param}.role")
            case "reasoning":
                said.append(thinking(item))
            case "function_call" | "custom_tool_call":
                said.append(_call(item, param))
            case "function_call_output" | "custom_tool_call_output":
                end_turn()
                result = ToolResult(item.call_id or item.id or "", tuple(_output(item.output, param)))
                messages.append(Message("user", (result,)))
            case "item_reference":
                raise InvalidRequest(
                    f"{param}: an item that another provider stores cannot be passed on; send the item itself.",
                    param,
                    code="unsupported_parameter",
                )
            case "compaction" | "context_compaction" | "compaction_trigger" as kind:
                raise InvalidRequest(
                    f"{param}: a {kind} item, which stands for the history, can be read by its own provider only.",
                    param,
                    code="unsupported_parameter",
                )
            case "agent_message":
                end_turn()
                messages.append(Message("user", tuple(_parts(item.content, param))))
            case kind:
                dropped.append(f"input.{kind}")
    end_turn()
    return messages


def _call(item: wire.Item, param: str) -> ToolCall:
    if not item.name:
        raise InvalidRequest(f"{param}.name is missing: a tool call names its tool.", f"{param}.name")
    name = flat_name(item.name, item.namespace or "")
    arguments = arguments_text(item.arguments)
    if item.type == "custom_tool_call":
        arguments = _encode({"input": item.input or ""}).decode()
    return ToolCall(item.call_id or item.id or "", name, arguments)


def thinking(item: wire.Item) -> Thinking:
    shown = item.summary or (item.content if isinstance(item.content, list) else None) or ()
    encrypted = item.encrypted_content or ""
    part = Thinking("\n\n".join(one.text or "" for one in shown), encrypted, source=NAME, id=item.id or "")
    return unsealed(part, encrypted) or part


def _parts(content: str | list[wire.Part] | None, param: str) -> Iterable[Part]:
    if content is None:
        return
    if isinstance(content, str):
        yield Text(content)
        return
    for place, part in enumerate(content):
        yield _part(part, f"{param}.content[{place}]")


def _part(part: wire.Part, param: str) -> Text | Image | Document | Refusal:
    match part.type:
        case "input_text" | "output_text" | "text" | "summary_text":
            return Text(part.text or "", logprobs=filled_list(part.logprobs))
        case "refusal":
            return Refusal(part.refusal or "")
        case "input_image" if part.image_url:
            data_url = DATA_URL.match(part.image_url)
            detail = part.detail if part.detail not in {None, "auto"} else ""
            if data_url is None:
                return Image(url=part.image_url, detail=detail or "")
            return Image("", part.image_url[data_url.end() :], data_url[1], detail or "")
        case "input_file" if part.file_url:
            return Document(part.file_url, name=part.filename or "")
        case "input_file" if part.file_data:
            return document(part.file_data, part.filename or "", param)
        case "input_image" | "input_file":
            raise InvalidRequest(
                f"{param}: a file that another provider stores cannot be passed on; send its content.",
                param,
                code="unsupported_parameter",
            )
    raise InvalidRequest(
        f"{param}: the model's provider takes no part of the type {part.type!r}.", param, code="unsupported_parameter"
    )


def _output(raw: Raw, param: str) -> Iterable[Text | Image | Document]:
    """A text, or parts; whatever else it is goes along as the JSON that it is."""
    if given(raw) is None:
        return
    try:
        value = _output_value(raw)
    except msgspec.ValidationError:
        value = bytes(raw).decode()
    if isinstance(value, str):
        yield Text(value)
        return
    for place, part in enumerate(value):
        one = _part(part, f"{param}.output[{place}]")
        yield Text(one.text) if isinstance(one, Refusal) else one


# -- a request for an upstream ---------------------------------------------------------------------------------------
def render_request(request: ChatRequest, model: UpstreamModel) -> Rendered:
    """Raises InvalidRequest."""
    dropped = list(request.dropped)
    messages = repaired(request.messages)
    instructions: list[str] = []
    while messages and messages[0].role == "system" and all(isinstance(part, Text) for part in messages[0].parts):
        instructions += [part.text for part in messages.pop(0).parts if isinstance(part, Text)]
    items: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        items += _items(message, number, dropped)
    if not items:  # instructions alone: somebody has to say them
        items = [{"role": "user", "content": "\n\n".join(instructions)}]
        instructions = []
    body: dict[str, Any] = {"model": model.name, "input": items, "store": False}
    if instructions:
        body["instructions"] = "\n\n".join(instructions)
    if request.tools:
        body["tools"] = [_rendered_tool(tool) for tool in request.tools]
        if (choice := request.tool_choice) is not None:
            is_named = choice.mode == "named"
            body["tool_choice"] = {"type": "function", "name": choice.name} if is_named else choice.mode
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.max_output_tokens is not None:
        limit = min(request.max_output_tokens, model.max_output_tokens or request.max_output_tokens)
        body["max_output_tokens"] = max(limit, MIN_OUTPUT_TOKENS) if is_openai_model(model.name) else limit
    _add_reasoning(body, request, model, dropped)
    _add_text_config(body, request)
    if request.logprobs is not None:
        body["top_logprobs"] = request.logprobs
        body["include"] = [*body.get("include", []), _LOGPROBS]
    if request.stop:
        dropped.append("stop")
    if request.user:
        body["user"] = short_user(request.user)
    for name, value in request.others.items():
        if name in _TAKEN and is_openai_model(model.name):
            if name != "verbosity":
                body[name] = value
        elif name not in CACHE_HINTS:
            dropped.append(name)
    if request.stream:
        body["stream"] = True
    return Rendered(_encode(body), tuple(dict.fromkeys(dropped)))


def _add_reasoning(body: dict[str, Any], request: ChatRequest, model: UpstreamModel, dropped: list[str]) -> None:
    effort = reasoning_effort(request.reasoning, model, dropped)
    shown = {"effort": effort, "summary": request.reasoning.summary if request.reasoning is not None else ""}
    if effort and any(shown.values()):
        body["reasoning"] = {name: value for name, value in shown.items() if value}
    if effort or is_openai_reasoner(model.name):
        body["include"] = [_ENCRYPTED]  # so that it can be handed back: nothing is stored there
    fixed = is_openai_reasoner(model.name) and effort != "none"
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if not fixed:
            body[name] = value
        elif value != 1:
            dropped.append(name)


def _add_text_config(body: dict[str, Any], request: ChatRequest) -> None:
    config: dict[str, Any] = {}
    if (wanted := request.output_schema) is not None and wanted.schema is None:
        config["format"] = {"type": "json_object"}
    elif wanted is not None:
        shape: dict[str, Any] = {"type": "json_schema", "name": wanted.name, "schema": wanted.schema}
        if wanted.strict is not None:
            shape["strict"] = wanted.strict
        if wanted.description:
            shape["description"] = wanted.description
        config["format"] = shape
    if "verbosity" in request.others and is_openai_model(body["model"]):
        config["verbosity"] = request.others["verbosity"]
    if config:
        body["text"] = config


def _rendered_tool(tool: Tool) -> dict[str, Any]:
    """`strict` is always said: left out, it would be on here."""
    shown: dict[str, Any] = {"type": "function", "name": tool.name}
    if tool.description:
        shown["description"] = tool.description
    shown["parameters"] = object_schema(tool.schema)
    shown["strict"] = bool(tool.strict)
    return shown


def _items(message: Message, number: int, dropped: list[str]) -> list[dict[str, Any]]:
    """One message may become several items; their order is kept."""
    param = f"messages[{number}]"
    items: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    is_answer = message.role == "assistant"

    def end_message() -> None:
        if content:
            role = {"system": "developer"}.get(message.role, message.role)
            if len(content) == 1 and "text" in content[0]:
                items.append({"role": role, "content": content[0]["text"]})
            elif is_answer:  # parts of an answer stand in whole items only
                items.append(message_item(f"msg_{number}_{len(items)}", content.copy()))
            else:
                items.append({"role": role, "content": content.copy()})
            content.clear()

    for part in message.parts:
        match part:
            case Text() | Refusal() | Image() | Document():
                content.append(_rendered_part(part, param, is_answer=is_answer))
            case Thinking() if part.source == NAME and part.signature:
                end_message()
                items.append(reasoning_item(part, part.id or "rs_0"))
            case Thinking():
                dropped.append("messages.thinking")
            case ToolCall():
                end_message()
                items.append(
                    {
                        "type": "function_call",
                        "call_id": call_id(part.id),
                        "name": part.name,
                        "arguments": part.arguments or "{}",
                    }
                )
            case ToolResult():
                end_message()
                items.append(
                    {
                        "type": "function_call_output",
                        "call_id": call_id(part.call_id),
                        "output": _rendered_output(part, param),
                    }
                )
    end_message()
    if message.name:
        dropped.append("messages.name")
    return items


def call_id(identity: str) -> str:
    if len(identity) <= _MAX_CALL_ID:
        return identity
    return "call_" + sha256(identity.encode("utf-8", "replace")).hexdigest()[:24]


def reasoning_item(part: Thinking, identity: str) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "reasoning", "id": identity, "summary": []}
    if part.text:
        item["summary"] = [{"type": "summary_text", "text": part.text}]
    if part.source not in {"", NAME}:
        item["encrypted_content"] = sealed(part)
    elif part.signature:
        item["encrypted_content"] = part.signature
    return item


def _rendered_output(result: ToolResult, param: str) -> Any:
    texts = [part for part in result.parts if isinstance(part, Text)]
    if len(texts) == len(result.parts):
        said = result_text(texts, (), result.is_error)
        return said if isinstance(said, str) else "\n".join(part["text"] for part in said)
    shown = [_rendered_part(part, param, is_answer=False) for part in result.parts]
    if result.is_error:
        shown.insert(0, {"type": "input_text", "text": "Error:"})
    return shown


def _rendered_part(part: Text | Refusal | Image | Document, param: str, *, is_answer: bool) -> dict[str, Any]:
    match part:
        case Text() if is_answer:
            return {"type": "output_text", "text": part.text, "annotations": []}
        case Text():
            return {"type": "input_text", "text": part.text}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case Image():
            url = part.url or f"data:{part.media_type or 'image/png'};base64,{part.data}"
            return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
        case Document(url=url) if url:
            shown = {"type": "input_file", "file_url": url}
            if part.name:
                shown["filename"] = part.name
            return shown
        case Document(media_type="text/plain"):
            return {"type": "input_text", "text": f"{part.name}\n\n{part.data}" if part.name else part.data}
        case Document():
            data = f"data:{part.media_type};base64,{part.data}"
            return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": data}


# -- answers -------------------------------------------------------------------------------------------------------
class _Response(msgspec.Struct):
    output: list[wire.Item]
    id: str = ""
    model: str = ""
    status: str | None = None
    created_at: float | None = None
    incomplete_details: wire.IncompleteDetails | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: wire.Error | None = None


_response = msgspec.json.Decoder(_Response).decode


def parse_response(body: bytes) -> ChatResponse:
    """Raises UnreadableAnswer."""
    read = read_answer(_response, body, "it is no response")
    if read.status in {"failed", "cancelled", "queued", "in_progress"}:
        why = read.error.message if read.error is not None and read.error.message else f"its status is {read.status}"
        raise UnreadableAnswer(why)
    parts: list[Part] = []
    for number, item in enumerate(read.output):
        match item.type:
            case "message":
                try:
                    parts += _parts(item.content, f"output[{number}]")
                except InvalidRequest as problem:
                    raise UnreadableAnswer(problem.message) from None
            case "reasoning":
                parts.append(thinking(item))
            case "function_call":
                arguments = arguments_text(item.arguments)
                parts.append(ToolCall(item.call_id or item.id or "", item.name or "", arguments))
    return ChatResponse(
        id=read.id,
        model=read.model,
        parts=tuple(parts),
        stop_reason=stop_reason(
            read.status,
            read.incomplete_details,
            has_calls=any(isinstance(part, ToolCall) for part in parts),
            refused=any(isinstance(part, Refusal) for part in parts),
        ),
        usage=read.usage.read() if read.usage is not None else None,
        created=int(read.created_at or 0),
        service_tier=read.service_tier or "",
    )


def stop_reason(
    status: str | None, incomplete: wire.IncompleteDetails | None, *, has_calls: bool, refused: bool
) -> StopReason:
    if status == "incomplete":
        reason = incomplete.reason if incomplete is not None else None
        return StopReason.REFUSAL if reason == "content_filter" else StopReason.LENGTH
    if has_calls:
        return StopReason.TOOL_CALLS
    return StopReason.REFUSAL if refused else StopReason.END


def render_response(response: ChatResponse, asked: ChatRequest | None) -> bytes:
    head = response_head(response.id, response.model, response.created, response.service_tier, asked)
    items: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []

    def end_message() -> None:
        if content:
            items.append(message_item(item_id("msg", head["id"], len(items)), content.copy()))
            content.clear()

    for part in response.parts:
        match part:
            case Text():
                content.append(
                    {"type": "output_text", "text": part.text, "annotations": [], "logprobs": part.logprobs or []}
                )
            case Refusal():
                content.append({"type": "refusal", "refusal": part.text})
            case Thinking():
                end_message()
                items.append(reasoning_item(part, part.id or item_id("rs", head["id"], len(items))))
            case ToolCall():
                end_message()
                tool = named_tool(asked, part.name)
                items.append(call_item(tool, item_id("fc", head["id"], len(items)), part.id, part.arguments or "{}"))
    end_message()
    refused = any(isinstance(part, Refusal) for part in response.parts)
    ending = response_end(response.stop_reason, response.usage, refused=refused)
    return _encode({**head, **ending, "output": items})


def item_id(prefix: str, response_id: str, number: int) -> str:
    return f"{prefix}_{response_id.removeprefix('resp_')}_{number}"


def named_tool(asked: ChatRequest | None, flat: str) -> NamedTool:
    echo = asked.echo if asked is not None else None
    return (echo.tools.get(flat) if isinstance(echo, Echo) else None) or NamedTool(flat)


def message_item(identity: str, content: Sequence[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    return {"type": "message", "id": identity, "status": status, "role": "assistant", "content": content}


def call_item(tool: NamedTool, identity: str, call: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    item: dict[str, Any] = {
        "type": "function_call",
        "id": identity,
        "status": status,
        "call_id": call,
        "name": tool.name,
    }
    if tool.is_free_text:
        item |= {"type": "custom_tool_call", "input": free_text(arguments)}
    else:
        item["arguments"] = arguments
    if tool.namespace:
        item["namespace"] = tool.namespace
    return item


def free_text(arguments: str) -> str:
    """What a tool that takes plain text was called with."""
    try:
        value = _decode(arguments.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return arguments
    inner = value.get("input") if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else arguments


def response_head(identity: str, model: str, created: int, tier: str, asked: ChatRequest | None) -> dict[str, Any]:
    """All of a response but its outcome; most of it repeats the request."""
    echo = asked.echo if asked is not None and isinstance(asked.echo, Echo) else None
    read = echo.request if echo is not None else wire.Request("")
    repeated = echo.repeated if echo is not None else wire.ToolsOnly()
    others = asked.others if asked is not None else {}
    return {
        "id": identity if identity.startswith("resp_") else f"resp_{identity.removeprefix('chatcmpl-')}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": read.instructions,
        "max_output_tokens": read.max_output_tokens,
        "max_tool_calls": others.get("max_tool_calls"),
        "metadata": given(read.metadata) or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True if read.parallel_tool_calls is None else read.parallel_tool_calls,
        "previous_response_id": None,
        "prompt_cache_key": others.get("prompt_cache_key"),
        "reasoning": given(repeated.reasoning) or {"effort": None, "summary": None},
        "safety_identifier": others.get("safety_identifier"),
        "service_tier": tier or "default",
        "store": False,
        "temperature": 1.0 if read.temperature is None else read.temperature,
        "text": given(repeated.text) or {"format": {"type": "text"}},
        "tool_choice": given(repeated.tool_choice) or "auto",
        "tools": given(repeated.tools) or [],
        "top_logprobs": read.top_logprobs or 0,
        "top_p": 1.0 if read.top_p is None else read.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": read.user,
    }


def response_end(reason: StopReason, usage: Usage | None, *, refused: bool) -> dict[str, Any]:
    ending: dict[str, Any] = {"status": "completed", "usage": rendered_usage(usage) if usage is not None else None}
    if reason in {StopReason.LENGTH, StopReason.CONTEXT}:
        ending |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    elif reason is StopReason.REFUSAL and not refused:
        ending |= {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    return ending


def rendered_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
