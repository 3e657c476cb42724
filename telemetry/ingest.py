"""Moves journal lines into the request log and the time series, in batches, exactly once: rows, charges, sums and the
segment's new offset are one transaction, and only what was no row before counts. One ingester per journal folder at a
time, elected by a file lock that dies with its holder."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import close_old_connections, connection, transaction
from django.db.utils import DataError, Error, IntegrityError

from telemetry import captures, spending
from telemetry.journal import Entry, Segment, segments
from telemetry.logs import EventLogger
from telemetry.models import JournalSegment, RequestLog
from telemetry.tsdb.store import fold

log = EventLogger(__name__)
BATCH_BYTES = 524_288
POLL_SECONDS = 0.5
MOST_PAUSE_SECONDS = 30.0
NANO = 1_000_000_000
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

COLUMNS = (
    "request_id", "client_request_id", "created_at", "api_key_id", "api_key_name", "project", "endpoint", "dialect",
    "requested_model", "alias", "mode", "model_id", "provider_id", "routing_reason", "status", "error_class",
    "error_code", "stream", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "total_tokens", "usage_estimated", "estimated_cost_usd", "cost_usd", "latency_ms",
    "time_to_first_chunk_ms", "attempts", "client_disconnected", "tags", "detail",
)  # fmt: skip


def _dollars(nano: int | None, as_text: bool) -> Decimal | str | None:
    if nano is None:
        return None
    return f"{nano // NANO}.{nano % NANO:09d}" if as_text else Decimal(nano).scaleb(-9)


def row_of(entry: Entry, *, is_sqlite: bool) -> tuple[Any, ...]:
    """The entry as a row of COLUMNS, in the types of the database at hand."""
    at = _EPOCH + timedelta(microseconds=entry.at)
    detail = '{"attempts":' + _encode(entry.attempt_list).decode() + "}" if entry.attempt_list else "{}"
    if entry.candidates:
        told: dict[str, Any] = {"attempts": entry.attempt_list, "candidates": entry.candidates}
        if entry.context:
            told |= {"context": entry.context, "reward": entry.reward, "reward_parts": entry.reward_parts}
            if entry.pressure:
                told["pressure"] = entry.pressure
        detail = _encode(told).decode()
    if entry.shadow_of or entry.judge_of:
        aside: dict[str, Any] = {"attempts": entry.attempt_list}
        aside |= {"shadow_of": entry.shadow_of} if entry.shadow_of else {"judge_of": entry.judge_of}
        detail = _encode(aside).decode()
    if entry.plan:
        detail = _encode({**_decode(detail), "plan": entry.plan, "leg": entry.leg}).decode()
    if entry.refusal or entry.retry_after or entry.warning or entry.hour_cache_write_tokens:
        more = {
            "refusal": entry.refusal, "retry_after": entry.retry_after, "warning": entry.warning,
            "hour_cache_write_tokens": entry.hour_cache_write_tokens,
        }  # fmt: skip
        detail = _encode(_decode(detail) | {name: value for name, value in more.items() if value}).decode()
    return (
        entry.id.replace("-", "") if is_sqlite else UUID(entry.id),
        entry.client_id,
        at.isoformat(" ", "microseconds")[:26] if is_sqlite else at,
        entry.key_id, entry.key_name, entry.project, entry.endpoint, entry.dialect, entry.requested_model[:200],
        entry.alias, entry.mode, entry.model, entry.provider, entry.reason, entry.status, entry.error_class,
        entry.error_code, entry.stream, entry.input_tokens, entry.cached_input_tokens, entry.cache_write_tokens,
        entry.output_tokens, entry.reasoning_tokens, entry.input_tokens + entry.output_tokens, entry.usage_estimated,
        _dollars(entry.estimated_cost_nano, is_sqlite), _dollars(entry.cost_nano, is_sqlite), entry.latency_ms,
        entry.first_chunk_ms, len(entry.attempt_list), entry.disconnected, _encode(entry.tags).decode(), detail,
    )  # fmt: skip


def insert(entries: Sequence[Entry]) -> int:
    """One statement for all; a request id that is there already is left as it is. How many were not."""
    is_sqlite = connection.vendor == "sqlite"
    rows = [row_of(entry, is_sqlite=is_sqlite) for entry in entries]
    into = f"INSERT INTO {RequestLog._meta.db_table} ({', '.join(COLUMNS)})"  # noqa: SLF001  Django's documented interface
    with connection.cursor() as cursor:
        if is_sqlite:
            values = ", ".join(["%s"] * len(COLUMNS))
            cursor.executemany(f"{into} VALUES ({values}) ON CONFLICT DO NOTHING", rows)
        else:  # as one value: PostgreSQL plans and answers once for the batch, and psycopg escapes once
            sql = f"{into} SELECT {', '.join(COLUMNS)} FROM json_to_recordset(%s::json) AS batch ({_columns()})"  # noqa: S608
            cursor.execute(f"{sql} ON CONFLICT DO NOTHING", [_json_of(rows)])
        return int(cursor.rowcount)


@cache
def _columns() -> str:
    """With their types; a cast to varchar(n) would cut."""
    kinds = {name: str(RequestLog._meta.get_field(name).db_type(connection)) for name in COLUMNS}  # noqa: SLF001
    return ", ".join(f"{name} {'text' if kind.startswith('varchar') else kind}" for name, kind in kinds.items())


def _json_of(rows: Sequence[Sequence[Any]]) -> str:
    """A list of objects. The last two columns are JSON already."""
    told = [(*row[:-2], msgspec.Raw(row[-2].encode()), msgspec.Raw(row[-1].encode())) for row in rows]
    return _encode([dict(zip(COLUMNS, row, strict=True)) for row in told]).decode()


class _SeenBefore(Exception):
    pass


class Taken(NamedTuple):
    """`fresh`: rows by now, and not before; `refused`: what the database cannot hold."""

    fresh: list[Entry]
    refused: list[Entry]


def take(entries: Sequence[Entry]) -> Taken:
    """Inserts them, each once, and counts them: what the disk cut short was written again, with what came before the
    cut. What the database cannot hold (a number out of range, say) is left out and does not hold up the rest. Raises
    DatabaseError when the trouble is the database's."""
    if not entries:
        return Taken([], [])
    try:
        with transaction.atomic():
            if insert(entries) != len(entries):
                raise _SeenBefore
            fold(entries)
            captures.store(entries)
            spending.count(entries)
    except _SeenBefore:
        return take(_unseen(entries))
    except Exception as problem:
        if _is_not_theirs(problem):
            raise
        if len(entries) > 1:
            first, second = map(take, _halves(entries))
            return Taken(first.fresh + second.fresh, first.refused + second.refused)
        log.error("journal_entry_refused", request=entries[0].id, reason=str(problem)[:200])
        return Taken([], list(entries))
    return Taken(list(entries), [])


