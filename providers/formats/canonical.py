"""The one form that every chat dialect is parsed into and rendered from: messages with typed parts, and a stream as
typed events. N parsers and N renderers meet here. Pure; knows no dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from msgspec import Raw

from providers.formats.dialect import Usage, WireError


# -- parts of a message ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Text:
    """`cache_control`: a provider's caching mark, kept as it came. `logprobs`: of an answer, a JSON array of OpenAI's
    token entries."""

    text: str
    cache_control: Raw | None = None
    logprobs: Raw | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """Either `url`, or `data` in base64 with its `media_type`."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache_control: Raw | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file: `data` in base64 (plain text when the media type is text/plain), or `url`."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    name: str = ""
    cache_control: Raw | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning that the model showed. `signature` lets its provider take it back; `redacted` is sealed reasoning.
    Both mean something only in `source`, the dialect that they came in; `id` is that dialect's name for the part."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    source: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON text exactly as it was written, which may be empty or broken."""

    id: str
    name: str
    arguments: str
    cache_control: Raw | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    call_id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False
    cache_control: Raw | None = None


Part = Text | Image | Document | Thinking | Refusal | ToolCall | ToolResult
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """Tool results stand in messages of the user."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""


CACHE_HINTS: Final = frozenset({"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"})
"""Parameters that may be left out without a word: no answer differs for them."""


# -- a request ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Tool:
    """`schema`: JSON Schema of the arguments, as it was written."""

    name: str
    description: str = ""
    schema: Raw | None = None
    strict: bool | None = None
    cache_control: Raw | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` for the mode `named`."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The answer is to be JSON: of that schema, or any object where there is none."""

    schema: Raw | None
    name: str = "output"
    strict: bool | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much the model is to think before it answers. `effort` is one of none, minimal, low, medium, high, xhigh,
    max, or empty: as much as it likes. `summary`: whether its thoughts are shown, and how. `named`: the client's name
    for it, if it must be dropped."""

    effort: str = ""
    budget_tokens: int | None = None
    summary: str = ""
    named: str = "reasoning"


@dataclass(slots=True)
class ChatRequest:
    """`logprobs`: how many alternatives to show for each token, None for no probabilities at all. `others`: further
    parameters by the client's name for them; what the target's dialect has no word for is dropped and named.
    `dropped`: what was lost already while parsing. `echo`: what the client's dialect needs again for its answer."""

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    user: str = ""
    output_schema: OutputSchema | None = None
    reasoning: Reasoning | None = None
    logprobs: int | None = None
    others: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    echo: Any = None


# -- an answer ---------------------------------------------------------------------------------------------------
class StopReason(StrEnum):
    END = "end"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    REFUSAL = "refusal"
    PAUSE = "pause"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """`created` in Unix seconds, 0 where the dialect does not say. `service_tier` in OpenAI's words."""

    id: str
    model: str
    parts: tuple[Part, ...]
    stop_reason: StopReason
    usage: Usage | None
    stop_sequence: str | None = None
    created: int = 0
    service_tier: str = ""


# -- a stream ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Started:
    """First of all events, once. `usage`: what is known of the input already."""

    id: str
    model: str
    created: int = 0
    usage: Usage | None = None
    service_tier: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str
    logprobs: Raw | None = None


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """Text or signature of reasoning; `redacted` is whole at once. `source` and `id` as in Thinking."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    source: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """`index` counts the answer's tool calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolDelta:
    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part that was being written is whole. Dialects without such an event leave it out."""


@dataclass(frozen=True, slots=True)
class Finished:
    reason: StopReason
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class UsageSeen:
    """All that is known of the usage so far; the last one holds."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is complete. Nothing follows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The upstream reported an error. Nothing follows."""

    error: WireError


StreamEvent = (
    Started
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ToolStarted
    | ToolDelta
    | PartEnded
    | Finished
    | UsageSeen
    | Ended
    | Failed
)
