"""The bus of one process, and the window that its listeners look through."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from telemetry import events
from telemetry.event_feed import Feed, Filter, Window
from telemetry.event_ring import FileRing
from telemetry.events import BURST, MAX_WAITING, Bus, encoded, gap
from telemetry.journal import Attempt, Entry
from tests.support.gateway import ROOT


def told(ring: FileRing) -> list[dict[str, Any]]:
    return [json.loads(payload) for _, payload in ring.reader().read(100_000)]


def bus_on(folder: Path) -> tuple[Bus, FileRing]:
    """A bus whose turns the test makes, and another view of its ring."""
    bus = Bus(lambda: FileRing(folder))
    bus.open()
    bus._run_thread = lambda: None  # type: ignore[method-assign]
    return bus, FileRing(folder)


def entry(number: int = 1, *, status: int = 200, **fields: Any) -> Entry:
    return Entry(id=f"r{number}", at=1_700_000_000_000_000, endpoint="/v1/messages", status=status, **fields)


# -- the bus -------------------------------------------------------------------------------------------------------
def test_an_event_goes_out_by_the_thread_of_its_process(tmp_path: Path) -> None:
    bus = Bus(lambda: FileRing(tmp_path))
    bus.publish("vault_change", {"action": "lock"})
    bus.stop()
    (event,) = told(FileRing(tmp_path))
    assert (event["type"], event["data"]) == ("vault_change", {"action": "lock"})
    assert event["timestamp"].endswith("Z")


def test_an_event_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vault_changed"):
        bus_on(tmp_path)[0].publish("vault_changed", {})


def test_a_request_is_told_without_what_was_said(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    bus.finished(
        entry(
            model="m", provider="p", project="shop", key_name="web", requested_model="fast", alias="fast", mode="",
            reason="alias-variant", cost_nano=1_500_000, input_tokens=3, output_tokens=4, latency_ms=80,
            attempt_list=[Attempt("m", "p", message="what the provider said")],
        )
    )  # fmt: skip
    bus.finished(entry(2, status=502, error_class="transient", error_code="upstream_error"))
    bus.turn(0.0)
    good, bad = told(ring)
    assert (good["type"], bad["type"]) == ("route_success", "route_error")
    assert good["timestamp"] == "2023-11-14T22:13:20Z"
    data = good["data"]
    assert (data["request_id"], data["model_id"], data["provider_id"], data["project"]) == ("r1", "m", "p", "shop")
    assert (data["cost_usd"], data["input_tokens"], data["attempts"]) == (0.0015, 3, 1)
    assert (bad["data"]["status"], bad["data"]["error_code"], bad["data"]["cost_usd"]) == (502, "upstream_error", None)
    assert "what" not in json.dumps(good)


def test_an_escalation_that_failed_is_told_with_its_request(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    attempts = [Attempt("small", "p", error_class="context_overflow"), Attempt("large", "p", error_class="transient")]
    bus.finished(entry(status=502, model="large", attempt_list=attempts))
    bus.finished(entry(2, status=400, attempt_list=attempts[:1]))  # nobody is larger
    bus.turn(0.0)
    assert [one["type"] for one in told(ring)] == ["escalation", "route_error", "route_error"]
    assert told(ring)[0]["data"]["too_small"] == ["small"]


def test_what_routes_nothing_is_no_event(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    for endpoint in ("/v1/models", "/v1/feedback", "/v1/messages/count_tokens"):
        bus.finished(Entry(id="r", at=0, endpoint=endpoint, status=401))
    bus.turn(0.0)
    assert told(ring) == []


def test_a_flood_is_thinned_by_type_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    for number in range(BURST + 200):
        bus.finished(entry(number))
    bus.finished(entry(status=500))
    bus.turn(100.0)
    found = told(ring)
    kinds = [one["type"] for one in found]
    assert (kinds.count("route_success"), kinds.count("route_error")) == (BURST, 1)
    assert found[0]["data"] == {"reason": "thinned", "missed": 200, "types": {"route_success": 200}}
    bus.finished(entry())
    bus.turn(101.0)
    assert told(ring)[-1]["type"] == "route_success"


def test_the_queue_is_bounded_while_nothing_can_be_handed_on(tmp_path: Path) -> None:
    class Broken:
        wanted = bytearray(1)
        is_broken = True
        got: list[bytes] = []

        def refresh(self) -> None:
            if self.is_broken:
                raise OSError("no space")

        def append(self, payloads: Sequence[bytes]) -> None:
            self.got += payloads

    store = Broken()
    bus = Bus(lambda: store)  # type: ignore[arg-type, return-value]
    bus._run_thread = lambda: None  # type: ignore[method-assign]
    for turn in range(30):
        for number in range(MAX_WAITING + 100):
            bus.publish("workflow_started", {"number": number})
            bus.finished(entry(number))
        bus.turn(turn * 100.0)
        assert len(bus._waiting) == len(bus._requests) == 0
        assert len(bus._unsent) <= MAX_WAITING
    store.is_broken = False
    bus.turn(10_000.0)
    missed = json.loads(store.got[0])["data"]
    assert missed["missed"] + len(store.got) - 1 == 30 * 2 * (MAX_WAITING + 100)


def test_an_event_that_is_too_large_is_counted_and_not_kept(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    bus.publish("vault_change", {"secret": "x" * 9000})
    bus.turn(0.0)
    bus.turn(10.0)
    assert [one["data"]["reason"] for one in told(ring)] == ["thinned"]


def test_a_fork_begins_with_an_empty_queue(tmp_path: Path) -> None:
    bus, ring = bus_on(tmp_path)
    bus.publish("vault_change", {"action": "lock"})
    bus.reset()  # as in the child
    bus.turn(0.0)
    assert told(ring) == []


FORKS_AMID_AN_IMPORT = """
import os, pathlib, signal, sys, time
from telemetry.events import BUS

