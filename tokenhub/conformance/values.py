"""What the suite's modules tell each other, in no dialect's words. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

CHAT: Final = "openai-chat"
MESSAGES: Final = "anthropic-messages"
RESPONSES: Final = "openai-responses"
DIALECTS: Final = (CHAT, MESSAGES, RESPONSES)
EMBEDDINGS: Final = "openai-embeddings"


class BrokenRule(Exception):
    """Something that a dialect does not allow. The text says what, for whoever mends the gateway."""


class Stop(StrEnum):
    END = "end"
    LENGTH = "length"
    TOOLS = "tools"
    SEQUENCE = "sequence"
    REFUSAL = "refusal"


class Call(NamedTuple):
    """`arguments` is JSON text as it was written."""

    id: str
    name: str
    arguments: str


class Usage(NamedTuple):
    """`input` holds cached and cache-written tokens, `output` the reasoning. `reasoning` is None in a dialect that does
    not tell."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    reasoning: int | None = None


class Trouble(NamedTuple):
    """An error as the client reads it; `code` is empty in a dialect without codes."""

    type: str
    message: str
    code: str = ""


@dataclass(slots=True)
class Said:
    """One answer, whole or put together from its stream. `history`: the client's own rendering of it for the next turn,
    as entries of its list of turns. `seals`: what stands in it for a provider that wants its reasoning back.
    `error`: the stream ended with it."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: list[Call] = field(default_factory=list)
    seals: list[str] = field(default_factory=list)
    stop: Stop | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    error: Trouble | None = None
    history: list[Any] = field(default_factory=list)


class Image(NamedTuple):
    """Either `url`, or `data` in base64 with its `media_type`."""

    url: str = ""
    data: str = ""
    media_type: str = ""


class Document(NamedTuple):
    """`data` in base64."""

    name: str
    data: str
    media_type: str = "application/pdf"


class Tool(NamedTuple):
    name: str
    description: str
    schema: dict[str, Any]


class Result(NamedTuple):
    """What a tool gave back for the call of that id."""

    call_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client wants. `history` holds entries of the dialect's own list of turns, told before `results` and
    `text`. `tool_choice`: auto, none, required, a tool's name, or empty. `otherwise`: said in the
    dialect's other spelling, where it has two. `further`: fields of the dialect's own."""

    text: str = ""
    system: str = ""
    image: Image | None = None
    document: Document | None = None
    history: tuple[Any, ...] = ()
    results: tuple[Result, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    one_call_at_a_time: bool = False
    schema: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 4096
    reasoning: bool = False
    hide_usage: bool = False
    otherwise: bool = False
    further: dict[str, Any] = field(default_factory=dict)


class Part(NamedTuple):
    """A piece of a conversation as the upstream received it. `kind`: text, image, document, thinking, call or result.
    `id` of a call; `name` of its function; `text` holds its arguments, an image's URL or data, a thought's text.
    `seal`: signature or encrypted content."""

    role: str
    kind: str
    text: str = ""
    id: str = ""
    name: str = ""
    seal: str = ""
    is_error: bool = False


@dataclass(slots=True)
class Received:
    """A request as the upstream received it."""

    system: str = ""
    parts: list[Part] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    tool_choice: str = ""
    one_call_at_a_time: bool = False
    schema: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    reasoning: bool = False
    stream: bool = False

    def of(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]
