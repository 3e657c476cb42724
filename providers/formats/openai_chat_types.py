"""Wire types of OpenAI chat completions, as far as they are translated; `name` fields and nulls as clients send them.
Other keys are left alone here. After the types of the `openai` package."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw


class _Part(msgspec.Struct, tag_field="type"):
    pass


class TextPart(_Part, tag="text"):
    text: str
    cache_control: Raw = Raw()


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class ImagePart(_Part, tag="image_url"):
    image_url: ImageUrl
    cache_control: Raw = Raw()


class File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(_Part, tag="file"):
    file: File
    cache_control: Raw = Raw()


class RefusalPart(_Part, tag="refusal"):
    refusal: str


class AudioPart(_Part, tag="input_audio"):
    input_audio: Raw


class ThoughtText(msgspec.Struct):
    text: str | None = None


class ThinkingPart(_Part, tag="thinking"):
    """Of Mistral's models."""

    thinking: str | list[ThoughtText]


Part = TextPart | ImagePart | FilePart | RefusalPart | AudioPart | ThinkingPart


class Function(msgspec.Struct):
    """`arguments` to be read by `arguments_text`."""

    name: str | None = None
    arguments: Any = None


class ToolCall(msgspec.Struct):
    """`extra_content` is what Gemini wants back with the call: what it thought, signed."""

    function: Function | None = None
    id: str | None = None
    type: str | None = None
    index: int | None = None
    extra_content: Raw = Raw()


class ThinkingBlock(msgspec.Struct):
    """As LiteLLM's `thinking_blocks` carry Anthropic's reasoning through this dialect."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Message(msgspec.Struct, tag_field="role"):
    pass


class SystemMessage(_Message, tag="system"):
    content: str | list[Part]
    name: str | None = None


class DeveloperMessage(_Message, tag="developer"):
    content: str | list[Part]
    name: str | None = None


class UserMessage(_Message, tag="user"):
    content: str | list[Part]
    name: str | None = None


class AssistantMessage(_Message, tag="assistant"):
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    refusal: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None


class ToolMessage(_Message, tag="tool"):
    tool_call_id: str
    content: str | list[Part] | None = None


class FunctionMessage(_Message, tag="function"):
    name: str
    content: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class FunctionTool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Raw = Raw()
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: FunctionTool | None = None
    cache_control: Raw = Raw()


class NamedFunction(msgspec.Struct):
    name: str


class AllowedTool(msgspec.Struct):
    type: str = "function"
    function: NamedFunction | None = None


class AllowedTools(msgspec.Struct):
    tools: list[AllowedTool]
    mode: str = "auto"


class NamedTool(msgspec.Struct):
    type: str = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(msgspec.Struct):
    name: str = "output"
    schema: Raw = Raw()
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None


class Effort(msgspec.Struct):
    """OpenRouter's `reasoning`, which other servers took over."""

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None


class Request(msgspec.Struct):
    messages: list[Message]
    model: str | None = None
    tools: list[Tool] | None = None
    functions: list[FunctionTool] | None = None
    tool_choice: str | NamedTool | None = None
    function_call: str | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning: Effort | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


# -- answers -----------------------------------------------------------------------------------------------------
class SaidPart(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    thinking: str | list[ThoughtText] | None = None


class Said(msgspec.Struct):
    """A message of an answer, or a delta of one. `reasoning` is OpenRouter's and Ollama's word."""

    role: str | None = None
    content: str | list[SaidPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class Logprobs(msgspec.Struct):
    content: Raw = Raw()


class Choice(msgspec.Struct):
    index: int | None = 0
    logprobs: Logprobs | None = None
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    error: Raw = Raw()
