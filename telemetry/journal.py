"""The journal: one line per finished request, appended with one write() before the answer's last byte leaves. It
survives a kill of the process at any moment; an fdatasync every 20 ms bounds what a power cut can take. Pure of Django.

A line is `<crc32 of the JSON, 8 hex> <JSON>\\n`. Each process writes segments of its own and holds a lock on the one
it writes; a segment whose lock is free belongs to nobody any more, and is deleted once it was ingested."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import time_ns
from typing import Any, Final, Protocol
from zlib import crc32

import msgspec

from telemetry.logs import EventLogger

log = EventLogger(__name__)
SEGMENT_BYTES = 67_108_864
SYNC_SECONDS = 0.02
MAX_UNWRITTEN = 10_000
SUFFIX = ".journal"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
"""An endpoint that asks how long a request is: nothing is answered."""

OUTRUN: Final = "outrun"
"""In place of an attempt's error class: it was stopped because the one beside it spoke first."""


class Attempt(msgspec.Struct, omit_defaults=True):
    """One call of one target."""

    model: str
    provider: str
    error_class: str = ""
    status: int = 0
    latency_ms: int = 0
    message: str = ""


class Charge(msgspec.Struct, array_like=True):
    """What a request takes from a budget, in nano-dollars: out of a lease of one of its periods. `overrun`: what it
    cost beyond what was reserved for it, which its budget does not bear."""

    lease: str
    period: int
    nano: int
    overrun: int = 0


class Candidate(msgspec.Struct, omit_defaults=True):
    """A target that the router looked at: its score and what that is made of, or why it was left out."""

    model: str
    provider: str
    score: float = 0.0
    cost: float = 0.0
    latency: float = 0.0
    failure: float = 0.0
    capability: float = 0.0
    probability: float = 0.0
    excluded: str = ""


class Entry(msgspec.Struct, omit_defaults=True):
    """One finished request. Short of `attempt_list`, the fields of the request log; costs in nano-dollars, `at` in
    microseconds since 1970. `context` and `reward`: the bandit's, where it decided; `reward_parts`: what that is made
    of, each with its value and weight; `pressure`: of budgets that are spent too fast, in points of reward per dollar.
    `shadow_of`: the request that this one is a copy of; `judge_of`: the one whose
    answer is judged by this one. `capture`: what was asked and answered, sealed. `charges`: on budgets, each to be
    booked once. `at_home`: answered by the model that the conversation was at.
    `plan`: the orchestrated request that this one is a `leg` of, or is itself. `refusal`: the budget that could not pay
    it, as the client was told, or the rate limit that was reached. `warning`,
    `retry_after`: headers of the answer."""

    id: str
    at: int
    endpoint: str
    status: int
    client_id: str = ""
    key_id: str = ""
    key_name: str = ""
    project: str = ""
    dialect: str = ""
    requested_model: str = ""
    alias: str = ""
    mode: str = ""
    model: str = ""
    provider: str = ""
    reason: str = ""
    error_class: str = ""
    error_code: str = ""
    stream: bool = False
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    estimated_cost_nano: int | None = None
    cost_nano: int | None = None
    latency_ms: int = 0
    first_chunk_ms: int | None = None
    disconnected: bool = False
    tags: list[str] = []
    attempt_list: list[Attempt] = []
    candidates: list[Candidate] = []
    context: str = ""
    reward: float | None = None
    reward_parts: dict[str, dict[str, float]] = {}
    pressure: float = 0.0
    shadow_of: str = ""
    judge_of: str = ""
    charges: list[Charge] = []
    capture: bytes = b""
    at_home: bool = False
    plan: str = ""
    leg: str = ""
    refusal: Mapping[str, Any] | None = None
    retry_after: int = 0
    warning: str = ""
    hour_cache_write_tokens: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


_NUL: Final = rb"\u0000"  # as JSON has it, unless the backslash is itself one of a pair
_NULS: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_HALVES: Final = re.compile("[\ud800-\udfff]")


def encode_line(entry: Entry) -> bytes:
    """Half of a surrogate pair, which no encoding has, becomes U+FFFD."""
    try:
        payload = _encode(entry)
    except UnicodeEncodeError:
        payload = _encode(_whole(msgspec.to_builtins(entry)))
    return b"%08x %b\n" % (crc32(payload), payload)


def decode_line(line: bytes) -> Entry | None:
    """The entry of one line without its line feed; None if the line is torn or was changed. A NUL character, which no
    text in PostgreSQL may hold, becomes U+FFFD wherever it stands."""
    try:
        if line[8:9] != b" " or int(line[:8], 16) != crc32(payload := line[9:]):
            return None
        if _NUL in payload:
            payload = _NULS.sub(rb"\1\\ufffd", payload)
        return _decode(payload)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _whole(value: Any) -> Any:
    match value:
        case str():
            return _HALVES.sub("\ufffd", value)
        case dict():
            return {_whole(key): _whole(one) for key, one in value.items()}
        case list():
            return [_whole(one) for one in value]
    return value


class Owner(Protocol):
    """Of an entry that lacks something."""

    def complete(self, entry: Entry) -> None: ...


