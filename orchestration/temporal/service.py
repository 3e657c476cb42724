"""The process of `manage.py temporal_worker`: a runtime as that of a server's worker, which answers no requests but
does what workflows ask for. Its log, journal, health and budgets are those of the installation."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta
from typing import Final

from django.conf import settings
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orchestration.temporal.activities import Activities
from orchestration.temporal.client import connect
from orchestration.temporal.workflow import PlanWorkflow
from routing.runtime import runtime
from telemetry.logs import EventLogger

log = EventLogger(__name__)
AT_ONCE: Final = 64  # legs
AGAIN_SECONDS: Final = 1.0
GRACE: Final = timedelta(seconds=5)
OURS: Final = ("orchestration", "routing", "providers", "keys", "vault", "telemetry", "msgspec", "temporalio")
"""Not loaded anew for each workflow: modes are pure, which import-linter holds."""


def sandbox() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*OURS))


async def serve() -> None:
    """Until it is told to stop. Raises DatabaseError or OSError when there is nothing to work from."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    held = runtime()
    await held.start()
    try:
        activities = Activities(held)
        while not stop.is_set():
            try:
                await _work(await connect(lazy=False), activities, stop)
            except Exception as problem:  # not there, or not any more
                log.warning("temporal_unreachable", host=settings.TOKENHUB_TEMPORAL_HOST, error=type(problem).__name__)
                await _either(stop, seconds=AGAIN_SECONDS)
    finally:
        await held.stop()


async def _work(client: Client, activities: Activities, stop: asyncio.Event) -> None:
    """Raises whatever ends Temporal's worker."""
    worker = Worker(
        client,
        task_queue=settings.TOKENHUB_TEMPORAL_TASK_QUEUE,
        workflows=[PlanWorkflow],
        activities=[activities.begin, activities.send, activities.record, activities.cancel],
        workflow_runner=sandbox(),
        max_concurrent_activities=AT_ONCE,
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),  # a worker that died holds nobody up
        graceful_shutdown_timeout=GRACE,
    )
    stopping = asyncio.ensure_future(stop.wait())
    working = asyncio.ensure_future(worker.run())
    log.info("temporal_worker_ready", queue=settings.TOKENHUB_TEMPORAL_TASK_QUEUE)
    await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        await worker.shutdown()
    await working


async def _either(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
