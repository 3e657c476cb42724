#!/usr/bin/env python3
"""What a chunk of a stream costs on its way through: passed on in the same dialect, and translated from each dialect to
each other, in microseconds of one core, as Markdown.

    bench/translate.py [-n REPEATS] [-c CHUNKS]

A stream is a text in pieces of one word, then a tool call in pieces, as a provider writes them; each piece comes in a
read of its own. The figure is the least of the repeats: the machine's noise only adds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from providers.formats.base import Dialect
from providers.formats.canonical import (
    Ended,
    Finished,
    PartEnded,
    Started,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import Usage
from providers.formats.registry import DIALECTS, relay

LIMITS = {"pass-through": 5.0, "translation": 40.0}


def pieces(dialect: Dialect, chunks: int) -> list[bytes]:
    """A stream of that dialect, event by event."""
    half = chunks // 2
    events: list[StreamEvent] = [Started("id-1", "model", 1)]
    events += [TextDelta(" word") for _ in range(half)]
    events += [PartEnded(), ToolStarted(0, "call_1", "look_up"), ToolDelta(0, '{"words": "')]
    events += [ToolDelta(0, "word ") for _ in range(half)]
    events += [ToolDelta(0, '"}'), PartEnded(), UsageSeen(Usage(10, 0, 0, chunks)), Finished(StopReason.TOOL_CALLS)]
    events += [Ended()]
    renderer = dialect.stream_renderer(show_usage=True)
    return [event + b"\n\n" for event in renderer.render(events).split(b"\n\n")[:-1]]


def microseconds(source: Dialect, target: Dialect, stream: list[bytes], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        way = relay(source, target, show_usage=True, now=1.0)
        started = process_time()
        for piece in stream:
            way.feed(piece)
        best = min(best, (process_time() - started) / len(stream) * 1e6)
        if not way.finished:
            sys.exit(f"{source.name} to {target.name}: the stream did not come to its end.")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", "--repeats", type=int, default=15)
    parser.add_argument("-c", "--chunks", type=int, default=2000)
    options = parser.parse_args()
    chat = [dialect for dialect in DIALECTS.values() if dialect.family == "chat"]
    worst = dict.fromkeys(LIMITS, 0.0)
    print("| from \\ to | " + " | ".join(one.name for one in chat) + " |")
    print("|---|" + "---|" * len(chat))
    for source in chat:
        stream = pieces(source, options.chunks)
        figures = [microseconds(source, target, stream, options.repeats) for target in chat]
        for target, figure in zip(chat, figures, strict=True):
            kind = "pass-through" if target is source else "translation"
            worst[kind] = max(worst[kind], figure)
        print(f"| {source.name} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    print()
    for kind, limit in LIMITS.items():
        print(f"{kind}: at most {worst[kind]:.1f} µs a chunk (wanted: under {limit:g})")


if __name__ == "__main__":
    main()
