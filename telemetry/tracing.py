"""A request as OpenTelemetry sees it: what W3C's `traceparent` said, and a leg for each call of a provider. Plain
notes, made only where tracing is on; `tracing_export` turns them into spans when the request is over.

Whoever asks on behalf of a request notes a leg: `leg = trace.began(…)`, `leg.headers` upstream, `leg.end(…)`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import time_ns
from typing import Any, Final

SAMPLED: Final = 1
CANCELLED: Final = "cancelled"
MAX_STATE: Final = 512
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_VISIBLE = re.compile(rb"[\x20-\x7e]*")
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class Leg:
    """One call of a provider. Times in nanoseconds since 1970; `ended` is 0 while it is under way. `told`: what of the
    call is fit to be shown, by the attribute's name."""

    span_id: int
    parent_id: int
    operation: str
    model: str
    headers: Headers
    started: int
    told: dict[str, Any]
    ended: int = 0
    error: str = ""
    has_answered: bool = False

    def end(self, error: str = "") -> None:
        """Once; a second time says nothing."""
        if not self.ended:
            self.ended, self.error = time_ns(), error


@dataclass(slots=True, eq=False)
class Trace:
    """`parent_id`: the client's span, 0 where it named none. Not `is_recorded`: the client wants no spans of this
    request, and providers get to see what it sent."""

    trace_id: int
    span_id: int
    parent_id: int = 0
    state: bytes = b""
    flags: int = SAMPLED
    is_recorded: bool = True
    started: int = field(default_factory=time_ns)
    legs: list[Leg] = field(default_factory=list)

    def child(self) -> Trace:
        """Of a request that is made on behalf of this one."""
        own = _new_id(8) if self.is_recorded else self.span_id
        return Trace(self.trace_id, own, self.span_id, self.state, self.flags, self.is_recorded)

    def began(self, operation: str, model: str, told: dict[str, Any]) -> Leg:
        """A call that is about to be made."""
        own = _new_id(8) if self.is_recorded else self.parent_id
        headers = [(b"traceparent", b"00-%032x-%016x-%02x" % (self.trace_id, own, self.flags))]
        if self.state:
            headers.append((b"tracestate", self.state))
        leg = Leg(own, self.span_id, operation, model, headers, time_ns(), told)
        self.legs.append(leg)
        return leg

    def never_made(self, leg: Leg) -> None:
        self.legs.remove(leg)

    def used(self, told: dict[str, Any]) -> None:
        """By the last call that was answered."""
        for leg in reversed(self.legs):
            if leg.has_answered and not leg.error:
                leg.told |= told
                return

    def end(self, error: str) -> None:
        """Legs that are still under way end with the request, and as it does."""
        for leg in self.legs:
            leg.end(error)


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """By W3C's Trace Context: what the client says, or a trace of our own where it says nothing that can be read."""
    parent, states = None, []
    for name, value in headers:
        if name == b"traceparent":
            parent = _PARENT.fullmatch(value)
        elif name == b"tracestate":
            states.append(value)
    if parent is not None:
        version, trace_id, span_id = parent[1], int(parent[2], 16), int(parent[3], 16)
        if version != b"ff" and not (version == b"00" and parent[5]) and trace_id and span_id:
            state = b",".join(states)
            if len(state) > MAX_STATE or not _VISIBLE.fullmatch(state):
                state = b""
            flags = int(parent[4], 16)
            is_recorded = bool(flags & SAMPLED)
            return Trace(trace_id, _new_id(8) if is_recorded else span_id, span_id, state, flags, is_recorded)
    return Trace(_new_id(16), _new_id(8))


def _new_id(size: int) -> int:
    return int.from_bytes(os.urandom(size), "big") or 1
