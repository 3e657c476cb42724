"""What an answer says, for whoever judges it: its text and its calls of tools, of whole answers and of streams as they
pass. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from providers.formats.base import Dialect
from providers.formats.canonical import Text, TextDelta, ToolCall, ToolDelta, ToolStarted
from providers.formats.dialect import ClientError, Relay, Usage, WireError
from providers.formats.errors import UnreadableAnswer
from providers.formats.openai_responses import flat_name

MAX_HEARD: Final = 1_048_576  # characters; of a longer answer nothing is said
_any = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Heard:
    """`calls`: each tool's name and its arguments, as they were written."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


def heard_in(dialect: Dialect, body: bytes) -> Heard | None:
    """A whole answer; None if it cannot be read, or is too long."""
    if len(body) > MAX_HEARD:
        return None
    try:
        parts = dialect.parse_response(body).parts
    except (UnreadableAnswer, msgspec.DecodeError, RecursionError):
        return None
    text = "".join(part.text for part in parts if isinstance(part, Text))
    return Heard(text, [(part.name, part.arguments) for part in parts if isinstance(part, ToolCall)])


class HeardStream:
    """A Relay around another one, whose bytes are in the client's dialect; they pass as they are."""

    def __init__(self, relay: Relay, dialect: Dialect) -> None:
        self._relay = relay
        self._parser = dialect.stream_parser()
        self._texts: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._size = 0
        self._is_lost = False

    @property
    def usage(self) -> Usage | None:
        return self._relay.usage

    @property
    def produced_bytes(self) -> int:
        return self._relay.produced_bytes

    @property
    def finished(self) -> bool:
        return self._relay.finished

    @property
    def error(self) -> WireError | None:
        return self._relay.error

    def feed(self, data: bytes) -> bytes:
        return self._listen(self._relay.feed(data))

    def close(self) -> bytes:
        return self._listen(self._relay.close())

    def fail(self, error: ClientError) -> bytes:
        return self._relay.fail(error)

    @property
    def heard(self) -> Heard | None:
        """So far; None if it cannot be read, or is too long."""
        if self._is_lost:
            return None
        calls = [(name, "".join(arguments)) for name, arguments in self._calls.values()]
        return Heard("".join(self._texts), calls)

    def _listen(self, data: bytes) -> bytes:
        if self._is_lost:
            return data
        self._size += len(data)
        try:
            for event in self._parser.feed(data):
                match event:
                    case TextDelta():
                        self._texts.append(event.text)
                    case ToolStarted():
                        self._calls[event.index] = (event.name, [])
                    case ToolDelta() if event.index in self._calls:
                        self._calls[event.index][1].append(event.arguments)
        except (UnreadableAnswer, msgspec.DecodeError, RecursionError):
            self._is_lost = True
        if self._is_lost or self._size > 4 * MAX_HEARD:  # an event is mostly frame
            self._is_lost = True
            self._texts, self._calls = [], {}
        return data


# -- calls of tools ----------------------------------------------------------------------------------------------------
def tool_names(*fields: bytes) -> frozenset[str]:
    """Names of the offered tools, of a request's fields `tools` and `functions`; what cannot be read has none."""
    found: set[str] = set()
    for raw in fields:
        try:
            listed = _any(raw) if raw else []
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(listed, list):
            found.update(_names(listed))
    return frozenset(found)


def _names(tools: Iterable[Any], prefix: str = "") -> Iterator[str]:
    for tool in tools:
        if not isinstance(tool, dict):
            continue
        for holder in (tool, tool.get("function"), tool.get("custom")):
            name = holder.get("name") if isinstance(holder, dict) else None
            if isinstance(name, str):
                yield flat_name(name, prefix)
        inner = tool.get("tools")
        if isinstance(inner, list):
            yield from _names(inner, str(tool.get("name", "")))


def calls_are_valid(heard: Heard, offered: frozenset[str]) -> bool | None:
    """Whether each call names an offered tool and its arguments are a JSON object, or nothing at all. None without
    calls."""
    if not heard.calls:
        return None
    return all(name in offered and _is_object(arguments) for name, arguments in heard.calls)


def _is_object(text: str) -> bool:
    try:
        return not text.strip() or isinstance(_any(text.encode()), dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
