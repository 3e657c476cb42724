"""A second target for a stream whose first one is silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routing.hedging import first_of
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream


async def leg(seconds: float, result: str | None, log: list[str], name: str) -> str | None:
    log.append(f"{name} begins")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        log.append(f"{name} stopped")
        raise
    return result


def race(first: tuple[float, str | None], second: tuple[float, str | None]) -> tuple[str | None, bool, list[str]]:
    log: list[str] = []

    async def run() -> tuple[str | None, bool]:
        return await first_of(
            lambda: leg(*first, log, "first"), lambda: leg(*second, log, "second"), after_seconds=0.05,
            discard=lambda late: log.append(f"discarded {late}"),
        )  # fmt: skip

    return (*asyncio.run(run()), log)


def test_a_quick_first_one_is_alone() -> None:
    assert race((0, "a"), (0, "b")) == ("a", False, ["first begins"])
    assert race((0, None), (0, "b")) == (None, False, ["first begins"])


def test_who_speaks_first_is_heard_and_the_other_stopped() -> None:
    assert race((5, "a"), (0, "b")) == ("b", True, ["first begins", "second begins", "first stopped"])
    assert race((0.1, "a"), (5, "b")) == ("a", True, ["first begins", "second begins", "second stopped"])


def test_a_failure_is_no_speech() -> None:
    assert race((0.2, "a"), (0, None))[:2] == ("a", True)
    assert race((0.1, None), (0.1, None))[:2] == (None, True)


def test_two_results_at_once_leave_one_to_be_discarded() -> None:
    log: list[str] = []

    async def run() -> None:
        gate = asyncio.Event()

        async def one(result: str) -> str:
            await gate.wait()
            return result

        asyncio.get_running_loop().call_later(0.1, gate.set)
        result = await first_of(lambda: one("a"), lambda: one("b"), after_seconds=0.01, discard=log.append)
        assert result == ("a", True)

    asyncio.run(run())
    assert log == ["b"]


def test_what_was_kept_is_discarded_when_whoever_waits_leaves_before_the_other_has_stopped() -> None:
    log: list[str] = []

    async def run() -> None:
        stopping, stopped = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            try:
                await asyncio.sleep(20)
            finally:
                stopping.set()
                await stopped.wait()
            return "never"

        async def quick() -> str:
            return "b"

        racing = asyncio.create_task(first_of(slow, quick, after_seconds=0.01, discard=log.append))
        await asyncio.wait_for(stopping.wait(), 10)
        racing.cancel()
        stopped.set()
        with pytest.raises(asyncio.CancelledError):
            await racing

    asyncio.run(run())
    assert log == ["b"]


def test_both_end_with_whoever_waits() -> None:
    log: list[str] = []

    async def run() -> None:
        task = asyncio.create_task(
            first_of(
                lambda: leg(9, "a", log, "first"), lambda: leg(9, "b", log, "second"), after_seconds=0.01,
                discard=lambda _: None,
            )
        )  # fmt: skip
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert sorted(log) == ["first begins", "first stopped", "second begins", "second stopped"]


def test_an_error_of_a_leg_comes_out() -> None:
    async def broken() -> str:
        raise ValueError

    async def run() -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            await first_of(broken, broken, after_seconds=1, discard=lambda _: None)

    asyncio.run(run())


PRICES = {"input_per_1k": "0.01", "output_per_1k": "0.02", "max_output_tokens": 1000}
ALL_KEY, PAYING_KEY, POOR_KEY = (KEY[:-2] + end for end in ("31", "32", "33"))


# -- over real servers -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with Gateway(
        folder,
        providers=[{"id": f"p{number}", "type": "openai", "base_url": upstream.url} for number in range(3)],
        models=[
            {"id": "slow", "provider_id": "p0", "weight": 9, **PRICES},
            {"id": "quick", "provider_id": "p1", "weight": 1, **PRICES},
            {"id": "refused", "provider_id": "p2", "weight": 10},
            {"id": "refused-too", "provider_id": "p2", "weight": 5, **PRICES},
            {"id": "dear", "provider_id": "p1", "weight": 1, **PRICES, "input_per_1k": "1"},
        ],
        keys=[
            {"key": ALL_KEY, "allowed_models": ["slow", "quick", "refused", "refused-too"]},
            *({"key": key, "allowed_models": ["slow", "quick"]} for key in (KEY, PAYING_KEY)),
            {"key": POOR_KEY, "allowed_models": ["slow", "dear"]},
        ],
        profiles=[{"name": "capable", "cost": 0, "latency": 0, "failure": 0, "capability": 1}],
        budgets=[{"of_key": PAYING_KEY, "amount_usd": "1"}, {"of_key": POOR_KEY, "amount_usd": "0.5"}],
        env={"TOKENHUB_HEDGE_AFTER_MS": "150"},
    ) as running:  # fmt: skip
        yield running


def test_a_silent_stream_is_answered_by_the_next_model_and_ended_at_its_provider(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.next(Reply(delay=20))
    answer = gateway.chat("slow", stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-tokenhub-model"] == "quick"
    assert answer.text.endswith("data: [DONE]\n\n")
    silent = next(request for request in upstream.requests if request.json["model"] == "slow")
    assert silent.lost.wait(2)
    upstream.forget()


def test_a_stream_that_speaks_is_not_hedged(gateway: Gateway, upstream: Upstream) -> None:
    asked = len(upstream.requests)
    answer = gateway.chat("slow", stream=True)
    assert (answer.headers["x-tokenhub-model"], answer.headers["x-tokenhub-reason"]) == ("slow", "model-hint")
    assert len(upstream.requests) == asked + 1


def test_whole_answers_are_not_hedged(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(delay=0.5))
    assert gateway.chat("slow").headers["x-tokenhub-model"] == "slow"


def settled(gateway: Gateway) -> int:
    """Of the budget, in nano-dollars; nothing of it beyond what was reserved."""
    periods = gateway.query("SELECT * FROM keys_budgetperiod")
    assert not any(one["overrun_nano"] for one in periods)
    return sum(one["settled_nano"] for one in periods)


def row_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [one for one in gateway.rows() if one["request_id"] == request_id.replace("-", "")]
        return bool(found)

    gateway.wait_until(is_there)
    return found[0]


@pytest.mark.parametrize("begun", [True, False])
def test_who_was_outrun_is_an_attempt_and_its_input_is_paid_for_if_it_had_begun(
    gateway: Gateway, upstream: Upstream, begun: bool
) -> None:
    upstream.next(Reply(fault=Fault.HANG_MIDWAY, at=0) if begun else Reply(fault=Fault.HANG_BEFORE_HEAD))
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi " * 1000}], "stream": True, "max_tokens": 50}
    before = settled(gateway)
    answer = gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {PAYING_KEY}"})
    assert (answer.headers["x-tokenhub-model"], answer.headers["x-tokenhub-attempts"]) == ("quick", "2")
    row = row_of(gateway, answer.headers["x-tokenhub-request-id"])
    silent, spoke = json.loads(row["detail"])["attempts"]
    assert (silent["model"], silent["error_class"], spoke["model"]) == ("slow", "outrun", "quick")
    assert bool(row["usage_estimated"]) is begun
    input_tokens = row["input_tokens"]
    assert input_tokens > 500 if begun else input_tokens == 11
    paid = round(float(row["cost_usd"]) * 1e9)
    assert paid == input_tokens * 10_000 + 8 * 20_000
    gateway.wait_until(lambda: settled(gateway) != before)
    assert settled(gateway) == before + paid
    assert "outrun" not in gateway.get("/metrics").text


def test_who_could_not_be_paid_was_not_asked_and_is_no_attempt(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(delay=0.6))
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 50}
    answer = gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {POOR_KEY}"})
    assert (answer.headers["x-tokenhub-model"], answer.headers["x-tokenhub-attempts"]) == ("slow", "1")


def test_a_provider_that_refused_the_credential_is_no_spare(gateway: Gateway, upstream: Upstream) -> None:
    asked = len(upstream.requests)
    upstream.next(Reply(status=401), Reply(delay=20))
    body = {"model": "refused", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"Authorization": f"Bearer {ALL_KEY}", "X-TokenHub-Mode": "capable"}
    answer = gateway.post("/v1/chat/completions", body, headers=headers)
    assert (answer.status_code, answer.headers["x-tokenhub-model"]) == (200, "quick")
    assert [one.json["model"] for one in upstream.requests[asked:]] == ["refused", "slow", "quick"]


def test_what_the_named_model_refuses_is_not_answered_by_the_one_beside_it(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.next(Reply(status=400, delay=0.5), Reply(delay=20))
    answer = gateway.chat("slow", stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "upstream_rejected")
    beside = upstream.requests[-1]
    assert beside.json["model"] == "quick"
    assert beside.lost.wait(5)
