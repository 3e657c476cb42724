from __future__ import annotations

import fcntl
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import journal as journal_module
from telemetry.journal import MAX_UNWRITTEN, Attempt, Entry, Journal, Segment, decode_line, encode_line, segments

ROOT = Path(__file__).resolve().parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
COUNT = st.integers(0, 2**63 - 1)
ATTEMPTS = st.builds(Attempt, model=TEXT, provider=TEXT, error_class=TEXT, status=COUNT, latency_ms=COUNT, message=TEXT)
ENTRIES = st.builds(
    Entry,
    id=TEXT, at=COUNT, endpoint=TEXT, status=COUNT, client_id=TEXT, key_id=TEXT, key_name=TEXT, project=TEXT,
    dialect=TEXT, requested_model=TEXT, alias=TEXT, mode=TEXT, model=TEXT, provider=TEXT, reason=TEXT,
    error_class=TEXT, error_code=TEXT, stream=st.booleans(), input_tokens=COUNT, cached_input_tokens=COUNT,
    cache_write_tokens=COUNT, output_tokens=COUNT, reasoning_tokens=COUNT, usage_estimated=st.booleans(),
    estimated_cost_nano=st.none() | COUNT, cost_nano=st.none() | COUNT, latency_ms=COUNT,
    first_chunk_ms=st.none() | COUNT, disconnected=st.booleans(), tags=st.lists(TEXT, max_size=3),
    attempt_list=st.lists(ATTEMPTS, max_size=3),
)  # fmt: skip


def entry(number: int) -> Entry:
    return Entry(id=f"{number:032x}", at=number, endpoint="chat", status=200, requested_model="fake-model")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    writer = Journal(tmp_path)
    writer.open()
    yield writer
    writer.close()


def everything(folder: Path) -> tuple[list[Entry], int]:
    """All entries of the folder in order, and how many lines were unreadable."""
    found, unreadable = [], 0
    for segment in segments(folder):
        offset = 0
        while True:
            entries, bad, end = segment.read(offset, 4096)
            found += entries
            unreadable += bad
            if end == offset:
                break
            offset = end
    return found, unreadable


