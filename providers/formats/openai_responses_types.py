"""Wire types of OpenAI Responses, as far as they are translated. Items and parts are one loose type each, told apart by
`type`: clients leave it out, and every server adds kinds of its own. After the types of the `openai` package."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from providers.formats.dialect import Told


class Part(msgspec.Struct):
    """Of a message, of a tool's output or of reasoning."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    logprobs: Raw = Raw()


class Item(msgspec.Struct):
    """`output` and `arguments` are texts where they are a function's."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Raw = Raw()
    summary: list[Part] | None = None
    encrypted_content: str | None = None


class Tool(msgspec.Struct):
    """`tools` where the type is namespace, `format` where it is custom."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    strict: bool | None = None
    format: Any = None
    tools: list[Tool] | None = None


class ToolChoice(msgspec.Struct):
    type: str
    name: str | None = None
    namespace: str | None = None
    mode: str | None = None
    tools: list[dict[str, Any]] | None = None


class Format(msgspec.Struct):
    type: str
    name: str = "output"
    schema: Raw = Raw()
    strict: bool | None = None
    description: str | None = None


class TextConfig(msgspec.Struct):
    format: Format | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class Request(msgspec.Struct):
    input: str | list[Item]
    model: str | None = None
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    stream: bool | None = None
    user: str | None = None
    metadata: Raw = Raw()
    truncation: str | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Raw = Raw()
    prompt: Raw = Raw()


class ToolsOnly(msgspec.Struct):
    """What an answer repeats of its request, as it was written."""

    tools: Raw = Raw()
    tool_choice: Raw = Raw()
    text: Raw = Raw()
    reasoning: Raw = Raw()


# -- answers -----------------------------------------------------------------------------------------------------
class InputDetails(msgspec.Struct):
    cached_tokens: Told = None
    cache_write_tokens: Told = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: Told = None


class IncompleteDetails(msgspec.Struct):
    reason: str | None = None


class Error(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None
