"""Server-sent events out of bytes that arrive in any pieces (WHATWG HTML, 9.2.6). Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from providers.formats.errors import UnreadableAnswer

MAX_EVENT_BYTES = 16_777_216
_BOM = b"\xef\xbb\xbf"
_END = re.compile(rb"\n\r?\n|\n\r|\r\r")  # what precedes it belongs to the event anyhow


class Frame(NamedTuple):
    """One event: its bytes as they came, its end included, and what they say. Comments give empty `data`."""

    raw: bytes
    event: bytes
    data: bytes


class Framer:
    """Cuts a stream into whole events and keeps what is not yet one."""

    __slots__ = ("_begun", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._begun = False

    def feed(self, data: bytes) -> list[Frame]:
        """Raises UnreadableAnswer when an event has no end within bounds."""
        tail = self._tail
        buffer = tail + data if tail else data
        if b"\r" not in buffer:  # as every known provider writes
            if b"\n\n" not in buffer:
                return self._keep(buffer)
            *events, self._tail = buffer.split(b"\n\n")
            return [self._frame(raw + b"\n\n") for raw in events]
        frames, start = [], 0
        for match in _END.finditer(buffer):
            if match.end() == len(buffer) and match.group() == b"\n\r":
                break  # a line feed may follow that belongs to it
            frames.append(self._frame(buffer[start : match.end()]))
            start = match.end()
        self._keep(buffer[start:])
        return frames

    def close(self) -> list[Frame]:
        """A last event whose empty line is missing counts: some servers forget it."""
        tail, self._tail = self._tail, b""
        if not tail.strip():
            return []
        return [self._frame(tail + b"\n\n")]

    def _keep(self, tail: bytes) -> list[Frame]:
        if len(tail) > MAX_EVENT_BYTES:
            raise UnreadableAnswer("an event of its stream is too large")
        self._tail = tail
        return []

    def _frame(self, raw: bytes) -> Frame:
        if not self._begun:
            self._begun = True
            if raw.startswith(_BOM):
                return self._parsed(raw, raw[3:])
        if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:  # the usual event
            return Frame(raw, b"", raw[6:-2])
        return self._parsed(raw, raw)

    @staticmethod
    def _parsed(raw: bytes, text: bytes) -> Frame:
        event, data = b"", []
        for line in text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value
        return Frame(raw, event, b"\n".join(data))