def open_store():
    import slow_to_import
    raise OSError("there is none")

BUS._open_store = open_store
BUS.publish("vault_change", {"action": "lock"})
while not pathlib.Path("begun").exists():
    time.sleep(0.01)
if not (child := os.fork()):
    signal.alarm(20)
    import slow_to_import
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_fork_waits_until_the_thread_has_imported_what_it_needs(tmp_path: Path) -> None:
    """The child would inherit the lock of the module, and wait for a thread that it does not have."""
    slow = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(0.5)\n"
    (tmp_path / "slow_to_import.py").write_text(slow)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-c", FORKS_AMID_AN_IMPORT]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# -- the window ------------------------------------------------------------------------------------------------------
def records(first: int, last: int, **fields: Any) -> list[tuple[int, bytes]]:
    now = events._EPOCH
    return [(number, encoded("route_success", now, {"n": number, **fields})) for number in range(first, last + 1)]


def numbers(chunk: bytes) -> list[int]:
    return [int(line.rpartition(b"-")[2]) for line in chunk.splitlines() if line.startswith(b"id: ")]


def gaps(chunk: bytes) -> list[dict[str, Any]]:
    found = [json.loads(line[6:]) for line in chunk.splitlines() if line.startswith(b"data: ")]
    return [one["data"] for one in found if one["type"] == "gap"]


@pytest.fixture
def window() -> Window:
    window = Window(events=80, size=1 << 20)
    window.restart("aa")
    return window


def test_a_listener_gets_each_event_once(window: Window) -> None:
    window.add(records(1, 5))
    place, first = window.place("")
    assert (place, first) == (5, b"")
    window.add(records(6, 9))
    chunk, place = window.after(place, Filter())
    assert numbers(chunk) == [6, 7, 8, 9]
    assert window.after(place, Filter()) == (b"", 9)


def test_a_chunk_is_bounded(window: Window) -> None:
    window.add(records(1, 40, text="x" * 1000))
    chunk, place = window.after(0, Filter(), limit=3000)
    assert numbers(chunk) == [1, 2, 3]
    assert numbers(window.after(place, Filter(), limit=3000)[0]) == [4, 5, 6]


def test_a_client_goes_on_after_the_last_event_that_it_has_seen(window: Window) -> None:
    window.add(records(1, 9))
    place, first = window.place("aa-4")
    assert (place, first) == (4, b"")
    assert numbers(window.after(place, Filter())[0]) == [5, 6, 7, 8, 9]
    assert window.place("0") == (0, b"")


def test_what_fell_out_of_the_window_is_counted(window: Window) -> None:
    window.add(records(1, 500))
    place, _ = window.place("aa-100")
    chunk, _ = window.after(place, Filter(), limit=1 << 20)
    seen = numbers(chunk)
    assert seen[-1] == 500
    assert len(window) <= 80
    assert gaps(chunk) == [{"reason": "too_late", "missed": seen[1] - 101}]
    assert seen[0] == seen[1] - 1  # whoever comes again with the gap's id misses nothing more


def test_a_hole_in_the_numbers_is_told_where_it_is(window: Window) -> None:
    window.add([*records(1, 3), *records(8, 9)])
    chunk, _ = window.after(0, Filter())
    assert numbers(chunk) == [1, 2, 3, 7, 8, 9]
    assert gaps(chunk) == [{"reason": "too_late", "missed": 4}]


