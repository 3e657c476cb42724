"""A Temporal of one's own for a test: its development server in a temporary folder on a free port, ended by its process
id, and started again on the same data. Or the one at TOKENHUB_TEST_TEMPORAL_ADDRESS; tests that stop it are skipped
then. And `manage.py temporal_worker`, as processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from secrets import token_hex
from typing import Self

import pytest
from temporalio.client import Client, WorkflowHistory

from orchestration.temporal.messages import Progress, workflow_id
from orchestration.temporal.payloads import CONVERTER
from orchestration.temporal.workflow import PlanWorkflow
from tests.support.gateway import ROOT, Gateway, environment, free_port

GIVEN = os.environ.get("TOKENHUB_TEST_TEMPORAL_ADDRESS", "")
BINARY = os.environ.get("TOKENHUB_TEST_TEMPORAL_BINARY", "") or shutil.which("temporal") or ""


def why_not() -> str:
    """Empty when there is one, or can be."""
    if GIVEN or BINARY:
        return ""
    return (
        "temporal is not on PATH (go install github.com/temporalio/cli/cmd/temporal@v1.5.1), nor is "
        "TOKENHUB_TEST_TEMPORAL_BINARY or TOKENHUB_TEST_TEMPORAL_ADDRESS set"
    )


class Temporal:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tokenhub-temporal-"))
        self.port = free_port()
        self.address = GIVEN or f"127.0.0.1:{self.port}"
        self.queue = f"tests-{token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {
            "TOKENHUB_TEMPORAL_ENABLED": "true",
            "TOKENHUB_TEMPORAL_HOST": self.address,
            "TOKENHUB_TEMPORAL_TASK_QUEUE": self.queue,
        }

    @property
    def database(self) -> Path:
        return self.folder / "temporal.sqlite3"

    def start(self) -> None:
        if GIVEN:
            return
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    BINARY, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port),
                    "--db-filename", str(self.database), "--log-level", "error",
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        Gateway.wait_until(self._listens, seconds=60)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def history(self, run_id: str) -> WorkflowHistory:
        """As the server has it: whatever was sealed still is."""

        async def fetched() -> WorkflowHistory:
            client = await Client.connect(self.address)
            return await client.get_workflow_handle(workflow_id(run_id)).fetch_history()

        return asyncio.run(fetched())

    def progress(self, run_id: str) -> Progress:
        """For a gateway that has the secret of this process."""

        async def asked() -> Progress:
            client = await Client.connect(self.address, data_converter=CONVERTER)
            return await client.get_workflow_handle(workflow_id(run_id)).query(PlanWorkflow.progress)

        return asyncio.run(asked())

    def cancel(self, run_id: str) -> None:
        """As in Temporal's own pages."""

        async def asked() -> None:
            client = await Client.connect(self.address)
            await client.get_workflow_handle(workflow_id(run_id)).cancel()

        asyncio.run(asked())

    def status(self, run_id: str) -> str:
        async def asked() -> str:
            client = await Client.connect(self.address)
            found = (await client.get_workflow_handle(workflow_id(run_id)).describe()).status
            return "" if found is None else found.name

        return asyncio.run(asked())

    def stop(self) -> None:
        """At once."""
        if GIVEN:
            pytest.skip("it stops the server, and TOKENHUB_TEST_TEMPORAL_ADDRESS is somebody's")
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not GIVEN:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class TemporalWorker:
    """On the data of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.log_path = gateway.folder / f"temporal-{token_hex(4)}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "temporal_worker"],
                cwd=ROOT, env=environment(self._gateway.folder, self._gateway.env), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self

    def wait_until_ready(self) -> Self:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the worker ended: {self.log()[-3000:]}"
            return "temporal_worker_ready" in self.log()

        Gateway.wait_until(ready, seconds=60)
        return self

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self._end("kill")

    def stop(self) -> None:
        self._end("terminate")

    def _end(self, how: str) -> None:
        if self.process is None:
            return
        getattr(self.process, how)()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=20)
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
