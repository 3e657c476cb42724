"""Prompts and answers of client keys that want them captured, and answers of shadows and judges: redacted, compressed
and sealed before the journal gets them, so that they touch no disk in plain text. While the vault is locked nothing is
kept. Sealing takes milliseconds: a request does it in a thread before it is accounted for, if it can wait at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from providers.formats.base import Dialect
from providers.formats.canonical import RefusalDelta, TextDelta, ThinkingDelta, ToolDelta, ToolStarted
from providers.formats.errors import UnreadableAnswer
from telemetry.capture_text import MAX_READ, Redaction, Unredactable
from telemetry.captures import Captured, pack
from telemetry.logs import EventLogger
from vault import capture_key
from vault.errors import Damaged, VaultLocked
from vault.keyring import KEYRING

if TYPE_CHECKING:
    from routing.snapshot import Snapshot

log = EventLogger(__name__)
WARN_SECONDS: Final = 60.0


class Captures:
    """One per process. `lost`: is told of each that could not be sealed."""

    def __init__(self, redaction: Redaction, *, most: int, lost: Callable[[], None]) -> None:
        self._redaction = redaction
        self._most = most
        self._lost = lost
        self._warn_at = 0.0

    def sealed(
        self, snapshot: Snapshot, request_id: str, *, prompt: bytes = b"", answer: bytes = b"", stream: bool = False,
        dialect: Dialect,
    ) -> bytes:  # fmt: skip
        """Empty where it cannot be. `stream`: the answer is one, in the client's dialect. From any thread."""
        key, reason = snapshot.capture_key, "the vault is locked"
        if key is not None and KEYRING.is_open:
            try:
                told = said(dialect, answer) if stream else answer
                kept = Captured(self._told(prompt), self._told(told))
                return capture_key.seal(key, pack(kept), request_id=request_id)
            except VaultLocked:
                pass
            except Damaged:
                reason = "their key does not open"
            except Unredactable:
                reason = "a pattern of TOKENHUB_CAPTURE_REDACT took too long"
        self._lost()
        if monotonic() >= self._warn_at:
            self._warn_at = monotonic() + WARN_SECONDS
            log.warning("capture_not_stored", request=request_id, reason=reason)
        return b""

    def _told(self, body: bytes) -> str:
        return self._redaction.body(body, self._most) if body else ""


class Capture:
    """Of one request, while it is under way."""

    __slots__ = ("_captures", "_dialect", "_is_stream", "_parts", "_prompt", "_sealed", "_size", "_snapshot")

    def __init__(self, captures: Captures, snapshot: Snapshot, dialect: Dialect, prompt: bytes) -> None:
        self._captures = captures
        self._snapshot = snapshot
        self._dialect = dialect
        self._prompt = prompt
        self._parts: list[bytes] = []
        self._size = 0
        self._is_stream = False
        self._sealed: bytes | None = None

    def answered(self, body: bytes) -> None:
        self._parts = [body]

    def streamed(self, data: bytes) -> None:
        """What goes to the client next."""
        self._is_stream = True
        if data and self._size <= MAX_READ:
            self._parts.append(data)
            self._size += len(data)

    async def prepare(self, request_id: str) -> None:
        """Everything is known. Is not cancelled: what follows is the account of an answer that is there."""
        try:
            self._sealed = await asyncio.to_thread(self._seal, request_id)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()

    def take(self, request_id: str) -> bytes:
        """For the journal."""
        return self._sealed if self._sealed is not None else self._seal(request_id)

    def _seal(self, request_id: str) -> bytes:
        return self._captures.sealed(
            self._snapshot,
            request_id,
            prompt=self._prompt,
            answer=b"".join(self._parts),
            stream=self._is_stream,
            dialect=self._dialect,
        )


def said(dialect: Dialect, stream: bytes) -> bytes:
    """The texts and calls in a stream, whole or cut off, as JSON: a redaction must not see them in pieces."""
    texts: dict[str, list[str]] = {}
    calls: dict[int, tuple[str, list[str]]] = {}
    parser = dialect.stream_parser()
    try:
        for event in parser.feed(stream):
            match event:
                case TextDelta():
                    texts.setdefault("text", []).append(event.text)
                case RefusalDelta():
                    texts.setdefault("refusal", []).append(event.text)
                case ThinkingDelta() if event.text:
                    texts.setdefault("thinking", []).append(event.text)
                case ToolStarted():
                    calls[event.index] = (event.name, [])
                case ToolDelta() if event.index in calls:
                    calls[event.index][1].append(event.arguments)
    except (UnreadableAnswer, msgspec.DecodeError, RecursionError):
        texts["problem"] = ["the rest cannot be read"]
    told: dict[str, object] = {name: "".join(parts) for name, parts in texts.items()}
    if calls:
        told["calls"] = [{"name": name, "arguments": "".join(parts)} for name, parts in calls.values()]
    return msgspec.json.encode(told)
