"""The host's ring of events: one order for all processes, bounded, and whole whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from telemetry import event_ring
from telemetry.event_ring import FileRing


def everything(ring: FileRing) -> list[tuple[int, bytes]]:
    reader, found = ring.reader(), []
    while more := reader.read(7):
        found += more
    return found


def test_what_is_put_in_comes_out_in_order_and_numbered(tmp_path: Path) -> None:
    ring, other = FileRing(tmp_path), FileRing(tmp_path)
    ring.append([b"a", b"b"])
    other.append([b"c"])
    assert everything(ring) == everything(other) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert ring.epoch == other.epoch


def test_a_reader_gets_what_is_new_since_it_last_read(tmp_path: Path) -> None:
    ring = FileRing(tmp_path)
    reader = ring.reader()
    assert reader.read(10) == []
    ring.append([b"a"])
    assert reader.read(10) == [(1, b"a")]
    ring.append([b"b", b"c"])
    assert (reader.read(1), reader.read(1), reader.read(1)) == ([(2, b"b")], [(3, b"c")], [])


def test_it_outlives_its_processes_and_is_nobody_elses(tmp_path: Path) -> None:
    first = FileRing(tmp_path)
    first.append([b"a"])
    epoch = first.epoch
    first.close()
    second = FileRing(tmp_path)
    second.append([b"b"])
    assert second.epoch == epoch
    assert everything(second) == [(1, b"a"), (2, b"b")]
    assert stat.S_IMODE((tmp_path / event_ring.FILE_NAME).stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [event_ring.FILE_NAME]


def test_old_events_make_room_and_their_absence_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_ring, "DATA_BYTES", 1000)
    ring = FileRing(tmp_path)
    slow = ring.reader()
    ring.append([b"first"])
    assert slow.read(1) == [(1, b"first")]
    for number in range(2, 500):
        ring.append([b"%d" % number * (number % 7 + 1)])
    found = everything(ring)
    assert [number for number, _ in found] == list(range(found[0][0], 500))
    assert all(payload == b"%d" % number * (number % 7 + 1) for number, payload in found)
    assert 1000 * 0.9 < sum(len(payload) + 4 for _, payload in found) <= 1000
    assert slow.read(1000) == found
    assert (tmp_path / event_ring.FILE_NAME).stat().st_size == 4096 + 1000


def test_a_file_of_another_version_is_replaced(tmp_path: Path) -> None:
    (tmp_path / event_ring.FILE_NAME).write_bytes(b"THEVENT0 and so on")
    ring = FileRing(tmp_path)
    ring.append([b"a"])
    assert everything(ring) == [(1, b"a")]


def _append_many(folder: Path, who: int) -> None:
    ring = FileRing(folder)
    for number in range(300):
        ring.append([b"%d:%d" % (who, number)])


def test_many_processes_write_into_one_order(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_append_many, args=(tmp_path, who)) for who in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    found = everything(FileRing(tmp_path))
    assert [number for number, _ in found] == list(range(1, 1201))
    for who in range(4):
        own = [payload for _, payload in found if payload.startswith(b"%d:" % who)]
        assert own == [b"%d:%d" % (who, number) for number in range(300)]


def _append_until_killed(folder: Path) -> None:
    ring = FileRing(folder)
    while True:
        ring.append([b"x" * 5000] * 20)


def test_a_writer_may_be_killed_at_any_byte(tmp_path: Path) -> None:
    ring = FileRing(tmp_path)
    reader = ring.reader()
    for _ in range(4):
        writer = multiprocessing.get_context("fork").Process(target=_append_until_killed, args=(tmp_path,))
        writer.start()
        for _ in range(20):
            reader.read(1)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join(60)
        ring.append([b"y" * 5000])  # the lock is free again
        found = everything(ring)
        assert found[-1][1] == b"y" * 5000
        assert {len(payload) for _, payload in found} == {5000}
        assert [number for number, _ in found] == list(range(found[0][0], found[-1][0] + 1))


def test_somebody_listens_until_the_time_is_up(tmp_path: Path) -> None:
    ring, other = FileRing(tmp_path), FileRing(tmp_path)
    assert list(other.wanted) == [0]
    assert ring.listen(60) is True
    assert list(other.wanted) == [1]
    assert other.listen(60) is False
    other.refresh()
    assert list(ring.wanted) == [1]


def test_a_listener_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    ring, other = FileRing(tmp_path), FileRing(tmp_path)
    ring.listen(-1)
    assert list(other.wanted) == [1]
    other.refresh()
    assert list(ring.wanted) == [0]
