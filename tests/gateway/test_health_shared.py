"""Traffic leaves what fails and comes back when it is well again, in every worker, while no request fails that
somebody else can answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, TypeVar

import pytest

from providers.client import build_transport
from providers.formats.envelope import Envelope
from providers.formats.registry import DIALECTS
from routing.attempt import Delivery, Timeouts
from routing.breaker import DOWN_AFTER, State
from routing.call import Call
from routing.eligibility import needs_of
from routing.engine import MAX_RETRIES, Engine
from routing.errors import ApiError
from routing.health import Health
from routing.patience import Patience
from routing.policy import Policy
from routing.snapshot import Snapshot, Target
from tests.support import postgres
from tests.support.gateway import Gateway
from tests.support.targets import key, provider, snapshot, target
from tests.support.upstream import Fault, Reply, Upstream

T = TypeVar("T")
SHARED_SECONDS = 1.0 + 1.0  # the second is slack for a busy test machine
DOWN_SECONDS = 1.0  # in the simulations
CLIENTS = 8


# -- a simulation: the engine and real servers -------------------------------------------------------------------------
@dataclass
class World:
    """The engine with its target A, which everybody prefers, and B."""

    engine: Engine
    health: Health
    snapshot: Snapshot
    a: Upstream
    b: Upstream
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    async def ask(self, *, hint: Target | None = None, fallback: bool = True, deadline_ms: int | None = None) -> str:
        """The model that answered. Raises ApiError."""
        return (await self.deliver(hint=hint, fallback=fallback, deadline_ms=deadline_ms)).target.model_id

    async def deliver(
        self, *, hint: Target | None = None, fallback: bool = True, deadline_ms: int | None = None
    ) -> Delivery:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
        envelope = Envelope.read(json.dumps(body).encode())
        call = Call(
            snapshot=self.snapshot, key=key(), dialect=DIALECTS["openai-chat"], envelope=envelope,
            policy=Policy("high_confidence", allow_fallback=fallback, deadline_ms=deadline_ms), hint=hint,
            needs=needs_of(envelope), started_at=monotonic(), patience=Patience(armed=True),
        )  # fmt: skip
        return await self.engine.deliver(call)

    async def load(self, seconds: float) -> Counter[str]:
        """Clients that ask one after the other; which model answered how often."""
        until, seen = monotonic() + seconds, Counter[str]()

        async def client() -> None:
            while monotonic() < until:
                try:
                    model = await self.ask()
                except ApiError as error:
                    self.failed.append(error.code)
                else:
                    seen[model] += 1
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
        return seen

    def calls_of_a(self) -> int:
        return len(self.a.requests)


TIMEOUT_SECONDS = 5.0  # the good one must never be too slow for it: a busy machine has pauses of a second


def simulate(scenario: Callable[[World], Awaitable[T]]) -> T:
    async def run(a: Upstream, b: Upstream) -> T:
        door, health = build_transport("direct"), Health(down_seconds=DOWN_SECONDS)
        targets = [
            target("a", at=provider("pa", urls=[a.url]), weight=9),
            target("b", at=provider("pb", urls=[b.url]), weight=2),
        ]
        engine = Engine(
            doors={"": door}, health=health, timeouts=Timeouts(TIMEOUT_SECONDS, TIMEOUT_SECONDS), rng=Random(1),
            vault_is_open=lambda: True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                return await scenario(World(engine, health, snapshot(*targets), a, b))
        finally:
            await door.close()

    with Upstream() as a, Upstream() as b:
        return asyncio.run(run(a, b))


@pytest.mark.parametrize(
    "bad",
    [
        Reply(status=503), Reply(fault=Fault.RESET_BEFORE_HEAD), Reply(fault=Fault.HANG_BEFORE_HEAD),
        Reply(fault=Fault.HTML),
    ],
    ids=["503", "reset", "hang", "html"],
)  # fmt: skip
def test_traffic_leaves_a_failing_target_and_comes_back_after_its_recovery(bad: Reply) -> None:
    async def scenario(world: World) -> None:
        assert set(await world.load(0.3)) == {"a"}
        before = world.calls_of_a()
        world.a.default = bad
        await world.load(2.5)
        # each client may have had a call of its own under way; after that, one trial per rest
        assert world.calls_of_a() - before <= DOWN_AFTER + CLIENTS * (MAX_RETRIES + 1) + 4
        assert world.health.stats("pa", "a").state(monotonic()) is State.DOWN
        world.a.default = Reply()
        async with asyncio.timeout(10):
            while set(await world.load(0.2)) != {"a"}:
                pass
        assert world.health.stats("pa", "a").state(monotonic()) is State.HEALTHY
        assert world.failed == []

    simulate(scenario)


def test_one_request_after_the_other_leaves_after_five_errors_and_tries_once_per_rest() -> None:
    async def scenario(world: World) -> None:
        world.a.default = Reply(status=500)
        began = monotonic()
        for _ in range(20):
            assert await world.ask() == "b"
        rests = (monotonic() - began) // DOWN_SECONDS  # that are over by now, on a slow machine
        assert DOWN_AFTER <= world.calls_of_a() <= DOWN_AFTER + rests
        await asyncio.sleep(DOWN_SECONDS + 0.05)
        before, began = world.calls_of_a(), monotonic()
        for _ in range(20):
            assert await world.ask() == "b"
        rests = (monotonic() - began) // DOWN_SECONDS
        assert before + 1 <= world.calls_of_a() <= before + 1 + rests

    simulate(scenario)


def test_while_one_request_tries_a_half_open_target_the_others_go_elsewhere() -> None:
    async def scenario(world: World) -> None:
        world.a.default = Reply(status=500)
        for _ in range(2):
            await world.ask()
        world.a.default = Reply(delay=0.3)
        await asyncio.sleep(DOWN_SECONDS + 0.05)
        before = world.calls_of_a()
        answered = await asyncio.gather(*(world.ask() for _ in range(20)))
        assert Counter(answered) == {"a": 1, "b": 19}
        assert world.calls_of_a() == before + 1

    simulate(scenario)


def test_a_client_that_leaves_during_the_trial_gives_the_next_one_its_chance() -> None:
    async def scenario(world: World) -> None:
        world.a.default = Reply(status=500)
        for _ in range(2):
            await world.ask()
        world.a.default = Reply(delay=0.3)
        await asyncio.sleep(DOWN_SECONDS + 0.05)
        trial = asyncio.create_task(world.ask())
        await asyncio.sleep(0.1)
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        assert await world.ask() == "a"

    simulate(scenario)


def test_a_limited_target_rests_as_long_as_it_said() -> None:
    async def scenario(world: World) -> None:
        world.a.next(Reply(status=429, headers={"retry-after": "1"}))
        assert await world.ask() == "b"
        seen = await world.load(0.8)
        assert set(seen) == {"b"}
        assert world.calls_of_a() == 1
        await asyncio.sleep(0.25)
        assert await world.ask() == "a"
        assert world.failed == []

    simulate(scenario)


def test_an_answer_that_was_under_way_does_not_end_a_rest() -> None:
    async def scenario(world: World) -> None:
        world.a.next(Reply(delay=0.3), Reply(status=429, headers={"retry-after": "5"}))
        slow = asyncio.create_task(world.ask())
        await asyncio.to_thread(world.a.wait_for_requests, 1)
        assert await world.ask() == "b"
        assert await slow == "a"
        assert await world.ask() == "b"
        assert world.calls_of_a() == 2

    simulate(scenario)


def test_clients_that_will_not_wait_do_not_take_a_target_down() -> None:
    async def scenario(world: World) -> None:
        world.a.default = world.b.default = Reply(delay=0.2)
        for _ in range(2 * DOWN_AFTER):
            with pytest.raises(ApiError):
                await world.ask(deadline_ms=20)
        world.a.default = Reply()
        assert await world.ask() == "a"
        assert world.health.stats("pa", "a").errors == 0

    simulate(scenario)


def test_an_only_target_is_asked_even_while_it_is_down() -> None:
    async def scenario(world: World) -> None:
        only = world.snapshot.targets["a"]
        world.a.default = Reply(status=500)
        for _ in range(4):
            with pytest.raises(ApiError):
                await world.ask(hint=only, fallback=False)
        world.a.default = Reply()
        assert await world.ask(hint=only, fallback=False) == "a"
        assert world.health.stats("pa", "a").state(monotonic()) is State.HEALTHY

    simulate(scenario)


def test_when_all_are_down_one_of_them_is_asked_and_its_recovery_is_seen_at_once() -> None:
    async def scenario(world: World) -> None:
        world.a.default = world.b.default = Reply(status=500)
        while any(world.health.stats(*one).state(monotonic()) is not State.DOWN for one in [("pa", "a"), ("pb", "b")]):
            with pytest.raises(ApiError):
                await world.ask()
        before = world.calls_of_a() + len(world.b.requests)
        with pytest.raises(ApiError) as failed:
            await world.ask()
        assert failed.value.code == "upstream_error"
        assert world.calls_of_a() + len(world.b.requests) == before + 1  # no retries, and nobody besides
        world.a.default = world.b.default = Reply()
        delivery = await world.deliver()
        assert delivery.reason == "last-resort"
        model = delivery.target.model_id
        assert world.health.stats(f"p{model}", model).state(monotonic()) is State.HEALTHY

    simulate(scenario)


def test_when_all_are_limited_nobody_is_asked_and_the_client_learns_how_long() -> None:
    async def scenario(world: World) -> None:
        for one in (world.a, world.b):
            one.default = Reply(status=429, headers={"retry-after": "30"})
        with pytest.raises(ApiError):
            await world.ask()
        with pytest.raises(ApiError) as refused:
            await world.ask()
        assert (refused.value.status, refused.value.code) == (429, "upstream_rate_limited")
        assert 1 <= refused.value.retry_after <= 30
        assert (world.calls_of_a(), len(world.b.requests)) == (1, 1)

    simulate(scenario)


# -- several workers ---------------------------------------------------------------------------------------------------
@pytest.fixture
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as bad, Upstream() as good:
        yield bad, good


def rows(bad: Upstream, good: Upstream, **fields: Any) -> dict[str, Any]:
    return {
        "providers": [
            {"id": "bad", "type": "openai", "base_url": bad.url, **fields},
            {"id": "good", "type": "openai", "base_url": good.url},
        ],
        "models": [
            {"id": "b", "provider_id": "bad", "weight": 9},
            {"id": "g", "provider_id": "good", "weight": 1},
        ],
    }


def state(gateway: Gateway, name: str = "bad") -> int:
    """As the worker that answers shows it to Prometheus."""
    mark = f'tokenhub_provider_health_state{{provider="{name}"}} '
    (line,) = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(mark)]
    return int(float(line.removeprefix(mark)))


def seconds_until(condition: Callable[[], bool], *, limit: float = 10.0) -> float:
    started = time.monotonic()
    Gateway.wait_until(condition, seconds=limit)
    return time.monotonic() - started


def test_what_one_worker_sees_down_another_one_leaves_alone_within_a_second(
    tmp_path: Path, upstreams: tuple[Upstream, Upstream]
) -> None:
    bad, good = upstreams
    setup = rows(bad, good)
    one, other = (Gateway(tmp_path, server="uvicorn", **setup) for _ in range(2))
    with one, other:
        assert (state(one), state(other)) == (2, 2)
        bad.default = Reply(status=503)
        while state(one):
            assert one.chat("b").headers["x-tokenhub-model"] == "g"
        assert len(bad.requests) == DOWN_AFTER
        assert seconds_until(lambda: state(other) == 0) < SHARED_SECONDS
        for _ in range(5):
            assert other.chat("b").headers["x-tokenhub-model"] == "g"
        assert len(bad.requests) == DOWN_AFTER
        assert 'tokenhub_provider_skips_total{reason="down"}' in other.get("/metrics").text
        (record,) = one.query("SELECT * FROM routing_healthrecord WHERE model_id = 'b'")
        assert (record["calls"], record["consecutive_errors"]) == (DOWN_AFTER, DOWN_AFTER)


def test_a_retry_after_holds_in_every_worker_and_over_a_restart(
    tmp_path: Path, upstreams: tuple[Upstream, Upstream]
) -> None:
    bad, good = upstreams
    setup = rows(bad, good)
    one, other = (Gateway(tmp_path, server="uvicorn", **setup) for _ in range(2))
    with one, other:
        bad.default = Reply(status=429, headers={"retry-after": "60"})
        assert one.chat("b").headers["x-tokenhub-reason"] == "failover-rate_limited"
        assert seconds_until(lambda: state(other) == 1) < SHARED_SECONDS
        assert other.chat("b").headers["x-tokenhub-model"] == "g"
        other.kill()
        other.start()
        assert other.chat("b").headers["x-tokenhub-model"] == "g"
        assert len(bad.requests) == 1


def test_a_refused_credential_is_left_alone_by_all_workers_until_it_changes(
    tmp_path: Path, upstreams: tuple[Upstream, Upstream]
) -> None:
    bad, good = upstreams
    bad.when(Reply(status=401), header=("authorization", "Bearer sk-old"))
    setup = rows(bad, good, credential="sk-old")
    one, other = (Gateway(tmp_path, server="uvicorn", **setup) for _ in range(2))
    with one, other:
        assert one.chat("b").headers["x-tokenhub-reason"] == "failover-auth"
        assert seconds_until(lambda: state(other) == 0) < SHARED_SECONDS
        assert other.chat("b").headers["x-tokenhub-model"] == "g"
        one.configure(providers=rows(bad, good, credential="sk-new")["providers"][:1])
        assert seconds_until(lambda: state(one) == state(other) == 2) < 2 * SHARED_SECONDS
        assert {one.chat("b").headers["x-tokenhub-model"], other.chat("b").headers["x-tokenhub-model"]} == {"b"}


def test_workers_probe_each_provider_once_between_them(tmp_path: Path, upstreams: tuple[Upstream, Upstream]) -> None:
    bad, good = upstreams
    bad.default = Reply(status=503)
    gateway = Gateway(tmp_path, workers=2, env={"TOKENHUB_PROBE_SECONDS": "1"}, **rows(bad, good))
    with gateway:
        good.wait_for_requests(6, timeout=30)
        first, *_, sixth = (request.at for request in good.requests[:6])
        assert sixth - first > 3.5  # five if one worker probes, half of that if both do
        assert {(request.method, request.path) for request in good.requests} == {("GET", "/v1/models")}
        bad.wait_for_requests(DOWN_AFTER, timeout=20)
        assert seconds_until(lambda: {state(gateway) for _ in range(8)} == {0}) < 2 * SHARED_SECONDS
        assert gateway.chat("b").headers["x-tokenhub-model"] == "g"
        bad.default = Reply()
        Gateway.wait_until(lambda: gateway.chat("b").headers["x-tokenhub-model"] == "b", seconds=60)


def test_a_stop_ends_probes_that_hang(tmp_path: Path, upstreams: tuple[Upstream, Upstream]) -> None:
    bad, good = upstreams
    bad.default = Reply(fault=Fault.HANG_BEFORE_HEAD)
    with Gateway(tmp_path, env={"TOKENHUB_PROBE_SECONDS": "1"}, **rows(bad, good)) as gateway:
        bad.wait_for_requests(1, timeout=20)
        assert gateway.process is not None
        gateway.process.terminate()
        assert gateway.process.wait(timeout=8) == 0
    assert bad.requests[0].lost.wait(1)
    assert "Traceback" not in gateway.log()


@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
def test_health_is_shared_on_postgresql(tmp_path: Path, upstreams: tuple[Upstream, Upstream]) -> None:
    bad, good = upstreams
    with postgres.Postgres(migrated=True) as database:
        env = {"TOKENHUB_DATABASE_URL": database.url, "TOKENHUB_PROBE_SECONDS": "1"}
        one, other = (Gateway(tmp_path / name, env=env, **rows(bad, good)) for name in ("one", "other"))
        with one, other:
            good.wait_for_requests(2, timeout=20)
            bad.default = Reply(status=503)
            while state(one):
                assert one.chat("b").headers["x-tokenhub-model"] == "g"
            assert seconds_until(lambda: state(other) == 0) < SHARED_SECONDS
            assert "health_not_shared" not in one.log() + other.log()
