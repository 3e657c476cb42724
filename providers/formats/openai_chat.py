"""OpenAI chat completions to and from the canonical form: requests and whole answers. The wire types stand in
openai_chat_types, streams in openai_chat_stream. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats import openai_chat_types as wire
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
from providers.formats.openai_chat_wire import WireUsage, arguments_text
from providers.formats.reading import (
    filled_list,
    further_fields,
    given,
    is_json_object,
    object_schema,
    read_answer,
    read_body,
)
from providers.formats.reasoning import (
    effort_of,
    is_openai_model,
    is_openai_reasoner,
    may_reason,
    openai_effort,
)
from providers.formats.repair import repaired
from providers.formats.seal import sealed, unsealed

_encode = msgspec.json.Encoder().encode
_decode_list = msgspec.json.Decoder(list[Any]).decode
_request = msgspec.json.Decoder(wire.Request).decode
_KNOWN = frozenset(wire.Request.__struct_fields__) | {"stream_options"}
DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)
# these refuse max_tokens; many compatible servers know nothing else
_WANTS_COMPLETION_TOKENS = re.compile(r"(?:^|/)(?:gpt-[5-9]|o\d)")
MAX_USER_LENGTH = 64
MAX_STOPS: Final = 4
THINKING: Final = "messages.thinking"
NAME: Final = "openai-chat"
SIGNED_BY: Final = "anthropic-messages"
FUNCTIONS: Final = "functions"
"""What a request echoes that calls its tools so, as before there were `tools`: its answer has a `function_call`."""
_SAMPLING: Final = frozenset({"seed", "presence_penalty", "frequency_penalty", "logit_bias", "n"})
_OPENAI_ONLY: Final = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "verbosity", "service_tier"}
)
_TEXTS: Final = frozenset({"application/json", "application/xml", "application/yaml", "application/x-yaml"})
_VLLM_ONLY: Final = frozenset({"top_k", "min_p", "repetition_penalty"})

STOP_REASONS: Final = {
    "stop": StopReason.END,
    "length": StopReason.LENGTH,
    "tool_calls": StopReason.TOOL_CALLS,
    "function_call": StopReason.TOOL_CALLS,
    "content_filter": StopReason.REFUSAL,
}
FINISH_REASONS: Final = {
    StopReason.END: "stop",
    StopReason.STOP_SEQUENCE: "stop",
    StopReason.LENGTH: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.REFUSAL: "content_filter",
    StopReason.PAUSE: "stop",
    StopReason.CONTEXT: "length",
}


# -- a client's request --------------------------------------------------------------------------------------------
def parse_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    read = read_body(_request, body)
    others = further_fields(body, _KNOWN)
    if others.get("n") == 1:
        del others["n"]
    if others.get("service_tier") == "auto":
        del others["service_tier"]
    if others.get("modalities") == ["text"]:
        del others["modalities"]
    request = ChatRequest(
        messages=[_message(one, number) for number, one in enumerate(read.messages)],
        parallel_tool_calls=read.parallel_tool_calls,
        max_output_tokens=read.max_tokens if read.max_completion_tokens is None else read.max_completion_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stop=[read.stop] if isinstance(read.stop, str) else list(read.stop or ()),
        stream=bool(read.stream),
        user=read.user or "",
        reasoning=_wanted_reasoning(read),
        logprobs=(read.top_logprobs or 0) if read.logprobs else None,
        others=others,
    )
    _read_tools(read, request)
    _read_response_format(read.response_format, request)
    return request


def _wanted_reasoning(read: wire.Request) -> Reasoning | None:
    if read.reasoning_effort:
        return Reasoning(read.reasoning_effort, named="reasoning_effort")
    if (asked := read.reasoning) is None:
        return None
    if asked.enabled is False:
        return Reasoning("none")
    if not (asked.effort or asked.max_tokens or asked.enabled):
        return None
    return Reasoning(asked.effort or "", asked.max_tokens)


def _read_tools(read: wire.Request, request: ChatRequest) -> None:
    for tool in read.tools or ():
        if tool.function is None:
            request.dropped.append(f"tools.{tool.type}")
            continue
        request.tools.append(_tool(tool.function, given(tool.cache_control)))
    if read.functions and not request.tools:  # who asks so hears of one call, and in these words
        request.echo, request.parallel_tool_calls = FUNCTIONS, False
    request.tools += [_tool(one, None) for one in read.functions or ()]
    choice = read.function_call if read.tool_choice is None else read.tool_choice
    match choice:
        case None:
            pass
        case "auto" | "none" | "required":
            request.tool_choice = ToolChoice(choice)
        case wire.NamedTool(function=wire.NamedFunction(name=name)) | wire.NamedFunction(name=name):
            request.tool_choice = ToolChoice("named", name)
        case wire.NamedTool(allowed_tools=wire.AllowedTools(tools=allowed, mode=mode)):
            names = {one.function.name for one in allowed if one.function is not None}
            request.tools = [tool for tool in request.tools if tool.name in names]
            request.tool_choice = ToolChoice("required" if mode == "required" else "auto")
        case str():
            raise InvalidRequest("tool_choice must be auto, none, required or a named function.", "tool_choice")
        case _:
            request.dropped.append("tool_choice")


def _tool(function: wire.FunctionTool, cache_control: Raw | None) -> Tool:
    return Tool(function.name, function.description or "", given(function.parameters), function.strict, cache_control)


def _read_response_format(wanted: wire.ResponseFormat | None, request: ChatRequest) -> None:
    if wanted is None or wanted.type == "text":
        return
    schema = wanted.json_schema
    written = given(schema.schema) if schema is not None else None
    if wanted.type == "json_schema" and schema is not None and written is not None:
        request.output_schema = OutputSchema(written, schema.name, schema.strict, schema.description or "")
    elif wanted.type == "json_object":
        request.output_schema = OutputSchema(None)
    else:
        request.others["response_format"] = {"type": wanted.type}


def _message(read: wire.Message, number: int) -> Message:
    match read:
        case wire.SystemMessage() | wire.DeveloperMessage():
            return Message("system", tuple(_parts(read.content, number)), read.name or "")
        case wire.UserMessage():
            return Message("user", tuple(_parts(read.content, number)), read.name or "")
        case wire.AssistantMessage():
            return Message("assistant", tuple(_said(read, number)), read.name or "")
        case wire.ToolMessage():
            parts = [one for one in _parts(read.content, number) if isinstance(one, Text | Image | Document)]
            return Message("user", (ToolResult(read.tool_call_id, tuple(parts)),))
        case wire.FunctionMessage():
            return Message("user", (ToolResult(f"call_{read.name}", (Text(read.content or ""),)),))


def _said(read: wire.AssistantMessage, number: int) -> list[Part]:
    parts: list[Part] = [*thinking(read.thinking_blocks, read.reasoning_content or read.reasoning)]
    parts += _parts(read.content, number)
    if read.refusal:
        parts.append(Refusal(read.refusal))
    for place, call in enumerate(read.tool_calls or ()):
        function = call.function
        if function is None or not function.name:
            param = f"messages[{number}].tool_calls[{place}].function"
            raise InvalidRequest(f"{param} is missing: a tool call names its function.", param)
        parts.append(ToolCall(call.id or f"call_{number}_{place}", function.name, arguments_text(function.arguments)))
    if read.function_call is not None and read.function_call.name:
        name = read.function_call.name
        parts.append(ToolCall(f"call_{name}", name, arguments_text(read.function_call.arguments)))
    return parts


def thinking(blocks: Sequence[wire.ThinkingBlock] | None, text: str | None) -> Iterable[Thinking]:
    """Blocks tell all that the text tells, and carry its signature: Anthropic's, where they do not say whose."""
    if blocks:
        for block in blocks:
            seal = block.data if block.type == "redacted_thinking" else block.signature
            part = Thinking(block.thinking or "", block.signature or "", block.data or "", SIGNED_BY)
            yield unsealed(part, seal or "") or part
    elif text:
        yield Thinking(text, source=NAME)