class Journal:
    """The writer of one process. `append` is called on the event loop's thread only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holder = ""
        """Names this process's segments, and whatever else it holds; from `open` on."""
        self._descriptor = -1
        self._size = 0
        self._dirty = False
        self._torn = False
        self._unwritten: deque[bytes] = deque()
        self._held: list[tuple[Entry, Owner | None]] = []
        self._stop = threading.Event()
        self._syncer: threading.Thread | None = None
        self.lines = 0

    def open(self) -> None:
        """Must be called after the process forked. Raises OSError when the folder cannot be written."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.holder = secrets.token_hex(6)
        self._open_segment()
        self._syncer = threading.Thread(target=self._sync_until_stopped, name="journal-sync", daemon=True)
        self._syncer.start()

    @property
    def is_failing(self) -> bool:
        """Lines are waiting in memory because the disk takes none."""
        return bool(self._unwritten)

    @property
    def is_full(self) -> bool:
        """No further request may be answered: its record could be lost."""
        return len(self._unwritten) >= MAX_UNWRITTEN

    def append(self, entry: Entry) -> None:
        """Writes the line, or keeps it for the next call when the disk takes none."""
        self.lines += 1
        line = encode_line(entry)
        if not self._unwritten and not self._torn and self._write(line):
            return
        self._unwritten.append(line)
        self.flush()

    def hold(self, entry: Entry, owner: Owner | None = None) -> None:
        """For the next `flush`, which must come before the answer's last byte leaves: many lines, one write. The owner
        completes it ahead of that; what is done for many requests in a row costs each of them a fraction."""
        self.lines += 1
        self._held.append((entry, owner))

    def flush(self) -> bool:
        """Writes what is held, and tries again what could not be written. True when nothing is left over. Lines of a
        write that was cut short are written again; their reader takes each request once."""
        if self._held:
            held = self._taken()
            if self._unwritten or self._torn or not self._write(b"".join(held)):
                self._unwritten.extend(held)
        while self._unwritten:
            line = self._unwritten[0]
            if not self._write(b"\n" + line if self._torn else line):
                return False
            self._unwritten.popleft()
        return True

    def _taken(self) -> list[bytes]:
        """What is held, as lines. One that cannot be written must not keep the others."""
        held, self._held = self._held, []
        lines = []
        for entry, owner in held:
            try:
                if owner is not None:
                    owner.complete(entry)
                lines.append(encode_line(entry))
            except Exception:
                log.exception("journal_entry_lost", request=entry.id, key=entry.key_id, cost_nano=entry.cost_nano)
        return lines

    def _write(self, line: bytes) -> bool:
        try:
            written = os.write(self._descriptor, line)
        except OSError as problem:
            log.error("journal_write_failed", error=str(problem), waiting=len(self._unwritten) + 1)
            return False
        self._dirty = True
        self._size += written
        self._torn = written != len(line)  # the disk filled up in mid-line; the reader drops the torn one
        if self._torn:
            return False
        if self._size >= SEGMENT_BYTES:
            self._rotate()
        return True

    def _rotate(self) -> None:
        old = self._descriptor
        try:
            self._open_segment()
        except OSError as problem:
            log.error("journal_rotate_failed", error=str(problem))
            self._size = 0  # go on with the old segment for another while
            return
        os.fdatasync(old)
        os.close(old)

    def _open_segment(self) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{time_ns()}-{self.holder}{SUFFIX}"
        unnamed = self.folder / f"{name}.new"  # a segment without a lock would be taken for an abandoned one
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unnamed.rename(self.folder / name)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._size, self._torn = descriptor, 0, False

    def _sync_until_stopped(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            if self._dirty:
                self._dirty = False
                try:
                    os.fdatasync(self._descriptor)
                except OSError as problem:
                    log.error("journal_sync_failed", error=str(problem))

    def close(self) -> None:
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
        if self._descriptor >= 0:
            self.flush()
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Segment:
    """A journal file as its reader sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def read(self, offset: int, limit: int, *, to_end: bool = False) -> tuple[list[Entry], int, int]:
        """Whole lines from `offset`, about `limit` bytes of them: (entries, unreadable lines, offset after them). With
        `to_end`, a last line without a line feed is as whole as it will ever be."""
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
            if data and b"\n" not in data:
                data += file.readline()
        end = data.rfind(b"\n") + 1 or (len(data) if to_end else 0)
        entries, unreadable = [], 0
        for line in data[:end].split(b"\n"):
            if entry := decode_line(line):
                entries.append(entry)
            elif line:
                unreadable += 1
        return entries, unreadable, offset + end

    def is_abandoned(self) -> bool:
        """Whether its writer is gone or has moved on."""
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


def living_holders(folder: Path) -> set[str]:
    """Of processes that live, or whose segments were not read to the end yet."""
    return {path.stem.rpartition("-")[2] for path in folder.glob(f"*{SUFFIX}")}


def segments(folder: Path) -> Iterator[Segment]:
    """Every segment of the folder, oldest first."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda one: one.name.rsplit("-", 2)[-2:]):
        yield Segment(path)
