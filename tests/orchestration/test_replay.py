"""Histories of earlier runs, recorded by `test_temporal.py`: today's workflow goes the same way through them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from orchestration.registry import MODES
from orchestration.steps import Calls, Directive, Leg, Results, Step
from orchestration.temporal.payloads import CONVERTER
from orchestration.temporal.service import sandbox
from orchestration.temporal.workflow import PlanWorkflow
from tests.support.gateway import ROOT, environment

HISTORIES = Path(__file__).parent / "histories"
REPLAYED_SECRET = "under which the histories of the tests are sealed"


@pytest.fixture(autouse=True)
def secret(settings: Settings) -> None:
    settings.SECRET_KEY = REPLAYED_SECRET


def replayed(file: Path) -> Exception | None:
    replayer = Replayer(workflows=[PlanWorkflow], data_converter=CONVERTER, workflow_runner=sandbox())
    history = WorkflowHistory.from_json(file.stem, json.loads(file.read_text()))
    return asyncio.run(replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


@pytest.mark.parametrize("file", sorted(HISTORIES.glob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_run_is_replayed(file: Path) -> None:
    assert replayed(file) is None


def test_another_order_of_steps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "planning"
        default = least = most = 0
        takes_tools = True

        def step(self, run: Directive, results: Results) -> Step:
            return Calls([Leg("one", "planner"), Leg("two", "planner")])

    mode: Any = Other()
    monkeypatch.setitem(MODES, "planning", mode)
    assert "Nondeterminism" in str(replayed(HISTORIES / "planning.json"))


def test_there_are_histories_of_every_kind_of_run() -> None:
    assert {"adversarial", "chat", "vote", "vote-with-a-ceiling", "refine-fails"} <= {
        one.stem for one in HISTORIES.glob("*")
    }


def test_temporal_is_not_loaded_to_answer_requests(tmp_path: Path) -> None:
    """Not even where it is enabled: there, a thread loads it after the start."""
    script = (
        "import tokenhub.asgi, sys; "
        "print([name for name in sys.modules if name.startswith(('temporalio', 'orchestration.consumers_chat'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(tmp_path, {"TOKENHUB_TEMPORAL_ENABLED": "true"}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