def said_parts(content: str | list[wire.SaidPart] | None) -> Iterable[Text | Thinking | Refusal]:
    """Of an answer. Parts of other kinds have no counterpart elsewhere."""
    if isinstance(content, str):
        yield Text(content)
        return
    for part in content or ():
        match part.type:
            case "text":
                yield Text(part.text or "")
            case "refusal":
                yield Refusal(part.refusal or "")
            case "thinking":
                yield _thought(part.thinking or "")


def _thought(thought: str | list[wire.ThoughtText]) -> Thinking:
    text = thought if isinstance(thought, str) else "".join(one.text or "" for one in thought)
    return Thinking(text, source=NAME)


def _parts(content: str | list[wire.Part] | None, number: int) -> Iterable[Part]:
    if content is None:
        return
    if isinstance(content, str):
        yield Text(content)
        return
    for place, part in enumerate(content):
        param = f"messages[{number}].content[{place}]"
        match part:
            case wire.TextPart():
                yield Text(part.text, given(part.cache_control))
            case wire.ImagePart():
                data_url, detail = DATA_URL.match(part.image_url.url), part.image_url.detail or ""
                if data_url is None:
                    yield Image(url=part.image_url.url, detail=detail, cache_control=given(part.cache_control))
                else:
                    data = part.image_url.url[data_url.end() :]
                    yield Image("", data, data_url[1], detail, given(part.cache_control))
            case wire.FilePart():
                yield _document(part, param)
            case wire.RefusalPart():
                yield Refusal(part.refusal)
            case wire.ThinkingPart():
                yield _thought(part.thinking)
            case wire.AudioPart():
                raise InvalidRequest(
                    f"{param}: the model's provider takes no audio.", param, code="unsupported_parameter"
                )


