"""A run's worker is killed with SIGKILL between any two of its steps, under both runners: what was finished is never
asked again, what was under way once at most, and both attempts are on record.

The boundaries are made by the world around the worker: a provider that takes a connection and never reads, or a
database that refuses one kind of write. So it is killed at the very place, however fast or slow the machine is."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import test_temporal as driven
from tests.orchestration.script import PRICES, legs_of, nano, plan, said
from tests.orchestration.test_background import begin, ended, shown, worker_of
from tests.orchestration.test_temporal import DURABLY, row_of
from tests.support.gateway import KEY, Gateway, free_port
from tests.support.temporal import Temporal, TemporalWorker, why_not
from tests.support.upstream import Upstream

LEGS = ("plan", "critique-1", "refine-1")
temporal, server, upstream = driven.temporal, driven.server, driven.upstream


DEAF = free_port()
"""Of a provider that takes connections and reads nothing, until another one is started there."""


def made(server: Upstream, folder: Path, *, workers: int, **env: str) -> Gateway:
    return Gateway(
        folder,
        providers=[
            {"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]},
            {"id": "deaf", "type": "openai", "base_url": f"http://127.0.0.1:{DEAF}", "dialects": ["openai-chat"]},
        ],
        models=[
            *({"id": name, "provider_id": "chat", "weight": 5, **PRICES} for name in ("a", "b")),
            {"id": "deaf", "provider_id": "deaf", "weight": 0, **PRICES},
        ],
        keys=[{"key": KEY}],
        workers=workers,
        env=env,
    )


class Killing:
    """Of the process that works on a run, so that another one goes on."""

    def __init__(self, gateway: Gateway, workers: list[TemporalWorker]) -> None:
        self.gateway = gateway
        self._workers = workers

    @property
    def is_durable(self) -> bool:
        return bool(self._workers)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self.gateway.stop()

    def kill(self, run_id: str) -> None:
        if not self._workers:
            os.kill(worker_of(self.gateway, run_id), signal.SIGKILL)
            return
        self._workers.append(TemporalWorker(self.gateway).start().wait_until_ready())
        self._workers[-2].kill()


@pytest.fixture(scope="module")
def by_runner() -> Iterator[dict[str, Killing]]:
    made_so_far: dict[str, Killing] = {}
    yield made_so_far
    for one in made_so_far.values():
        one.stop()


@pytest.fixture
def killing(
    request: pytest.FixtureRequest,
    by_runner: dict[str, Killing],
    server: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
    runner: str,
) -> Killing:
    if runner not in by_runner:
        folder = tmp_path_factory.mktemp(runner)
        if runner == DURABLY:
            running: Temporal = request.getfixturevalue("temporal")
            gateway = made(server, folder, workers=1, **running.env).__enter__()
            by_runner[runner] = Killing(gateway, [TemporalWorker(gateway).start().wait_until_ready()])
        else:
            by_runner[runner] = Killing(made(server, folder, workers=2).__enter__(), [])
    if runner == DURABLY:
        driven.wait_for_temporal(by_runner[runner].gateway)
    return by_runner[runner]


def refuse(gateway: Gateway, what: str) -> None:
    """A kind of write. Every try of it is undone as a whole."""
    gateway.execute(f"CREATE TRIGGER refusal BEFORE UPDATE ON {what} BEGIN SELECT RAISE(ABORT, 'not now'); END")


def allow(gateway: Gateway) -> None:
    gateway.execute("DROP TRIGGER refusal")


def check(killing: Killing, run_id: str, *, lost: str, priced: int) -> None:
    """`lost`: the leg whose first attempt was; `priced`: rows of legs in the log."""
    found = ended(killing.gateway, run_id, seconds=60)
    assert found["status"] == "completed", found
    assert found["result"]["response"]["refined_plan"] == "Better.", found
    wanted: list[tuple[str, int, str]] = []
    for name in LEGS:
        wanted += [(name, 1, "lost"), (name, 2, "completed")] if name == lost else [(name, 1, "completed")]
    assert [(leg["leg"], leg["attempt"], leg["status"]) for leg in found["legs"]] == wanted
    assert (row_of(killing.gateway, run_id)["host"] == DURABLY) == killing.is_durable
    assert sum(nano(one["cost_usd"]) for one in legs_of(killing.gateway, run_id, priced)) == nano(found["cost_usd"])


def place(runner: str, which: Any, *, short: bool) -> Any:
    marks = [] if short else [pytest.mark.slow]
    if runner == DURABLY:
        marks.append(pytest.mark.skipif(bool(why_not()), reason=why_not()))
    return pytest.param(runner, which, marks=marks, id=f"{runner}-{which}")


ANSWERED = [
    place(runner, leg, short=(runner, leg) == ("in-process", 1))
    for runner in ("in-process", DURABLY)
    for leg in range(3)
]
UNHEARD = [
    place(runner, leg, short=(runner, leg) == ("in-process", 1)) for runner in ("in-process", DURABLY) for leg in (0, 1)
]
ENDING = [place(runner, "end", short=runner == "in-process") for runner in ("in-process", DURABLY)]


@pytest.mark.parametrize(("runner", "leg"), ANSWERED)
def test_killed_when_a_leg_was_answered_and_before_that_is_kept(killing: Killing, upstream: Upstream, leg: int) -> None:
    """The answer is lost with the worker: the leg is asked once more, and what the first one cost is on record."""
    gateway, replies = killing.gateway, [said("The plan."), said("A flaw."), said("Better.")]
    upstream.next(*replies[: leg + 1], *replies[leg:])
    refuse(gateway, f"orchestration_planleg WHEN NEW.state = 'completed' AND NEW.name = '{LEGS[leg]}'")
    run_id = begin(gateway, "adversarial", review_model_id="b")
    legs_of(gateway, run_id, leg + 1)  # the worker has written down what it cost, so it has the answer
    killing.kill(run_id)
    allow(gateway)
    check(killing, run_id, lost=LEGS[leg], priced=4)
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(("runner", "leg"), UNHEARD)
def test_killed_when_a_leg_is_kept_and_before_the_next_is_heard_of(
    killing: Killing, upstream: Upstream, leg: int
) -> None:
    """Nobody is asked twice: the first attempt reached no provider."""
    gateway = killing.gateway
    models = {"primary_model_id": "a", "review_model_id": "deaf"} if leg else {"primary_model_id": "deaf"}
    with socket.create_server(("127.0.0.1", DEAF)):
        upstream.next(said("The plan."), said("Better.")) if leg else upstream.next(said("A flaw."))
        run_id = plan(gateway, "adversarial", background=True, **{"review_model_id": "b", **models}).json()["id"]
        now = ["completed"] * leg + ["running"]
        gateway.wait_until(lambda: [one["status"] for one in shown(gateway, run_id)["legs"]] == now)
        killing.kill(run_id)
    with Upstream(port=DEAF) as heard:
        heard.next(said("A flaw.")) if leg else heard.next(said("The plan."), said("Better."))
        check(killing, run_id, lost=LEGS[leg], priced=3)
        assert len(heard.requests) + len(upstream.requests) == 3


@pytest.mark.parametrize(("runner", "step"), ENDING)
def test_killed_when_all_legs_are_kept_and_before_the_end_is(killing: Killing, upstream: Upstream, step: str) -> None:
    """No leg is asked again: whoever goes on writes down the end."""
    gateway = killing.gateway
    upstream.next(said("The plan."), said("A flaw."), said("Better."))
    refuse(gateway, "orchestration_planrun WHEN NEW.state = 'completed'")
    run_id = begin(gateway, "adversarial", review_model_id="b")
    gateway.wait_until(lambda: [leg["status"] for leg in shown(gateway, run_id)["legs"]] == ["completed"] * 3)
    killing.kill(run_id)
    allow(gateway)
    check(killing, run_id, lost="", priced=3)
    assert len(upstream.requests) == 3
