"""Events in Redis, against a real one: the promises of the host's ring, and what happens when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry import event_redis
from telemetry.event_redis import RedisStream
from telemetry.events import Bus
from tests.support.gateway import free_port
from tests.support.redis import Redis, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Redis() as redis:
        yield f"{redis.url}?socket_timeout=0.1"


@pytest.fixture
def stream(url: str) -> Iterator[RedisStream]:
    stream = RedisStream(url)
    stream._redis.flushall()
    yield stream
    stream.close()


def test_events_of_all_hosts_are_in_one_order(stream: RedisStream, url: str) -> None:
    other, reader = RedisStream(url), stream.reader()
    stream.append([b"a", b"b"])
    other.append([b"c"])
    assert reader.read(2) == [(1, b"a"), (2, b"b")]
    assert reader.read(2) == [(3, b"c")]
    assert reader.read(2) == []  # it waits longer than the address lets limits wait
    assert other.reader().epoch == reader.epoch != ""
    other.close()


def test_it_is_bounded(stream: RedisStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_redis, "KEEP", 10)
    for number in range(40):
        stream.append([b"%d" % number])
    assert [number for number, _ in stream.reader().read(100)] == list(range(31, 41))


def test_a_redis_that_was_emptied_begins_anew(stream: RedisStream) -> None:
    stream.append([b"a", b"b"])
    reader = stream.reader()
    epoch = reader.epoch
    assert len(reader.read(10)) == 2
    stream._redis.flushall()
    stream.append([b"c"])
    assert reader.read(10) == []
    assert reader.epoch != epoch
    assert reader.read(10) == [(1, b"c")]


def test_all_hosts_know_whether_somebody_listens(stream: RedisStream, url: str) -> None:
    other = RedisStream(url)
    other.refresh()
    assert list(other.wanted) == [0]
    assert stream.listen(60) is True
    other._refresh_at = 0.0
    other.refresh()
    assert list(other.wanted) == [1]
    assert other.listen(60) is False
    stream._redis.delete(event_redis._LISTENING)
    other._refresh_at = 0.0
    other.refresh()
    assert list(other.wanted) == [0]
    other.close()


def test_without_redis_nothing_fails_but_the_events(tmp_path: Path) -> None:
    bus = Bus(lambda: RedisStream(f"redis://127.0.0.1:{free_port()}/0"))
    bus._run_thread = lambda: None  # type: ignore[method-assign]
    bus.publish("vault_change", {"action": "lock"})
    bus.turn(0.0)
    assert bus._is_failing
    assert [event for event, _ in bus._unsent] == ["vault_change"]  # for when it is back