def _hand_on(charged: Sequence[Entry]) -> int:
    """Their charges, to whom it concerns. How many could not be booked, which hold up no others. Raises DatabaseError
    when the trouble is the database's."""
    if not charged:
        return 0
    try:
        with transaction.atomic():
            for sink in SINKS:
                sink(charged)
    except Exception as problem:
        if _is_not_theirs(problem):
            raise
        if len(charged) > 1:
            return sum(map(_hand_on, _halves(charged)))
        log.error("journal_charges_refused", request=charged[0].id, reason=str(problem)[:200])
        return 1
    return 0


def _halves(entries: Sequence[Entry]) -> tuple[Sequence[Entry], Sequence[Entry]]:
    middle = len(entries) // 2
    return entries[:middle], entries[middle:]


def _is_not_theirs(problem: Exception) -> bool:
    """Whether the next pass may fare better with the same entries. Anything else, a defect of ours included, sets aside
    the entry that it comes with."""
    return isinstance(problem, (Error, OSError, MemoryError)) and not isinstance(problem, (DataError, IntegrityError))


def _unseen(entries: Sequence[Entry]) -> list[Entry]:
    """The first of each that is no row yet."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.id, entry)
    seen = RequestLog.objects.filter(request_id__in=list(first)).values_list("request_id", flat=True)
    for known in seen:
        first.pop(str(known), None)
    return list(first.values())


SINKS: list[Callable[[Sequence[Entry]], None]] = []
"""Who else wants requests with charges, each once, in the transaction that takes them out of the journal."""
WATCHERS: list[Callable[[Sequence[Entry]], None]] = []
"""Who wants to see all requests, after they are committed: whoever waits for a row here holds none of ours. Some are
perhaps shown twice; those of the last batch never, if the process is killed in between, or its connection breaks."""
SWEEPS: list[Callable[[Path], object]] = []
"""What is to be done after each pass over a folder, a little at a time."""


def _show(entries: Sequence[Entry]) -> None:
    for watch in WATCHERS:
        try:
            watch(entries)
        except Exception:  # what it wanted to note is lost, and nothing else
            log.exception("ingest_watcher_failed")


def ingest_segment(segment: Segment) -> int:
    """Everything in it so far; the file too, when nobody writes it any more. The number of rows. What is written
    meanwhile waits for the next pass: to follow a writer line by line would take a transaction for every few rows."""
    abandoned = segment.is_abandoned()  # asked before the read: what was written before is seen
    total, offset, size = 0, 0, segment.path.stat().st_size
    while abandoned or offset < size:
        with transaction.atomic():
            state, _ = JournalSegment.objects.select_for_update().get_or_create(name=segment.name)
            entries, unreadable, offset = segment.read(state.offset, BATCH_BYTES, to_end=abandoned)
            if offset == state.offset:
                break
            fresh, refused = take(entries)
            unbooked = _hand_on([entry for entry in (*fresh, *refused) if entry.charges])
            if unreadable:
                log.error("journal_lines_unreadable", segment=segment.name, lines=unreadable)
            state.offset = offset
            state.unreadable += unreadable + len(refused) + unbooked
            state.save()
            total += len(entries) - len(refused)
        _show(entries)
    if abandoned:
        if state.unreadable:  # kept for a person to look at, out of the ingester's way
            segment.path.rename(segment.path.with_suffix(".unreadable"))
        else:
            segment.path.unlink(missing_ok=True)
        JournalSegment.objects.filter(name=segment.name).delete()
    return total


def ingest_all(folder: Path) -> int:
    """One pass over every segment. Raises DatabaseError; what was committed stays."""
    total = 0
    for segment in segments(folder):
        try:
            total += ingest_segment(segment)
        except FileNotFoundError:  # another ingester finished it
            continue
    return total


class Lease:
    """Being the folder's only ingester (or what else the lock's name says), for as long as this object is held."""

    def __init__(self, folder: Path, name: str = "ingest.lock") -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (folder / name).open("wb")

    def take(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        self._file.close()


class Ingester:
    """A thread that ingests while this process holds the lease. Every worker has one; one of them works."""

    def __init__(self, folder: Path, *, wait: Callable[[float], bool] | None = None) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self._run, name="ingester", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        lease, pause = Lease(self._folder), POLL_SECONDS
        while not self._wait(pause):
            try:
                if lease.take():
                    self._pass()
                pause = POLL_SECONDS
            except (Error, OSError) as problem:
                log.warning("ingest_failed", error=type(problem).__name__, reason=str(problem)[:200])
                pause = POLL_SECONDS
            except Exception:  # the thread must outlive a defect, which will not be gone in a moment
                log.exception("ingest_failed")
                pause = min(2 * pause, MOST_PAUSE_SECONDS)
        lease.release()

    def _pass(self) -> None:
        try:
            ingest_all(self._folder)
            for sweep in SWEEPS:
                sweep(self._folder)
        finally:
            close_old_connections()
