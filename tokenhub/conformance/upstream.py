"""The suite's own upstream: a small HTTP/1.1 server that answers in the dialect of the path what the marker in the
conversation names, whole or as a stream, and keeps what it received.

    with Upstream() as upstream:                # upstream.url == "http://127.0.0.1:PORT"
        …
        upstream.received(ticket)               # Exchange

It runs in a thread of its own. Every connection is closed with it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from tokenhub.conformance import reads, says_chat, says_messages, says_responses
from tokenhub.conformance.scripts import PAUSE_SECONDS, RETRY_AFTER, SCRIPTS, TOKENS_COUNTED, Script, marks
from tokenhub.conformance.values import CHAT, MESSAGES, RESPONSES, BrokenRule, Received

PATHS = {"/v1/chat/completions": CHAT, "/v1/messages": MESSAGES, "/v1/responses": RESPONSES}
COUNT_PATH = "/v1/messages/count_tokens"
EMBEDDINGS_PATH = "/v1/embeddings"
VECTOR = (0.25, -0.5, 1.0)
START_SECONDS = 5.0
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Exchange:
    """`refused`: why the real provider would have refused the request; empty where it would not."""

    dialect: str
    headers: dict[str, str]
    body: dict[str, Any]
    read: Received
    refused: str


class Upstream:
    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Raises OSError where the address cannot be listened on."""
        self._socket = socket.create_server((host, port))
        self.host, self.port = self._socket.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="conformance-upstream", daemon=True)
        self._exchanges: dict[int, list[Exchange]] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def received(self, ticket: int) -> list[Exchange]:
        return self._exchanges.get(ticket, [])

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._serve, sock=self._socket)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- connections -----------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        self._writers.add(writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can take another."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await _body(reader, headers)
        path = target.partition("?")[0]
        given = _json_object(body) if method == "POST" else {}
        if method == "GET":
            models = [{"id": "conformance", "object": "model", "created": 0, "owned_by": "conformance"}]
            _answer(writer, 200, {"object": "list", "data": models})
        elif given is None:
            _answer(writer, 400, says_chat.error(400, "the conformance upstream got a body that is no JSON object"))
        elif path in PATHS:
            return await self._chat(PATHS[path], headers, given, writer)
        elif path == COUNT_PATH:
            _answer(writer, 200, {"input_tokens": TOKENS_COUNTED})
        elif path == EMBEDDINGS_PATH:
            _answer(writer, 200, _embeddings(given))
        else:
            _answer(writer, 404, says_chat.error(404, f"the conformance upstream has no {path}"))
        await writer.drain()
        return True

    async def _chat(
        self, dialect: str, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        said = says_messages if dialect == MESSAGES else says_chat
        found = marks(json.dumps(body.get("input") if dialect == RESPONSES else body.get("messages")))
        if not found or found[-1][0] not in SCRIPTS:
            _answer(writer, 400, said.error(400, "the conformance upstream finds no marker in the conversation"))
            return True
        name, ticket = found[-1]
        script, refused, read = SCRIPTS[name], "", Received()
        try:
            read = reads.READERS[dialect](body)
        except BrokenRule as problem:
            refused = str(problem)
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            refused = f"a field is missing or has the wrong shape: {problem!r}"
        self._exchanges.setdefault(ticket, []).append(Exchange(dialect, headers, body, read, refused))
        if refused:
            _answer(writer, 400, said.error(400, f"the upstream refuses what it got: {refused}"))
            return True
        if script.status != 200:
            limits = {"retry-after": str(RETRY_AFTER)} if script.status == 429 else {}
            _answer(writer, script.status, said.error(script.status, script.words), limits)
            return True
        if body.get("stream"):
            return await _stream(dialect, script, body, ticket, writer)
        return await _whole(dialect, script, body, ticket, writer)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length") or 0))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _answer(writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = json.dumps(body).encode()
    writer.write(
        _head(status, {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})})
    )
    writer.write(content)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Conformance", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("input")
    packed = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode("ascii")
    vector: Any = packed if body.get("encoding_format") == "base64" else list(VECTOR)
    rows = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index in range(len(given) if isinstance(given, list) else 1)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": rows, "model": body.get("model"), "usage": usage}


async def _whole(dialect: str, script: Script, body: dict[str, Any], ticket: int, writer: asyncio.StreamWriter) -> bool:
    said: Any = {CHAT: says_chat, MESSAGES: says_messages, RESPONSES: says_responses}[dialect]
    if script.dies in {"error", "at-once"}:
        _answer(
            writer, 500, said.error(500, "broken on demand") if dialect != RESPONSES else says_chat.error(500, "broken")
        )
        return True
    answer = said.whole(script, body, ticket)
    if script.dies == "cut":
        content = json.dumps(answer).encode()
        writer.write(_head(200, {"content-type": "application/json", "content-length": str(len(content))}))
        writer.write(content[: len(content) // 2])
        await writer.drain()
        return False
    _answer(writer, 200, answer)
    return True


async def _stream(
    dialect: str, script: Script, body: dict[str, Any], ticket: int, writer: asyncio.StreamWriter
) -> bool:
    events = list(_events(dialect, script, body, ticket))
    half = 0 if script.dies == "at-once" else len(events) // 2
    writer.write(_head(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}))
    if script.dies:
        for event in events[:half]:
            _chunk(writer, event)
        await writer.drain()
        if script.dies == "cut":
            return False
        _chunk(writer, _error_event(dialect, body, ticket, half))
    elif script.writes == "bytes":
        for event in events:
            for byte in event:
                _chunk(writer, bytes([byte]))
                await asyncio.sleep(0)  # each is a segment of its own
    elif script.writes == "windows":
        for number, event in enumerate(events):
            ended = event.replace(b"\n", b"\r\n")
            _chunk(writer, (b": comment %d\r\n\r\n" % number if number % 2 else b"retry: 3000\r\n") + ended)
    else:
        for number, event in enumerate(events):
            if script.writes == "pause" and number == half:
                await writer.drain()
                await asyncio.sleep(PAUSE_SECONDS)
            _chunk(writer, event)
    writer.write(_LAST_CHUNK)
    await writer.drain()
    return True


def _events(dialect: str, script: Script, body: dict[str, Any], ticket: int) -> Iterator[bytes]:
    said: Any = {CHAT: says_chat, MESSAGES: says_messages, RESPONSES: says_responses}[dialect]
    events: Iterator[bytes] = said.events(script, body, ticket)
    return events


def _error_event(dialect: str, body: dict[str, Any], ticket: int, number: int) -> bytes:
    match dialect:
        case "openai-responses":
            return says_responses.error_event(body, ticket, number)
        case "anthropic-messages":
            return says_messages.error_event()
    return says_chat.error_event()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
