#!/usr/bin/env python3
"""What a request costs in bytecode operations of the event loop's thread, by function: a figure that noisy neighbours
do not change. It leaves out what C code does, the kernel, and other threads.

    bench/operations.py        # what limits and a budget add to a plain key's request

One process of the gateway runs traced, some fifteen times slower, so moments that the hot path counts in are stretched
as much. Needs what bench/run.py needs, but nginx and wrk."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import IO, Any

from run import KEY, LIMITED_KEY, ROOT, harness, prepare

PORT = 9302
REQUESTS, IN_FLIGHT = 640, 32
SLOWER = 15
LEAST_SHOWN = 0.5
BODY = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "Say hello, please."}], "max_tokens": 64})


def serve() -> None:
    """Counts from the start; tells, and forgets, the counts for each line that it reads."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tokenhub.settings"
    counts: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            counts[frame.f_code] += 1
        else:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return count

    def tell() -> None:
        for _ in sys.stdin:
            told = Counter[str]()
            for code, number in list(counts.items()):
                told["/".join(Path(code.co_filename).parts[-2:]) + " " + code.co_qualname] += number
            counts.clear()
            print(json.dumps(told), flush=True)

    import uvicorn
    import uvloop

    from keys import allowance, limit_lease, limit_table
    from tokenhub.asgi import application
    from tokenhub.protocol import Protocol

    allowance.SECONDS *= SLOWER
    allowance.BUSY_SECONDS *= SLOWER
    limit_lease.HOT_SECONDS *= SLOWER
    limit_lease.LEASE_SECONDS = limit_table.LEASE_SECONDS = limit_lease.LEASE_SECONDS * SLOWER
    threading.Thread(target=tell, daemon=True).start()
    config = uvicorn.Config(application, port=PORT, http=Protocol, loop="none", log_config=None, access_log=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.settrace(count)
        runner.run(uvicorn.Server(config).serve())


def load(key: str, requests: int) -> None:
    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        for _ in range(requests // IN_FLIGHT):
            connection.request("POST", "/v1/chat/completions", BODY, headers)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == 200, answer.status

    threads = [threading.Thread(target=client) for _ in range(IN_FLIGHT)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def counted(server: subprocess.Popen[str]) -> Counter[str]:
    talk: tuple[IO[str] | None, IO[str] | None] = (server.stdin, server.stdout)
    assert talk[0] is not None
    assert talk[1] is not None
    talk[0].write("\n")
    talk[0].flush()
    return Counter(json.loads(talk[1].readline()))


def wait_until_it_listens() -> None:
    for _ in range(150):
        try:
            http.client.HTTPConnection("127.0.0.1", PORT, timeout=2).connect()
        except OSError:
            time.sleep(0.2)
        else:
            return
    sys.exit("The gateway did not start; what it wrote above says why.")


def main() -> None:
    bench = harness()
    bench.build()
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **prepare(Path(folder) / "data", with_limited=True)}
        upstream = bench.spawn([f"{bench.BUILD}/mock_upstream", str(bench.MOCK_PORT)], bench.LOAD_CPU)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            wait_until_it_listens()
            found = []
            for key in (KEY, LIMITED_KEY):
                load(key, REQUESTS // 2)
                counted(server)
                load(key, REQUESTS)
                found.append(counted(server))
        finally:
            server.kill()
            server.wait()
            bench.stop(upstream)
    plain, limited = found
    print("| function | more operations with limits and a budget |\n|---|---|")
    more = {name: (limited[name] - plain[name]) / REQUESTS for name in limited | plain}
    for name, number in sorted(more.items(), key=lambda one: -one[1]):
        if abs(number) >= LEAST_SHOWN:
            print(f"| {name} | {number:.1f} |")
    whole = plain.total() / REQUESTS
    print(f"| all, beside {whole:.0f} of a plain key | {limited.total() / REQUESTS - whole:.0f} |")


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
