"""A client that waits for a run which something else drives, and is given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration import store, store_durable, worker
from orchestration.models import PlanRun, RunState
from orchestration.plan import Due, Plan
from orchestration.steps import LegResult
from orchestration.threads import PATIENCE_SECONDS, disconnect, in_thread
from routing.errors import ApiError
from tests.orchestration.test_store import KEY, begun
from tests.orchestration.test_store_durable import LEGS


class Driver:
    """Begins the legs, and takes its time."""

    is_up = True

    def __init__(self) -> None:
        self.ended = list[str]()

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def begin(self, plan: Plan) -> None:
        opened = partial(store_durable.open_legs, plan.id, LEGS, again=False)
        self.opening = asyncio.get_running_loop().create_task(in_thread(opened))

    def end(self, run_id: str) -> None:
        self.ended.append(run_id)

    def unattended(self) -> None: ...


class Clumsy:
    """What it raises is a defect, and no fault of the run's."""

    streams = False

    async def began(self, due: Sequence[Due]) -> None:
        raise RuntimeError

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None: ...

    def heard(self, leg: str, text: str) -> None: ...


def test_a_client_is_missed_only_after_its_server_would_have_given_the_database_up() -> None:
    assert store.CLIENT_SECONDS > PATIENCE_SECONDS


@pytest.mark.django_db(transaction=True)
def test_nobody_goes_on_with_a_run_whose_client_was_told_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, driver = begun(is_background=False), Driver()
    PlanRun.objects.all().delete()
    monkeypatch.setattr(worker, "DURABLY", [lambda _: driver])

    async def asked() -> None:
        held: Any = SimpleNamespace()
        made = worker.Worker(held)
        try:
            with pytest.raises(ApiError, match="failed to follow"):
                await made._durably(plan, KEY, Clumsy())
            await driver.opening
        finally:
            await made._following.stop()
            await made.behind.stop()
            await in_thread(disconnect)

    asyncio.run(asked())
    run = PlanRun.objects.get(pk=plan.id)
    assert (run.state, run.sealed_plan, driver.ended) == (RunState.CANCELLED, None, [plan.id])


class Slow:
    """A key with which to begin a run takes time."""

    id, name = KEY.id, KEY.name

    def __init__(self) -> None:
        self.begins, self.goes_on = threading.Event(), threading.Event()

    @property
    def project(self) -> str:
        self.begins.set()
        self.goes_on.wait(20)
        return KEY.project


@pytest.mark.django_db(transaction=True)
def test_a_client_that_leaves_before_its_run_is_accepted_has_begun_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = begun()
    PlanRun.objects.all().delete()
    monkeypatch.setattr(worker, "DURABLY", [])
    key: Any = Slow()

    async def asked() -> None:
        held: Any = SimpleNamespace(journal=SimpleNamespace(holder="one"))
        made = worker.Worker(held)
        monkeypatch.setattr(made, "start", lambda: setattr(made, "_host", "here"))  # takes up nothing beside
        try:
            submitting = asyncio.ensure_future(made.submit(plan, key))
            assert await asyncio.to_thread(key.begins.wait, 20)
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
        finally:
            key.goes_on.set()
            await made.behind.stop()
            await in_thread(disconnect)

    asyncio.run(asked())
    assert PlanRun.objects.get(pk=plan.id).state == RunState.CANCELLED
