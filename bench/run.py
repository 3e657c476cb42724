#!/usr/bin/env python3
"""TokenHub beside nginx and the direct call, in one run, as Markdown. `make bench` calls it.

    bench/run.py [-n REPEATS] [-q SCALE] [-o results.json]

The load generator, the mock upstream and the way of measuring come from a folder beside the repository
(BENCH_DIR, default ../shared/bench: bench.py, loadgen.c, mock_upstream.c). Needs gcc, wrk and nginx, two cores, and
root for `nice`. The gateway runs as it would in production: authentication, routing, journal, ingestion and metrics on,
one worker, address limit off; everything is pinned as the folder's README says."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCH_DIR = Path(os.environ.get("BENCH_DIR", ROOT.parent / "shared" / "bench"))
KEY = "tokenhub_" + "ab" * 32
LIMITED_KEY = "tokenhub_" + "cd" * 32
PORT = 9301
STREAMS = 200
LIMITS = {"cpu": 8.0, "rps": 1 / 8, "added_ms": 0.8, "streams": 1.10, "memory_mb": 120.0, "start_s": 2.0}


def harness() -> Any:
    path = BENCH_DIR / "bench.py"
    if not path.exists():
        sys.exit(f"{path} is missing. Set BENCH_DIR to the folder with bench.py, loadgen.c and mock_upstream.c.")
    spec = importlib.util.spec_from_file_location("harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(folder: Path, *, with_limited: bool = False, limits: bool = True, budget: bool = True) -> dict[str, str]:
    """A data folder with one provider, one model and one key; the environment that serves it. `with_limited`: and a key
    with every limit and a budget, none of which is ever reached."""
    folder.mkdir()
    env = {"TOKENHUB_DATA_DIR": str(folder), "TOKENHUB_RATE_LIMIT_RPS": "0", "TOKENHUB_LOG_FORMAT": "json"}
    whole = {**os.environ, **env}
    rows: dict[str, list[dict[str, Any]]] = {
        "providers": [{"id": "mock", "type": "openai", "base_url": "http://127.0.0.1:9100"}],
        "models": [{"id": "mock", "provider_id": "mock", "input_per_1k": "0.001", "output_per_1k": "0.002"}],
        "keys": [{"key": KEY}],
    }
    if with_limited:
        every = {
            "rate_limit_rps": 1e6, "rate_limit_burst": 10**6, "rate_limit_rpm": 10**8, "rate_limit_tpm": 10**12,
            "max_concurrent": 10**4,
        }  # fmt: skip
        rows["models"][0]["max_output_tokens"] = 1000
        rows["keys"].append({"key": LIMITED_KEY, **(every if limits else {})})
        if budget:
            rows["budgets"] = [{"of_key": LIMITED_KEY, "amount_usd": "1000000"}]
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=whole, check=True)
    subprocess.run(
        [sys.executable, "tests/support/configure.py"],
        cwd=ROOT,
        env=whole,
        input=json.dumps(rows),
        text=True,
        check=True,
    )
    return env


def measure(bench: Any, target: Any, direct: Any, quick: float) -> dict[str, Any]:
    """One repeat of one target: saturation, one at a time, and 200 paced streams."""
    seconds = max(2.0, 6 * quick)
    bench.wait_quiet(0.25, 45)
    upstream = bench.spawn([f"{bench.BUILD}/mock_upstream", str(bench.MOCK_PORT)], bench.LOAD_CPU)
    process, result = None, {}
    try:
        while direct.once() != 200:
            pass
        base = direct.load(seconds=seconds / 2)["latency"]["p50"]
        if "cmd" in target.spec:
            process, result["start_s"] = target.start()
        target.load(seconds=3, conc=8)
        pid = process.pid if process else upstream.pid
        bench.settle(pid)
        before = bench.cpu_s(pid)
        answered = target.wrk(int(seconds), 32)
        bench.settle(pid)  # what is done later, such as ingestion, belongs to it
        result["rps"] = answered["rps"]
        result["bad"] = answered["bad"]
        result["cpu_us"] = (bench.cpu_s(pid) - before) / answered["requests"] * 1e6
        result["added_ms"] = (target.load(seconds=seconds / 2)["latency"]["p50"] - base) / 1e3
        bench.mock(latency=0, tokens=50, interval=20)
        bench.settle(pid)
        before = bench.cpu_s(pid)
        streams = target.load("stream", seconds, 1.5, STREAMS)
        result["stream_ms"] = streams["latency"]["p50"] / 1e3
        result["stream_p99_ms"] = streams["latency"]["p99"] / 1e3
        result["chunks_per_s"] = streams["chunks_per_s"]
        bench.settle(pid)
        result["chunk_us"] = (bench.cpu_s(pid) - before) / (streams["chunks_per_s"] * (seconds + 1.5)) * 1e6
        bench.mock(latency=0, tokens=16, interval=0)
        if process:
            result["tree_mb"] = bench.memory_mb(process.pid)[0]
            result["worker_mb"] = max(bench.memory_mb(one)[0] for one in leaves(bench, process.pid))
    finally:
        for one in (process, upstream):
            if one is not None:
                bench.stop(one)
    return result


def leaves(bench: Any, pid: int) -> list[int]:
    """Processes without children: the workers."""
    return [one for one in bench.tree(pid) if len(bench.tree(one)) == 1]


def report(runs: dict[str, list[dict[str, Any]]]) -> str:
    def of(name: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[name])

    def ratio(a: str, b: str, what: str) -> float:
        """The median of the repeats' own ratios: both sides of each were measured within the same minute."""
        return statistics.median(x[what] / y[what] for x, y in zip(runs[a], runs[b], strict=True))

    cpu, rps = ratio("tokenhub", "nginx", "cpu_us"), ratio("tokenhub", "nginx", "rps")
    streams = ratio("tokenhub", "direct", "stream_ms")
    lines = [
        "| | direct | nginx | TokenHub | TokenHub to | wanted |",
        "|---|---|---|---|---|---|",
        f"| CPU µs per request, 32 in flight | - | {of('nginx', 'cpu_us'):.1f} | {of('tokenhub', 'cpu_us'):.1f} "
        f"| {cpu:.1f} × nginx | ≤ {LIMITS['cpu']:g} × |",
        f"| requests/s, 32 in flight | {of('direct', 'rps'):.0f} | {of('nginx', 'rps'):.0f} "
        f"| {of('tokenhub', 'rps'):.0f} | 1/{1 / rps:.1f} of nginx | ≥ 1/8 |",
        f"| added median at one in flight, ms | - | {of('nginx', 'added_ms'):.2f} | {of('tokenhub', 'added_ms'):.2f} "
        f"| direct | ≤ {LIMITS['added_ms']} |",
        f"| {STREAMS} streams of 50 chunks at 20 ms, median ms | {of('direct', 'stream_ms'):.0f} "
        f"| {of('nginx', 'stream_ms'):.0f} | {of('tokenhub', 'stream_ms'):.0f} | {streams:.3f} × direct | ≤ 1.10 × |",
        f"| the same, 99th percentile ms | {of('direct', 'stream_p99_ms'):.0f} | {of('nginx', 'stream_p99_ms'):.0f} "
        f"| {of('tokenhub', 'stream_p99_ms'):.0f} | {ratio('tokenhub', 'direct', 'stream_p99_ms'):.3f} × direct | |",
        f"| CPU µs per chunk | - | {of('nginx', 'chunk_us'):.1f} | {of('tokenhub', 'chunk_us'):.1f} "
        f"| {ratio('tokenhub', 'nginx', 'chunk_us'):.1f} × nginx | |",
        f"| memory of the worker afterwards, MB (PSS) | - | - | {of('tokenhub', 'worker_mb'):.0f} "
        f"| | ≤ {LIMITS['memory_mb']:g} |",
        f"| memory of all processes afterwards, MB (PSS) | - | {of('nginx', 'tree_mb'):.0f} "
        f"| {of('tokenhub', 'tree_mb'):.0f} | | |",
        f"| start to first answer, s | - | {of('nginx', 'start_s'):.2f} | {of('tokenhub', 'start_s'):.2f} "
        f"| | ≤ {LIMITS['start_s']:g} |",
    ]
    bad = sum(run["bad"] for name in runs for run in runs[name])
    lines.append(f"\nMedians of {len(runs['direct'])} interleaved repeats; {bad:.0f} failed requests.")
    return "\n".join(lines)


