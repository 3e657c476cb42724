"""One play of one case: what it says to the gateway, what it hears, and what the upstream received meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic
from typing import Any, Final

import httpx

from tokenhub.conformance import sse
from tokenhub.conformance.rules import need
from tokenhub.conformance.scripts import mark
from tokenhub.conformance.speaks import Client
from tokenhub.conformance.upstream import Exchange, Upstream
from tokenhub.conformance.values import Ask, BrokenRule, Received, Said, Trouble

PATIENCE_SECONDS: Final = 20.0
_ALONE: Final = {"x-tokenhub-fallback": "none", "accept-encoding": "identity"}
_tickets = count(1)


class Skipped(Exception):
    """The case means nothing here. The text says why."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came. `events` of a stream, in the order and at the times of their arrival."""

    status: int
    headers: httpx.Headers
    content: bytes
    events: list[sse.Event]

    def json(self) -> Any:
        kind = self.headers.get("content-type", "")
        need(kind.startswith("application/json"), f"the answer's content-type is {kind!r}: {self.content[:200]!r}")
        try:
            return httpx.Response(200, content=self.content).json()
        except ValueError:
            raise BrokenRule(f"the answer is no JSON: {self.content[:200]!r}") from None


@dataclass(slots=True)
class Play:
    """`others`: the gateway's models for each of the upstream's dialects. `history`: the conversation so far, as the
    client would hand it back."""

    http: httpx.Client
    key: str
    client: Client
    upstream: Upstream
    dialect: str
    model: str
    stream: bool
    others: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Any, ...] = ()
    heard: Heard | None = None
    _exchanges: list[Exchange] = field(default_factory=list)

    def say(self, script: str, ask: Ask) -> Said:
        """Asks, and expects an answer that is one. Raises BrokenRule."""
        heard, told = self.post(script, ask)
        if heard.status != 200:
            raise BrokenRule(f"status {heard.status}: {heard.content[:300].decode('utf-8', 'replace')}")
        if self.stream:
            kind = heard.headers.get("content-type", "")
            need(kind.startswith("text/event-stream"), f"the stream's content-type is {kind!r}")
            said = self.client.stream(heard.events, told)
        else:
            said = self.client.whole(heard.json())
        self.history = (*told.history, *self.client.turns(told), *said.history)
        return said

    def refused(self, script: str, ask: Ask, *, headers: Mapping[str, str] | None = None) -> tuple[Heard, Trouble]:
        """Asks, and expects an error before any stream begins. Raises BrokenRule."""
        heard, _ = self.post(script, ask, headers=headers)
        need(heard.status >= 400, f"status {heard.status} instead of an error: {heard.content[:200]!r}")
        return heard, self.client.error(heard.json())

    def post(self, script: str, ask: Ask, *, headers: Mapping[str, str] | None = None) -> tuple[Heard, Ask]:
        """The answer, and what was asked, with the marker in it."""
        ticket = next(_tickets)
        told = _marked(ask, mark(script, ticket))
        body = self.client.body(told, model=self.model, stream=self.stream)
        heard = self.heard = self.request("POST", self.client.path, body, headers=headers)
        self._exchanges = self.upstream.received(ticket)
        return heard, told

    def request(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Heard:
        """Raises BrokenRule when the answer does not end in time or the gateway closes the connection on it."""
        sent = {**self.client.headers(self.key), **_ALONE, **(headers or {})}
        until, content, events, reader = monotonic() + PATIENCE_SECONDS, b"", list[sse.Event](), sse.Reader()
        try:
            with self.http.stream(method, path, json=body, headers=sent) as answer:
                is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
                for data in answer.iter_raw():
                    now = monotonic()
                    need(now < until, f"the answer does not end within {PATIENCE_SECONDS:.0f} s")
                    content += data
                    if is_stream:
                        events += reader.feed(data, now)
        except httpx.HTTPError as problem:
            raise BrokenRule(f"the gateway does not answer: {problem!r} after {content[-200:]!r}") from None
        if is_stream:
            reader.close()
        return Heard(answer.status_code, answer.headers, content, events)

    @property
    def received(self) -> Received:
        """What reached the upstream of the last question."""
        need(self._exchanges, "nothing reached the upstream")
        return self._exchanges[-1].read

    @property
    def is_tokenhub(self) -> bool:
        return self.heard is not None and "x-tokenhub-request-id" in self.heard.headers

    def only_tokenhub(self) -> None:
        """Raises Skipped where the last answer came from another gateway."""
        if not self.is_tokenhub:
            raise Skipped("the gateway is not TokenHub")


def _marked(ask: Ask, text: str) -> Ask:
    """The marker stands in the last thing that the user says, a tool's results if need be."""
    if ask.text or not ask.results:
        return replace(ask, text=f"{ask.text} {text}".strip())
    return replace(ask, results=tuple(one._replace(text=f"{one.text} {text}") for one in ask.results))