@pytest.mark.parametrize("event_id", ["bb-4", "aa-10", "nonsense", "aa-", "-", "aa-99999999999999999999", "aa-\u0663"])
def test_an_id_of_another_time_gets_what_there_is_and_is_told(window: Window, event_id: str) -> None:
    window.add(records(3, 9))
    place, first = window.place(event_id)
    assert gaps(first) == [{"reason": "unknown_id", "missed": None}]
    assert numbers(window.after(place, Filter())[0]) == [3, 4, 5, 6, 7, 8, 9]


def test_the_window_is_bounded_in_bytes_too() -> None:
    window = Window(events=1000, size=100_000)
    window.restart("aa")
    for number in range(1, 2000):
        window.add(records(number, number, text="x" * 1000))
        assert window._bytes <= 100_000 + 1200
    assert window._bytes == sum(len(one.payload) for one in window._events)
    assert len(window) > 0


def test_filters_are_all_to_be_met(window: Window) -> None:
    now = events._EPOCH
    kinds = [
        ("route_success", {"model_id": "m", "provider_id": "p", "project": "shop"}),
        ("route_error", {"model_id": "m", "provider_id": "p", "project": "shop"}),
        ("route_error", {"model_id": "n", "provider_id": "p", "project": ""}),
        ("health_change", {"model_id": "m", "provider_id": "p"}),
        ("vault_change", {"action": "lock"}),
    ]
    window.add((at, encoded(kind, now, data)) for at, (kind, data) in enumerate(kinds, 1))

    def seen(**wanted: Any) -> list[int]:
        return numbers(window.after(0, Filter(**wanted))[0])

    assert seen() == [1, 2, 3, 4, 5]
    assert seen(types=frozenset({"vault_change", "route_error"})) == [2, 3, 5]
    assert seen(model_id="m") == [1, 2, 4]
    assert seen(provider_id="p", status="error") == [2, 3]
    assert seen(project="shop", status="success") == [1]


def test_a_gap_concerns_those_who_wanted_what_is_missing(window: Window) -> None:
    window.add([(1, gap("thinned", missed=5, types={"route_success": 5})), (2, gap("other"))])
    assert numbers(window.after(0, Filter(types=frozenset({"route_success"})))[0]) == [1, 2]
    assert numbers(window.after(0, Filter(types=frozenset({"vault_change"})))[0]) == [2]


# -- the feed --------------------------------------------------------------------------------------------------------
def follow(folder: Path, test: Any) -> None:
    async def run() -> None:
        feed = Feed(lambda: FileRing(folder))
        async with asyncio.timeout(30):
            await test(feed)
        assert feed._follower is None, "it reads on for nobody"

    asyncio.run(run())


def test_a_listener_hears_what_comes_after_it(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        ring = FileRing(tmp_path)
        ring.append([payload for _, payload in records(1, 3)])
        listener = await feed.join("")
        assert ring.wanted[0]
        assert feed.next(listener, Filter()) == b""
        ring.append([payload for _, payload in records(1, 1)])
        await listener.news.wait()
        assert feed.next(listener, Filter()).count(b"event: route_success") == 1
        feed.leave(listener)

    follow(tmp_path, test)


def test_whoever_resumes_over_a_time_without_listeners_is_told(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        ring = FileRing(tmp_path)
        first = await feed.join("")
        ring.append([payload for _, payload in records(1, 2)])
        await first.news.wait()
        seen = numbers(feed.next(first, Filter()))[-1]
        feed.leave(first)
        ring._map[56] = 0  # its time is up
        second = await feed.join(f"{ring.epoch}-{seen}")
        (missing,) = gaps(feed.next(second, Filter()))
        assert (missing["reason"], missing["missed"]) == ("not_kept", None)
        assert "route_success" in missing["types"]
        feed.leave(second)

    follow(tmp_path, test)


def test_a_feed_that_cannot_be_read_is_refused_and_tried_again(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        folder = tmp_path / "later"
        feed._open_store = lambda: FileRing(folder)
        with pytest.raises(OSError):  # noqa: PT011  whatever the file system says
            await feed.join("")
        folder.mkdir()
        listener = await feed.join("")
        feed.leave(listener)

    follow(tmp_path, test)


def test_no_thread_is_left_when_the_last_listener_leaves(tmp_path: Path) -> None:
    async def test(feed: Feed) -> None:
        listeners = [await feed.join("") for _ in range(5)]
        follower = feed._follower
        assert follower is not None
        for one in listeners:
            feed.leave(one)
        await asyncio.to_thread(follower._thread.join, 10)
        assert follower._thread not in threading.enumerate()

    follow(tmp_path, test)
