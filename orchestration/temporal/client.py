"""Temporal's server, as this project uses it. Loads temporalio."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.conf import settings
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy

from orchestration.temporal.messages import Begun, workflow_id
from orchestration.temporal.payloads import CONVERTER
from orchestration.temporal.workflow import PlanWorkflow

PATIENCE: Final = timedelta(seconds=3)
LONGEST: Final = timedelta(hours=24)


async def connect(*, lazy: bool) -> Client:
    """`lazy`: with the first call. Raises RuntimeError when there is nobody."""
    return await Client.connect(
        settings.TOKENHUB_TEMPORAL_HOST,
        namespace=settings.TOKENHUB_TEMPORAL_NAMESPACE,
        data_converter=CONVERTER,
        lazy=lazy,
    )


async def is_serving(client: Client) -> bool:
    return await client.service_client.check_health(timeout=PATIENCE)


async def start(client: Client, begun: Begun) -> None:
    await client.start_workflow(
        PlanWorkflow.run,
        begun,
        id=workflow_id(begun.run_id),
        task_queue=settings.TOKENHUB_TEMPORAL_TASK_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        execution_timeout=LONGEST,
        rpc_timeout=PATIENCE,
    )


async def cancel(client: Client, run_id: str) -> None:
    await client.get_workflow_handle(workflow_id(run_id)).cancel(rpc_timeout=PATIENCE)
