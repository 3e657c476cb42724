"""A client that waits for a run which something else drives, and is given up."""

from __future__ import annotations

import asyncio
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
