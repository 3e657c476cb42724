#!/usr/bin/env python3
"""What limits and a budget cost a request, by two keys' phases of some milliseconds in turn: noise that lasts longer
than that is in both alike. Prints ratios to the plain key with their 95 % bounds.

    bench/phases.py [-s SECONDS] [-p PHASE_MS] [-l | -b | -e]    limits or a budget alone; neither, as a control

Needs what bench/run.py needs, but nginx and wrk. CPU is that of the gateway's processes together. What is ingested
comes from earlier phases of both keys, so what ingestion costs more because of charges is not seen here."""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from run import KEY, LIMITED_KEY, PORT, ROOT, harness, prepare

CONNECTIONS = 32
SAMPLES = 2000
Phase = tuple[float, float]
"""CPU microseconds a request, requests a second."""


def build(folder: Path) -> Path:
    made = folder / "phases"
    subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", "-o", made, ROOT / "bench" / "phases.c"], check=True)
    return made


def ratios(phases: list[Phase], place: int) -> list[float]:
    """Of each plain, limited, limited, plain."""
    found = []
    for first in range(0, len(phases), 4):
        one, two, three, four = (phase[place] for phase in phases[first : first + 4])
        found.append((two + three) / (one + four))
    return found


def bounds(values: list[float]) -> str:
    """Their median, and where it is in 95 of 100 samples of them."""
    drawn = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(SAMPLES))
    return f"{statistics.median(values):.3f} | {drawn[SAMPLES // 40]:.3f} to {drawn[-SAMPLES // 40]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-s", "--seconds", type=int, default=60)
    parser.add_argument("-p", "--phase-ms", type=int, default=30)
    parser.add_argument("-l", "--limits", action="store_true")
    parser.add_argument("-b", "--budget", action="store_true")
    parser.add_argument("-e", "--equal", action="store_true")
    options = parser.parse_args()
    both = not (options.limits or options.budget or options.equal)
    bench = harness()
    bench.build()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = prepare(folder / "data", with_limited=True, limits=options.limits or both, budget=options.budget or both)
        program = build(folder)
        serve = [sys.executable, str(ROOT / "manage.py"), "serve", "--listen", f"127.0.0.1:{PORT}", "--workers", "1"]
        spec = {"port": PORT, "cmd": serve, "headers": {"Authorization": f"Bearer {KEY}"}, "env": env}
        target = bench.Target("tokenhub", spec)
        processes = [bench.spawn([f"{bench.BUILD}/mock_upstream", str(bench.MOCK_PORT)], bench.LOAD_CPU)]
        try:
            process, _ = target.start()
            processes.append(process)
            wanted = [str(PORT), target.path, target.files["json"], KEY, LIMITED_KEY, str(CONNECTIONS)]
            wanted += [str(options.phase_ms), str(options.seconds), *map(str, bench.tree(process.pid))]
            told = subprocess.run(
                ["taskset", "-c", bench.LOAD_CPU, program, *wanted], check=True, capture_output=True, text=True
            ).stdout
        finally:
            for one in reversed(processes):
                bench.stop(one)
    phases = []
    for line in told.splitlines():
        _, requests, nanoseconds, cpu = map(int, line.split())
        phases.append((cpu / requests / 1e3, requests / nanoseconds * 1e9))
    plain = statistics.median(cpu for cpu, _ in phases[::4])
    print(f"{len(phases) // 4} quadruples; a plain request took {plain:.0f} µs\n")
    print("| limits and a budget, of plain | median | 95 % |\n|---|---|---|")
    for place, title in enumerate(("CPU per request", "requests/s")):
        print(f"| {title}, {CONNECTIONS} in flight | {bounds(ratios(phases, place))} |")


if __name__ == "__main__":
    main()
