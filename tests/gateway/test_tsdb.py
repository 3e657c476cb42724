"""The time series of a running gateway against its request log, through kills in the middle of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Fault, Reply, Upstream

COLUMNS = ("cost_nano", "input_tokens", "output_tokens", "cached_input_tokens", "latency_ms")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": f"p{number}", "type": "openai", "base_url": upstream.url} for number in range(2)],
        models=[
            {"id": f"m{number}", "provider_id": f"p{number}", "input_per_1k": "0.000123", "output_per_1k": "1.1"}
            for number in range(2)
        ],
        aliases=[{"name": "split", "variants": [{"model_id": f"m{number}", "weight": 1} for number in range(2)]}],
        workers=2,
    ) as running:
        yield running


Sums = dict[str, tuple[int, ...]]


def sums(gateway: Gateway) -> tuple[Sums, Sums]:
    """Of the request log and of the minutes of the time series at one moment, by model."""
    parts = ", ".join(["SUM(requests)", "SUM(errors)", *(f"SUM({name}_sum)" for name in COLUMNS)])
    with closing(sqlite3.connect(gateway.folder / "tokenhub.sqlite3", timeout=20, isolation_level=None)) as database:
        database.execute("BEGIN")
        rows = database.execute(
            "SELECT model_id, status, cost_usd, input_tokens, output_tokens, cached_input_tokens, latency_ms "
            "FROM telemetry_requestlog"
        ).fetchall()
        counted = database.execute(
            f"SELECT model_id, {parts} FROM telemetry_sample JOIN telemetry_series s ON s.id = series "  # noqa: S608
            "WHERE span = 60 GROUP BY model_id"
        ).fetchall()
    logged: dict[str, list[int]] = {}
    for model, status, cost, *tokens, latency in rows:
        nano = int(Decimal(str(cost or 0)).scaleb(9).to_integral_value())
        found = logged.setdefault(model, [0] * (len(COLUMNS) + 2))
        is_error = status >= 400 and status != 499
        for place, number in enumerate([1, is_error, nano, *tokens, latency if model else 0]):
            found[place] += number
    return {model: tuple(found) for model, found in logged.items()}, {row[0]: row[1:] for row in counted}


def test_sums_are_those_of_the_request_log_at_any_moment_through_kills(gateway: Gateway, upstream: Upstream) -> None:
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            with suppress(httpx.HTTPError):
                gateway.chat(f"m{number % 2}", stream=number % 3 == 0, max_tokens=number + 1)
            with suppress(httpx.HTTPError):
                gateway.chat("nobody")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        for kills in range(3):
            seen = len(gateway.rows(at_least=20 * (kills + 1), seconds=30))
            logged, counted = sums(gateway)
            assert counted == logged
            assert sum(one[0] for one in logged.values()) >= seen
            if kills < 2:
                upstream.next(Reply(status=503), Reply(fault=Fault.RESET_BEFORE_HEAD), Reply(status=400))
                gateway.kill()
                gateway.start()
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=60)
    assert {"m0", "m1", ""} <= set(logged)
    assert logged["m0"][2] > 0


def test_turns_that_stay_with_their_model_are_counted(gateway: Gateway) -> None:
    asked: set[str] = set()

    def ask(*texts: str) -> None:
        roles = ("user", "assistant")
        messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
        answer = gateway.post("/v1/chat/completions", {"model": "split", "messages": messages})
        assert answer.status_code == 200
        asked.add(answer.headers["x-tokenhub-request-id"].replace("-", ""))

    for first in ("One", "Two", "Three"):
        ask(first)
        ask(first, "Yes", "And?")
        ask(first, "Yes", "And?", "So", "Well?")
    ask("Unheard of", "Yes", "And?")
    gateway.wait_until(lambda: asked <= {row["request_id"] for row in gateway.rows()}, seconds=30)
    assert gateway.query("SELECT SUM(affinity_hits) AS hits FROM telemetry_sample WHERE span = 60") == [{"hits": 6}]
