#!/usr/bin/env python3
"""What the event bus costs a request, and the threads behind it. Microseconds, as Markdown.

    bench/events.py

The least of five rounds: the machine's noise only adds."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import thread_time_ns, time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
os.environ["TOKENHUB_DATA_DIR"] = tempfile.mkdtemp(prefix="tokenhub-bench-")

import django

django.setup()

from telemetry.event_feed import Filter, Window  # noqa: E402
from telemetry.event_ring import FileRing  # noqa: E402
from telemetry.events import MAX_WAITING, Bus, encoded, told_of  # noqa: E402
from telemetry.journal import Attempt, Entry  # noqa: E402

ROUNDS, TIMES = 5, 100_000


def least(run: Callable[[int], None], times: int = TIMES) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = thread_time_ns()
        run(times)
        best = min(best, (thread_time_ns() - started) / times / 1000)
    return best


class Held:
    """As a request reaches the bus."""

    def __init__(self, bus: Bus) -> None:
        self.events = bus


def main() -> None:
    ring = FileRing(Path(os.environ["TOKENHUB_DATA_DIR"]))
    bus = Bus(lambda: FileRing(Path(os.environ["TOKENHUB_DATA_DIR"])))
    bus.open()
    held = Held(bus)
    entry = Entry(
        id="018f3c5e-0000-7000-8000-000000000000", at=int(time() * 1e6), endpoint="/v1/chat/completions", status=200,
        key_name="shop", project="shop", requested_model="m", model="m", provider="p", reason="model-hint",
        attempt_list=[Attempt("m", "p")],
    )  # fmt: skip

    def nothing(times: int) -> None:
        for _ in range(times):
            pass

    def checked(times: int) -> None:
        for _ in range(times):
            if held.events.wanted[0]:
                held.events.finished(entry)

    empty = least(nothing)
    rows = [("the check of a request, nobody listens", least(checked) - empty)]
    ring.listen(600)

    def wanted(times: int) -> None:
        for _ in range(times // MAX_WAITING):
            for _ in range(MAX_WAITING):
                if held.events.wanted[0]:
                    held.events.finished(entry)
            bus._requests.clear()  # noqa: SLF001  as its thread does

    rows.append(("on the event loop, somebody listens", least(wanted) - empty))

    def told(times: int) -> None:
        for _ in range(times):
            for event in told_of(entry):
                encoded(*event)

    rows.append(("in the bus's thread, per event that is kept", least(told, 20_000)))
    payload = [encoded(*next(told_of(entry)))] * 10

    def appended(times: int) -> None:
        for _ in range(times // 10):
            ring.append(payload)

    rows.append(("into the ring of the host, ten at once", least(appended, 20_000)))
    window = Window()
    window.restart("aa")
    window.add((number, payload[0]) for number in range(1, 4001))

    def shown(times: int) -> None:
        place = 0
        while place < times:
            place = window.after(place, Filter(provider_id="p"))[1]

    rows.append(("shown to one listener", least(shown, 4000)))
    print("| part | µs |\n|---|---|")
    for name, cost in rows:
        print(f"| {name} | {cost:.2f} |")


if __name__ == "__main__":
    main()
