#!/usr/bin/env python3
"""What a leg of /v1/plan costs beside the same call as a request of its own, in milliseconds, as Markdown.

    bench/plan.py

A gateway with one worker and a mock upstream that answers at once. The three are measured in turn, round by round, so
that the machine's noise falls on all of them: the median of the rounds, the least of them, and the median of what each
round took beyond the one before it in the list."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from tests.support.wire import chat_body, usage_of

ROUNDS, REQUESTS, LEGS = 25, 21, 21  # ten iterations: a plan, and ten critiques and refinements
ASK = {"messages": [{"role": "user", "content": "How shall we move the house?"}]}


def main() -> None:
    answer = Reply(body=chat_body("m", 8, usage_of(anthropic=False, count=8, override=None), 1))
    with tempfile.TemporaryDirectory() as folder, Upstream() as upstream:
        upstream.default = answer
        models = [{"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"}]
        providers = [{"id": "p", "type": "openai", "base_url": upstream.url}]
        with (
            Gateway(Path(folder), providers=providers, models=models) as gateway,
            httpx.Client(base_url=gateway.base, headers=gateway.headers(), timeout=60) as client,
        ):
            measure(client)


def measure(client: httpx.Client) -> None:
    plan = {"request": ASK, "orchestration": {"mode": "adversarial", "iterations": 10, "primary_model_id": "m"}}

    def chat() -> float:
        began = perf_counter()
        for _ in range(REQUESTS):
            client.post("/v1/chat/completions", content=json.dumps({"model": "m", **ASK})).raise_for_status()
        return (perf_counter() - began) / REQUESTS * 1000

    def foreground() -> float:
        began = perf_counter()
        found = client.post("/v1/plan", content=json.dumps(plan)).raise_for_status().json()
        assert len(found["attempts"]) == LEGS
        return (perf_counter() - began) / LEGS * 1000

    def background() -> float:
        """From the run's start to its end, as its row says."""
        run_id = client.post("/v1/plan", content=json.dumps({**plan, "background": True})).json()["id"]
        until = monotonic() + 30
        while (found := client.get(f"/v1/plan/{run_id}").json())["status"] == "running" and monotonic() < until:
            sleep(0.05)
        assert found["status"] == "completed", found
        begun, ended = (datetime.fromisoformat(found[name]) for name in ("created_at", "finished_at"))
        return (ended - begun).total_seconds() / LEGS * 1000

    ways: list[tuple[str, Callable[[], float]]] = [
        ("a chat completion of its own, from client to client", chat),
        ("a leg, its client waiting", foreground),
        ("a leg in the background, kept before the next", background),
    ]
    rounds = [[way() for _, way in ways] for _ in range(ROUNDS)]
    print("| | median, ms | least, ms | beyond the line above, median, ms |")
    print("|---|---|---|---|")
    for place, (name, _) in enumerate(ways):
        took = [one[place] for one in rounds]
        beyond = f"{median(one[place] - one[place - 1] for one in rounds):.2f}" if place else ""
        print(f"| {name} | {median(took):.2f} | {min(took):.2f} | {beyond} |")


if __name__ == "__main__":
    main()
