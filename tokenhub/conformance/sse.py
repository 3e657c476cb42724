"""A strict reader of event streams: what a lenient one would forgive is an error here. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenhub.conformance.values import BrokenRule


class Event(NamedTuple):
    """`name` is empty where the stream gave none. `at`: when it was complete, in seconds."""

    name: str
    data: str
    at: float = 0.0

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.data)
        except ValueError:
            raise BrokenRule(f"an event's data is no JSON: {self.data[:120]!r}") from None
        if not isinstance(value, dict):
            raise BrokenRule(f"an event's data is no JSON object: {self.data[:120]!r}")
        return value


class Reader:
    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes, at: float = 0.0) -> list[Event]:
        """The events that are complete with these bytes. Raises BrokenRule."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"), at)
            if event is not None:
                events.append(event)
        return events

    def close(self) -> None:
        """Raises BrokenRule when the stream stopped within an event."""
        if self._rest or self._name or self._data:
            raise BrokenRule(f"the stream stops within an event: {self._rest[:80]!r}")

    def _line(self, line: bytes, at: float) -> Event | None:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise BrokenRule(f"the stream is not UTF-8: {line[:80]!r}") from None
        if not text:
            if not self._name and not self._data:
                return None
            if not self._data:
                raise BrokenRule(f"the event {self._name!r} has no data")
            event = Event(self._name, "\n".join(self._data), at)
            self._name, self._data = "", []
            return event
        field, colon, value = text.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if colon:
                pass  # a comment
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" | "retry":
                pass
            case _:
                raise BrokenRule(f"no field of an event stream: {text[:80]!r}")
        return None


def read(data: bytes) -> list[Event]:
    """A whole stream. Raises BrokenRule."""
    reader = Reader()
    events = reader.feed(data)
    reader.close()
    return events