def admission(bench: Any, spec: dict[str, Any], repeats: int) -> str:
    """What limits and a budget cost: one gateway, two keys, bursts of a second of either in turn."""
    keys = {"plain": KEY, "limited": LIMITED_KEY}
    targets = {
        name: bench.Target(name, {**spec, "headers": {"Authorization": f"Bearer {key}"}}) for name, key in keys.items()
    }
    bench.wait_quiet(0.25, 45)
    processes = [bench.spawn([f"{bench.BUILD}/mock_upstream", str(bench.MOCK_PORT)], bench.LOAD_CPU)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in targets}
    try:
        process, _ = targets["plain"].start()
        processes.append(process)
        for target in targets.values():
            target.load(seconds=2, conc=8)
        for repeat in range(repeats):
            for name in sorted(targets, reverse=repeat % 2 == 1):
                bench.settle(process.pid)
                before = bench.cpu_s(process.pid)
                answered = targets[name].wrk(1, 32)
                bench.settle(process.pid)
                spent = (bench.cpu_s(process.pid) - before) / answered["requests"] * 1e6
                found[name].append((spent, answered["rps"]))
    finally:
        for one in reversed(processes):
            bench.stop(one)
    lines = ["| | plain | limits and a budget | of plain |", "|---|---|---|---|"]
    for place, title in enumerate(("CPU µs per request, 32 in flight", "requests/s, 32 in flight")):
        plain, limited = ([one[place] for one in found[name]] for name in ("plain", "limited"))
        share = statistics.median(one / other for one, other in zip(limited, plain, strict=True))
        lines.append(f"| {title} | {statistics.median(plain):.1f} | {statistics.median(limited):.1f} | {share:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--repeats", type=int, default=3)
    parser.add_argument("-q", "--quick", type=float, default=1.0, help="scale of the phases' durations")
    parser.add_argument("-o", "--out", type=Path, help="raw figures as JSON")
    parser.add_argument("-a", "--admission", action="store_true", help="instead: what limits and budgets cost")
    options = parser.parse_args()
    bench = harness()
    bench.build()
    with tempfile.TemporaryDirectory() as folder:
        serve = [sys.executable, str(ROOT / "manage.py"), "serve", "--listen", f"127.0.0.1:{PORT}", "--workers", "1"]
        specs: dict[str, Any] = {
            "direct": {},
            "nginx": {
                "port": 9202,
                "cmd": ["nginx", "-p", "{build}", "-c", str(BENCH_DIR / "peers" / "nginx.conf")],
            },
            "tokenhub": {
                "port": PORT,
                "cmd": serve,
                "headers": {"Authorization": f"Bearer {KEY}"},
                "env": prepare(Path(folder) / "plain"),
            },
        }
        if options.admission:
            spec = {**specs["tokenhub"], "env": prepare(Path(folder) / "limited", with_limited=True)}
            print(admission(bench, spec, options.repeats))
            return
        direct = bench.Target("direct", {})
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in specs}
        for repeat in range(options.repeats):
            for name, spec in specs.items():
                runs[name].append(measure(bench, bench.Target(name, spec), direct, options.quick))
                print(f"[{repeat + 1}/{options.repeats}] {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    if options.out:
        options.out.write_text(json.dumps(runs, indent=1))
    print(report(runs))


if __name__ == "__main__":
    main()