def troubles(journal: Journal) -> set[str]:
    return {name for name in ("is_failing", "is_full") if getattr(journal, name)}


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file of this process grows past `size` bytes: the kernel writes what fits, then refuses (Python ignores the
    signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- lines -------------------------------------------------------------------------------------------------------------


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was_written(written: Entry) -> None:
    line = encode_line(written)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_line(line[:-1]) == written


@given(ENTRIES, st.data())
def test_a_changed_byte_is_noticed(written: Entry, data: st.DataObject) -> None:
    line = bytearray(encode_line(written)[:-1])
    place = data.draw(st.integers(9, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    assert decode_line(bytes(line)) is None


@given(ENTRIES, st.data())
def test_a_torn_line_is_noticed(written: Entry, data: st.DataObject) -> None:
    line = encode_line(written)[:-1]
    assert decode_line(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_raise(line: bytes) -> None:
    decode_line(line)


def test_a_whole_line_that_is_no_entry_is_unreadable() -> None:
    payload = b'{"something":"else"}'
    assert decode_line(b"%08x %b" % (crc32(payload), payload)) is None


# -- segments ----------------------------------------------------------------------------------------------------------


@given(bad=st.binary(min_size=1, max_size=80).filter(lambda line: b"\n" not in line))
def test_an_unreadable_line_hides_neither_those_before_nor_those_after(
    tmp_path_factory: pytest.TempPathFactory, bad: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "host-1-1-aa.journal"
    path.write_bytes(encode_line(entry(1)) + bad + b"\n" + encode_line(entry(2)))
    assert everything(path.parent) == ([entry(1), entry(2)], 1)


def test_a_torn_last_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "host-1-1-aa.journal"
    first, second = encode_line(entry(1)), encode_line(entry(2))
    path.write_bytes(first + second[:-7])
    assert Segment(path).read(0, 4096) == ([entry(1)], 0, len(first))
    path.write_bytes(first + second)
    assert Segment(path).read(len(first), 4096) == ([entry(2)], 0, len(first + second))


def test_a_line_longer_than_the_limit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "host-1-1-aa.journal"
    long = Entry(id="a", at=1, endpoint="chat", status=200, tags=["x" * 5000])
    path.write_bytes(encode_line(long) + encode_line(entry(1)))
    assert Segment(path).read(0, 100) == ([long], 0, len(encode_line(long)))


def test_segments_come_oldest_first_whoever_wrote_them(tmp_path: Path) -> None:
    names = ["b-host-9-1000-aa.journal", "a-host-10-2000-bb.journal", "b-host-8-3000-00.journal"]
    for name in [*reversed(names), "ingest.lock", "b-host-9-999-aa.unreadable"]:
        (tmp_path / name).touch()
    assert [segment.name for segment in segments(tmp_path)] == names


def test_a_full_segment_is_followed_by_another(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    written = [entry(number) for number in range(50)]
    for one in written:
        journal.append(one)
    found = list(segments(tmp_path))
    assert len(found) > 3
    assert all(segment.path.stat().st_size < 1200 for segment in found)
    assert [segment.is_abandoned() for segment in found] == [True] * (len(found) - 1) + [False]
    assert everything(tmp_path) == (written, 0)


# -- writers that live and die -----------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from telemetry.journal import Entry, Journal
journal = Journal(Path(sys.argv[1]))
journal.open()
number = 0
while True:
    number += 1
    journal.append(Entry(id=f"{number:032x}", at=number, endpoint="chat", status=200, requested_model="fake-model"))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    if number == int(sys.argv[2]):
        sys.stdin.read()
"""


@contextmanager
def writer(folder: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that appends `count` entries, says so line by line and then waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(count)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("count", [1, 7, 400])
def test_a_process_killed_after_append_returned_has_left_its_lines(tmp_path: Path, count: int) -> None:
    with writer(tmp_path, 1_000_000) as process:
        assert process.stdout is not None
        said = 0
        while said < count:
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)  # in the middle of whatever it is writing by now
        said = max([said, *map(int, process.stdout.read().split("\n")[:-1])])
        assert process.wait(5) == -signal.SIGKILL
    entries, unreadable = everything(tmp_path)
    assert entries[:said] == [entry(number) for number in range(1, said + 1)]
    assert len(entries) - said <= 1
    assert unreadable == 0


def test_a_segment_is_abandoned_when_its_writer_died_and_not_before(tmp_path: Path) -> None:
    with writer(tmp_path, 1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (segment,) = segments(tmp_path)
        assert not segment.is_abandoned()
        assert not segment.is_abandoned()
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        assert segment.is_abandoned()


def test_a_segment_is_abandoned_when_its_writer_closed_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    (segment,) = segments(tmp_path)
    assert not segment.is_abandoned()
    journal.close()
    assert segment.is_abandoned()


def test_a_segment_gets_its_name_when_its_writer_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an ingester would take it for an abandoned one and delete it, and the lines to come with it."""
    flock, seen = fcntl.flock, list[str]()

    def look_and_lock(descriptor: int, operation: int) -> None:
        seen.extend(segment.name for segment in segments(tmp_path))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", look_and_lock)
    journal = Journal(tmp_path)
    journal.open()
    assert seen == []
    monkeypatch.undo()
    assert [segment.is_abandoned() for segment in segments(tmp_path)] == [False]
    assert len(list(tmp_path.iterdir())) == 1
    journal.close()


def test_only_the_owner_can_read_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "made" / "here")
    journal.open()
    (segment,) = segments(tmp_path / "made" / "here")
    assert segment.path.stat().st_mode & 0o777 == 0o600
    assert segment.path.parent.stat().st_mode & 0o777 == 0o700
    journal.close()


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Journal(tmp_path / "file" / "journal").open()


# -- a disk that takes no more -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 30, len(encode_line(entry(1))) - 1])
def test_a_full_disk_loses_nothing_and_tears_at_most_one_line(tmp_path: Path, journal: Journal, room: int) -> None:
    journal.append(entry(1))
    with disk_full_after(len(encode_line(entry(1))) + room):
        journal.append(entry(2))
        journal.append(entry(3))
        assert troubles(journal) == {"is_failing"}
        assert not journal.flush()
    journal.append(entry(4))
    assert troubles(journal) == set()
    entries, unreadable = everything(tmp_path)
    assert list({one.id: one for one in entries}.values()) == [entry(number) for number in (1, 2, 3, 4)]
    assert len(entries) <= 5  # a line of which but the line feed was written stands there twice
    assert unreadable <= 1


def test_a_disk_that_fills_up_again_and_again_loses_nothing(tmp_path: Path, journal: Journal) -> None:
    written = [entry(number) for number in range(200)]
    for number, one in enumerate(written):
        size = next(tmp_path.glob("*.journal")).stat().st_size
        with disk_full_after(size + number * 7 % 260):
            journal.append(one)
    assert journal.flush()
    entries, _ = everything(tmp_path)
    assert list({one.id: one for one in entries}.values()) == written


def test_too_many_waiting_lines_make_the_journal_full_until_they_are_written(
    tmp_path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    written = [entry(number) for number in range(MAX_UNWRITTEN)]
    with disk_full_after(0):
        for one in written[:-1]:
            journal.append(one)
        assert troubles(journal) == {"is_failing"}
        journal.append(written[-1])
        assert troubles(journal) == {"is_failing", "is_full"}
    assert journal.flush()
    assert troubles(journal) == set()
    assert everything(tmp_path) == (written, 0)


def test_closing_writes_what_was_waiting(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    with disk_full_after(0):
        journal.append(entry(1))
    journal.close()
    assert everything(tmp_path) == ([entry(1)], 0)


def test_a_segment_that_cannot_be_followed_is_written_on(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1)
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    journal.append(entry(1))
    journal.append(entry(2))
    moved.rename(tmp_path)
    journal.append(entry(3))
    journal.append(entry(4))
    assert troubles(journal) == set()
    assert everything(tmp_path) == ([entry(number) for number in (1, 2, 3, 4)], 0)
    assert len(list(segments(tmp_path))) == 3


def test_lines_reach_the_disk_within_a_moment(journal: Journal) -> None:
    journal.append(entry(1))
    deadline = monotonic() + 5
    while journal._dirty:
        assert monotonic() < deadline
        sleep(0.005)


def test_a_program_started_meanwhile_does_not_keep_the_segment_alive(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as child:
        (segment,) = segments(tmp_path)
        journal.close()
        assert segment.is_abandoned()
        child.communicate("\n", timeout=5)


def test_an_entry_that_cannot_be_written_keeps_no_other_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    bad = entry(1)
    bad.refusal = {"amount": object()}
    journal.hold(bad)
    journal.hold(entry(2))
    assert journal.flush()
    journal.hold(entry(3))
    journal.close()
    (segment,) = segments(tmp_path)
    assert [one.at for one in segment.read(0, 1 << 20)[0]] == [entry(2).at, entry(3).at]
