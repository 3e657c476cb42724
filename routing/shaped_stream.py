"""A stream in the form that was asked for: thoughts are taken out of it as it passes, and its whole text is held
against the form once it has ended. Pure, but for `verdict`, which computes in a thread."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from providers.formats.base import Dialect
from providers.formats.canonical import RefusalDelta, TextDelta, ToolStarted
from providers.formats.dialect import ClientError, Relay, Usage, WireError
from providers.formats.openai_chat_wire import DONE
from providers.formats.sse import Framer
from routing.chat_texts import ChunkFilter
from routing.shaping import MAX_TEXT, Checked, Shape, check

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def without_last_event(data: bytes) -> bytes:
    """Whole events, short of the one that says that all is well."""
    start = 0
    for end in _EVENT_END.finditer(data.rstrip(b"\r\n")):
        start = end.end()
    return data[:start]


class ShapedStream:
    """A Relay around another one, whose bytes are in the client's dialect. Thoughts are taken out of OpenAI chunks: no
    other dialect's clients can ask for that."""

    def __init__(self, relay: Relay, shape: Shape, dialect: Dialect) -> None:
        self._relay = relay
        self._shape = shape
        self._filter = ChunkFilter() if shape.strip_think else None
        self._framer = Framer()
        self._parser = dialect.stream_parser()
        self._texts: list[str] = []
        self._size = 0
        self._is_exempt = not shape.is_checked

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
        return self._shaped(self._relay.feed(data))

    def close(self) -> bytes:
        return self._shaped(self._relay.close())

    def fail(self, error: ClientError) -> bytes:
        return self._relay.fail(error)

    def _shaped(self, data: bytes) -> bytes:
        """What the client gets of what the relay gave it: whole events."""
        if self._filter is not None:
            data = b"".join(self._filtered(frame.raw, frame.data) for frame in self._framer.feed(data))
        if not self._is_exempt and self._size <= MAX_TEXT:
            for event in self._parser.feed(data):
                match event:
                    case TextDelta():
                        self._texts.append(event.text)
                        self._size += len(event.text)
                    case ToolStarted() | RefusalDelta():
                        self._is_exempt = True
        return data

    def _filtered(self, raw: bytes, data: bytes) -> bytes:
        assert self._filter is not None  # noqa: S101
        if not data or data == DONE:
            return raw
        changed = self._filter.filtered(data)
        return raw if changed is data else b"data: " + changed + b"\n\n"

    async def verdict(self) -> Checked | None:
        """On the whole text, once the stream has ended. None where no form can be asked of it: it is a refusal, or it
        calls tools."""
        if self._is_exempt:
            return None
        text = "".join(self._texts)
        checked = await asyncio.to_thread(check, self._shape, text)
        if not checked.problems and checked.text != text.strip():
            return Checked(text, ("There is something around it.",))
        return checked