def _document(part: wire.FilePart, param: str) -> Document:
    data = part.file.file_data
    if not data:
        raise InvalidRequest(
            f"{param}: a file that another provider stores cannot be passed on; send it as file_data.",
            f"{param}.file",
            code="unsupported_parameter",
        )
    return document(data, part.file.filename or "", f"{param}.file", given(part.cache_control))


def document(data: str, name: str, param: str, cache_control: Raw | None = None) -> Document:
    """Of a data URL or bare base64, which is a PDF. A text is told as such: nobody else takes it in base64. Raises
    InvalidRequest."""
    data_url = DATA_URL.match(data)
    media_type = (data_url[1] if data_url else "") or "application/pdf"
    content = data[data_url.end() :] if data_url else data
    if media_type.lower().startswith("text/") or media_type.lower() in _TEXTS:
        try:
            text = b64decode(content).decode("utf-8", "replace")
        except ValueError:
            raise InvalidRequest(f"{param}: file_data is not base64.", param) from None
        return Document("", text, "text/plain", name, cache_control)
    return Document("", content, media_type, name, cache_control)


# -- a request for an upstream ---------------------------------------------------------------------------------------
def render_request(request: ChatRequest, model: UpstreamModel) -> Rendered:
    """Raises InvalidRequest."""
    dropped = list(request.dropped)
    said = _Speaker(model, dropped)
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(repaired(request.messages)):
        messages += said.messages(message, f"messages[{number}]")
    body: dict[str, Any] = {"model": model.name, "messages": messages}
    if request.tools:
        body["tools"] = [_rendered_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _rendered_choice(request.tool_choice)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.max_output_tokens is not None:
        name = "max_completion_tokens" if _WANTS_COMPLETION_TOKENS.search(model.name) else "max_tokens"
        body[name] = min(request.max_output_tokens, model.max_output_tokens or request.max_output_tokens)
    body |= _sampling(request, model, dropped)
    if request.user:
        body["user"] = short_user(request.user)
    if (wanted := request.output_schema) is not None:
        body["response_format"] = _response_format(wanted)
    for name, value in request.others.items():
        if _takes(name, model):
            body[name] = value
        elif name not in CACHE_HINTS:
            dropped.append(name)
    if request.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return Rendered(_encode(body), tuple(dict.fromkeys(dropped)))


def _takes(name: str, model: UpstreamModel) -> bool:
    if name in _OPENAI_ONLY:
        return is_openai_model(model.name)
    return name in _SAMPLING or (name in _VLLM_ONLY and model.provider_type == "vllm")


def _sampling(request: ChatRequest, model: UpstreamModel, dropped: list[str]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    effort = reasoning_effort(request.reasoning, model, dropped)
    if effort:
        body["reasoning_effort"] = effort
    stop = request.stop
    if len(stop) > MAX_STOPS and is_openai_model(model.name):
        stop = stop[:MAX_STOPS]
        dropped.append(f"stop[{MAX_STOPS}]")
    wanted = {"temperature": request.temperature, "top_p": request.top_p, "stop": stop or None}
    fixed = is_openai_reasoner(model.name) and effort != "none"  # these sample in one way only
    for name, value in wanted.items():
        if value is not None and value != 1:
            if fixed:
                dropped.append(name)
            else:
                body[name] = value
        elif value is not None and not fixed:
            body[name] = value
    if request.logprobs is not None:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    return body


def reasoning_effort(wanted: Reasoning | None, model: UpstreamModel, dropped: list[str]) -> str:
    """OpenAI's word for it; empty where the model is left to itself."""
    if wanted is None:
        return ""
    if not may_reason(model.name, model.abilities):
        if wanted.effort != "none":
            dropped.append(wanted.named)
        return ""
    effort = wanted.effort or (effort_of(wanted.budget_tokens) if wanted.budget_tokens else "")
    return openai_effort(effort, model.name)


def short_user(user: str) -> str:
    return user if len(user) <= MAX_USER_LENGTH else sha256(user.encode("utf-8", "replace")).hexdigest()


def _response_format(wanted: OutputSchema) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    shape: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.description:
        shape["description"] = wanted.description
    if wanted.strict is not None:
        shape["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": shape}


def _rendered_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.schema is not None:
        function["parameters"] = object_schema(tool.schema)
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _rendered_choice(choice: ToolChoice) -> Any:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def result_text(texts: Sequence[Text], media: Sequence[Part], is_error: bool) -> Any:
    """Here a result is text alone, and says in words that it is an error."""
    said = [one.text for one in texts]
    if media and not said:
        said = ["The result follows in the next message."]
    if is_error and not (said and said[0].lstrip().lower().startswith("error")):
        said = ["Error: " + said[0], *said[1:]] if said else ["Error"]
    return said[0] if len(said) == 1 else [{"type": "text", "text": text} for text in said] if said else ""


class _Speaker:
    """The messages as one model takes them. What it does not is named in `dropped`."""

    def __init__(self, model: UpstreamModel, dropped: list[str]) -> None:
        self._dropped = dropped
        self._takes_reasoning = not is_openai_model(model.name)
        self._takes_marks = "claude" in model.name  # behind a compatible service
        self._takes_extra = "gemini" in model.name

    def messages(self, message: Message, param: str) -> list[dict[str, Any]]:
        """One message may become several: each tool result is a message of its own here."""
        if message.role == "assistant":
            said = self._assistant(message)
            is_nothing = len(said) == 2 and message.parts and all(isinstance(part, Thinking) for part in message.parts)
            return [] if is_nothing else [said]
        out: list[dict[str, Any]] = []
        rest: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                texts = [one for one in part.parts if isinstance(one, Text)]
                media = [one for one in part.parts if not isinstance(one, Text)]
                out.append(
                    {"role": "tool", "tool_call_id": part.call_id, "content": result_text(texts, media, part.is_error)}
                )
                if media:
                    rest += [Text(f"What the tool call {part.call_id} returned:"), *media]
            else:
                rest.append(part)
        if rest or not out:
            shown: dict[str, Any] = {"role": message.role, "content": self._content(rest, param)}
            if message.name:
                shown["name"] = message.name
            out.append(shown)
        return out

    def _assistant(self, message: Message) -> dict[str, Any]:
        texts, refusals, thoughts = [], [], []
        calls: list[dict[str, Any]] = []
        extra = ""
        for part in message.parts:
            match part:
                case Text():
                    texts.append(part)
                case ToolCall():
                    function = {"name": part.name, "arguments": part.arguments or "{}"}
                    calls.append({"id": part.id, "type": "function", "function": function})
                    if extra:
                        calls[-1]["extra_content"] = Raw(extra.encode())
                        extra = ""
                case Thinking(source="openai-chat", redacted=sealed_extra) if self._takes_extra and is_json_object(
                    sealed_extra
                ):
                    extra = sealed_extra
                case Refusal():
                    refusals.append(part.text)
                case Thinking(source="openai-chat", signature="", redacted="") if self._takes_reasoning:
                    thoughts.append(part.text)
                case Thinking():
                    self._dropped.append(THINKING)
        shown: dict[str, Any] = {"role": "assistant", "content": self._content(texts, "") if texts else None}
        if message.name:
            shown["name"] = message.name
        if thoughts:
            shown["reasoning_content"] = "".join(thoughts)
        if calls:
            shown["tool_calls"] = calls
        if refusals:
            shown["refusal"] = "".join(refusals)
        elif not texts and not calls:
            shown["content"] = ""
        return shown

    def _content(self, parts: Sequence[Part], param: str) -> Any:
        if not parts:
            return ""
        marked = self._takes_marks and any(getattr(part, "cache_control", None) is not None for part in parts)
        if len(parts) == 1 and isinstance(parts[0], Text) and not marked:
            return parts[0].text
        shown = [_rendered_part(part, param) for part in parts]
        if marked:
            for part, one in zip(parts, shown, strict=True):
                if (mark := getattr(part, "cache_control", None)) is not None:
                    one["cache_control"] = mark
        return shown


def _rendered_part(part: Part, param: str) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            url: dict[str, Any] = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
            if part.detail in {"low", "high", "auto"}:
                url["detail"] = part.detail
            return {"type": "image_url", "image_url": url}
        case Document(media_type="text/plain", url="", data=text):
            return {"type": "text", "text": f"{part.name}\n\n{text}" if part.name else text}
        case Document(data=data) if data:
            name = part.name or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": f"data:{part.media_type};base64,{data}"}}
    raise InvalidRequest(
        f"{param}: the model's provider takes no document by URL; send its content in base64.",
        param,
        code="unsupported_parameter",
    )


# -- answers -------------------------------------------------------------------------------------------------------
class _Response(msgspec.Struct):
    choices: list[wire.Choice]
    id: str | None = None
    model: str | None = None
    created: float | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None


_response = msgspec.json.Decoder(_Response).decode


def parse_response(body: bytes) -> ChatResponse:
    """The first choice. Raises UnreadableAnswer."""
    read = read_answer(_response, body, "it is no chat completion")
    if not read.choices or (said := read.choices[0].message) is None:
        raise UnreadableAnswer("it is a chat completion without a message")
    if given(read.choices[0].error) is not None:
        raise UnreadableAnswer("it holds an error in place of an answer")
    identity = read.id or ""
    parts: list[Part] = [*thinking(said.thinking_blocks, said.reasoning_content or said.reasoning)]
    logprobs = read.choices[0].logprobs
    for one in said_parts(said.content):
        if not isinstance(one, Text):
            parts.append(one)
        elif one.text:
            parts.append(replace(one, logprobs=filled_list(logprobs.content)) if logprobs is not None else one)
            logprobs = None
    if said.refusal:
        parts.append(Refusal(said.refusal))
    calls = [*(said.tool_calls or ())]
    if said.function_call is not None:
        calls.append(wire.ToolCall(said.function_call))
    for place, call in enumerate(calls):
        if call.function is not None:
            if (extra := extra_of(call)) is not None:
                parts.append(extra)
            identity_of_call = call.id or f"call_{identity}_{place}"
            parts.append(ToolCall(identity_of_call, call.function.name or "", arguments_text(call.function.arguments)))
    return ChatResponse(
        id=identity,
        model=read.model or "",
        parts=tuple(parts),
        stop_reason=stop_reason(read.choices[0].finish_reason, has_calls=bool(calls), refused=bool(said.refusal)),
        usage=read.usage.read() if read.usage is not None else None,
        created=int(read.created or 0),
        service_tier=read.service_tier or "",
    )


def extra_of(call: wire.ToolCall) -> Thinking | None:
    """It travels as a thought of this dialect's, ahead of its call."""
    extra = given(call.extra_content)
    return Thinking(redacted=bytes(extra).decode(), source=NAME) if extra is not None else None


def stop_reason(finish_reason: str | None, *, has_calls: bool, refused: bool) -> StopReason:
    """A forced call ends with `stop`, here as in OpenAI's own answers; it is a call all the same."""
    reason = STOP_REASONS.get(finish_reason or "stop", StopReason.END)
    if reason is StopReason.END and has_calls:
        return StopReason.TOOL_CALLS
    return StopReason.REFUSAL if reason is StopReason.END and refused else reason


def finish_reason(reason: StopReason, *, refused: bool) -> str:
    """A refusal that the model put in words ends like any answer; `content_filter` is one that somebody cut off."""
    return "stop" if refused and reason is StopReason.REFUSAL else FINISH_REASONS[reason]


def wants_functions(asked: ChatRequest | None) -> bool:
    return asked is not None and asked.echo == FUNCTIONS


def render_response(response: ChatResponse, asked: ChatRequest | None = None) -> bytes:
    texts, reasoning, blocks, calls, refusals, logprobs = [], [], [], [], [], []
    for part in response.parts:
        match part:
            case Text():
                texts.append(part.text)
                if part.logprobs is not None:
                    logprobs += _decode_list(part.logprobs)
            case Refusal():
                refusals.append(part.text)
            case Thinking():
                reasoning.append(part.text)
                if part.signature or part.redacted:
                    blocks.append(thinking_block(part))
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments or "{}"}
                calls.append({"id": part.id, "type": "function", "function": function})
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) or None,
    }
    if any(reasoning):
        message["reasoning_content"] = "".join(reasoning)
    if blocks:
        message["thinking_blocks"] = blocks
    ended = finish_reason(response.stop_reason, refused=any(refusals))
    if calls and wants_functions(asked):
        message["function_call"] = calls[0]["function"]
        ended = "function_call" if ended == "tool_calls" else ended
    elif calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
        "finish_reason": ended,
    }
    body: dict[str, Any] = {
        "id": chat_id(response.id),
        "object": "chat.completion",
        "created": response.created,
        "model": response.model,
        "choices": [choice],
    }
    if response.usage is not None:
        body["usage"] = rendered_usage(response.usage)
    if response.service_tier:
        body["service_tier"] = response.service_tier
    return _encode(body)


def thinking_block(part: Thinking) -> dict[str, str]:
    """Always sealed: as it is, it could not be told from one that a compatible service gave, and wants back."""
    part = part if part.source else replace(part, source=SIGNED_BY)
    if part.redacted or not part.text:
        return {"type": "redacted_thinking", "data": sealed(part)}
    return {"type": "thinking", "thinking": part.text, "signature": sealed(part)}


def chat_id(identity: str) -> str:
    return identity if identity.startswith("chatcmpl-") else f"chatcmpl-{identity}"


def rendered_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.input_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }
