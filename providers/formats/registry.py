"""Every dialect by its name, and the way of an answer from one to another. A module in `providers.formats.dialects` is
a dialect, named by its DIALECT; there is no other list. Pure."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Final

from providers.formats import dialects
from providers.formats.base import Dialect
from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Ended,
    Failed,
    Refusal,
    RefusalDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import (
    Answer,
    ClientError,
    Relay,
    Rendered,
    StreamParser,
    StreamRenderer,
    UpstreamModel,
    Usage,
    WireError,
)
from providers.formats.names import restored, restored_event, shortened
from providers.formats.whole import WholeParser


def _found() -> dict[str, Dialect]:
    modules = [import_module(f"{dialects.__name__}.{one.name}") for one in pkgutil.iter_modules(dialects.__path__)]
    return {module.DIALECT.name: module.DIALECT for module in modules}


DIALECTS: Final[dict[str, Dialect]] = _found()
NOT_TRANSLATED: Final = Rendered(b"")


def render_request(upstream: Dialect, request: ChatRequest, model: UpstreamModel) -> Rendered:
    """The request in the upstream's dialect. Raises InvalidRequest."""
    request, long_names = shortened(request)
    rendered = upstream.render_request(request, model)
    return rendered._replace(long_names=long_names) if long_names else rendered


def translate_answer(
    upstream: Dialect,
    client: Dialect,
    body: bytes,
    *,
    now: float,
    asked: ChatRequest | None = None,
    rendered: Rendered = NOT_TRANSLATED,
) -> Answer:
    """A whole answer for the client: the same bytes where both speak alike. `now` in Unix seconds; `asked` and
    `rendered` where the request was translated. Raises UnreadableAnswer."""
    if upstream is client:
        return upstream.inspect_response(body)
    response = upstream.parse_response(body, output_tool=rendered.output_tool)
    if rendered.long_names:
        response = replace(response, parts=tuple(restored(part, rendered.long_names) for part in response.parts))
    if not response.created:
        response = replace(response, created=int(now))
    return Answer(client.render_response(response, asked), response.usage, _size(response))


def _size(response: ChatResponse) -> int:
    total = 0
    for part in response.parts:
        match part:
            case Text() | Refusal() | Thinking():
                total += len(part.text)
            case ToolCall():
                total += len(part.arguments)
    return total


def relay(
    upstream: Dialect,
    client: Dialect,
    *,
    show_usage: bool,
    now: float,
    asked: ChatRequest | None = None,
    rendered: Rendered = NOT_TRANSLATED,
    is_whole: bool = False,
) -> Relay:
    """One stream's way to the client. As `translate_answer`. `is_whole`: of another dialect comes an answer's body."""
    if upstream is client:
        return upstream.stream_observer(show_usage=show_usage)
    output_tool = rendered.output_tool
    parser: StreamParser = (
        WholeParser(upstream, output_tool=output_tool) if is_whole else upstream.stream_parser(output_tool=output_tool)
    )
    renderer = client.stream_renderer(show_usage=show_usage, asked=asked)
    return Translation(parser, renderer, now=now, long_names=rendered.long_names)


class Translation:
    """A Relay from one dialect to another: a parser, a renderer, and a look at the events between."""

    def __init__(
        self, parser: StreamParser, renderer: StreamRenderer, *, now: float, long_names: Mapping[str, str]
    ) -> None:
        self._parser = parser
        self._renderer = renderer
        self._created = int(now)
        self._long_names = long_names
        self.usage: Usage | None = None
        self.produced_bytes = 0
        self.finished = False
        self.error: WireError | None = None

    def feed(self, data: bytes) -> bytes:
        return self._pass_on(self._parser.feed(data))

    def close(self) -> bytes:
        return self._pass_on(self._parser.close())

    def fail(self, error: ClientError) -> bytes:
        return self._renderer.fail(error)

    def _pass_on(self, events: list[StreamEvent]) -> bytes:
        for number, event in enumerate(events):
            match event:
                case TextDelta() | RefusalDelta() | ThinkingDelta():
                    self.produced_bytes += len(event.text)
                case ToolDelta():
                    self.produced_bytes += len(event.arguments)
                case Started(created=0):
                    events[number] = replace(event, created=self._created)
                case ToolStarted() if self._long_names:
                    events[number] = restored_event(event, self._long_names)
                case UsageSeen():
                    self.usage = event.usage
                case Ended():
                    self.finished = True
                case Failed():
                    self.error = event.error
        return self._renderer.render(events)
