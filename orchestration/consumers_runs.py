"""`GET` and `DELETE /v1/plan/{id}`: how a run in the background stands, what came of it, and its end. Only the key that
started it sees it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from django.db.utils import DatabaseError
from msgspec import Raw

from orchestration import store, store_shown
from orchestration.consumers import completed, end_with, event, send
from orchestration.models import OPEN_STATES, LegState, PlanLeg, RunState
from orchestration.plan import answer_of, api_error
from orchestration.steps import Done, Failed
from orchestration.store_shown import View
from orchestration.threads import in_thread
from orchestration.worker import worker
from routing.consumers import EVENT_STREAM, KEEP_ALIVE, Endpoint
from routing.errors import ApiError
from routing.visit import Visit, client_error
from vault.errors import Damaged

PREFIX: Final = "/v1/plan/"
LOOK_SECONDS: Final = 0.25
_encode = msgspec.json.Encoder().encode


class PlanRuns(Endpoint):
    path = "/v1/plan/{id}"
    methods = ("GET", "DELETE")
    scopes = ("plan",)

    async def answer(self, visit: Visit) -> None:
        self.require_key(visit)
        await visit.admitted()
        await visit.body()
        visit.watch_client()
        worker().start()
        run_id = _id_of(visit)
        if visit.scope["method"] == "DELETE":
            await self._cancel(visit, run_id)
            return
        found = await self._find(visit, run_id)
        if _wants_stream(visit):
            await self._follow(visit, run_id, found)
            return
        await visit.respond_json(200, _encode(_shown(found)))

    async def _find(self, visit: Visit, run_id: UUID) -> View:
        """Raises ApiError."""
        assert visit.key is not None  # noqa: S101  require_key found one
        try:
            found = await in_thread(partial(store_shown.view, run_id, key_id=visit.key.id))
        except DatabaseError:
            raise ApiError("overloaded", "The database does not answer.", retry_after_seconds=2) from None
        except Damaged:
            raise ApiError(
                "internal_error", "What is kept of this plan cannot be read; its operator changed the server's secret."
            ) from None
        if found is None:
            raise _nowhere()
        return found

    async def _cancel(self, visit: Visit, run_id: UUID) -> None:
        await self._find(visit, run_id)
        assert visit.key is not None  # noqa: S101
        try:
            await in_thread(partial(store.cancel, run_id, key_id=visit.key.id))
        except DatabaseError:
            raise ApiError("overloaded", "The database does not answer.", retry_after_seconds=2) from None
        worker().drop(str(run_id))
        found = await self._find(visit, run_id)
        visit.account(200)
        await visit.respond_json(200, _encode(_shown(found)))

    async def _follow(self, visit: Visit, run_id: UUID, found: View) -> None:
        """Steps that were taken already, those that are taken, and the result."""
        visit.stream = True
        await visit.start(200, [*visit.base_headers(), *EVENT_STREAM])
        begun, ended = set[int](), set[int]()
        silent_seconds = 0.0
        while True:
            data = b"".join(_steps(found, begun, ended))
            if found.run.state not in OPEN_STATES:
                break
            silent_seconds += LOOK_SECONDS
            if data or silent_seconds >= (visit.runtime.stream_keepalive or 3600):
                silent_seconds = 0.0
                await send(visit, data or KEEP_ALIVE)
            await asyncio.sleep(LOOK_SECONDS)
            found = await self._find(visit, run_id)
        if data:
            await send(visit, data)
        outcome = found.outcome
        if found.run.state == RunState.CANCELLED:
            visit.account(200)
            await visit.send(event("cancelled", _shown(found)), more=False)
        elif outcome is not None and isinstance(outcome.step, Failed):
            await end_with(visit, api_error(outcome.step.error))
        else:
            visit.account(200)
            await visit.send(event("result", bytes(_result(found) or b"null")), more=False)


def _id_of(visit: Visit) -> UUID:
    """Raises ApiError."""
    try:
        return UUID(visit.scope["path"].removeprefix(PREFIX).strip("/"))
    except ValueError:
        raise _nowhere() from None


def _nowhere() -> ApiError:
    return ApiError(
        "not_found",
        "This client key has started no such plan in the background, or it is kept no longer.",
        hint='Send the id that the answer to "background": true gave.',
    )


def _wants_stream(visit: Visit) -> bool:
    query = dict(parse_qsl(visit.scope["query_string"].decode("latin-1")))
    return query.get("stream", "").lower() in {"true", "1"}


# -- what is shown -----------------------------------------------------------------------------------------------------
def _shown(found: View) -> dict[str, Any]:
    run = found.run
    return {
        "id": str(run.pk),
        "status": run.state,
        "mode": run.mode,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "expires_at": run.expires_at,
        "estimated_cost_usd": _float(run.estimated_cost_usd),
        "cost_usd": _float(run.cost_usd),
        "partial": run.is_partial,
        "legs": [_leg(one) for one in found.legs],
        "result": _result(found),
        "error": _error(found),
        "request_id": str(run.pk),
    }


def _leg(leg: PlanLeg) -> dict[str, Any]:
    return {
        "leg": leg.name,
        "role": leg.role,
        "status": leg.state,
        "attempt": leg.attempt,
        "model": leg.model_id or None,
        "provider": leg.provider_id or None,
        "cost_usd": _float(leg.cost_usd),
        "latency_ms": leg.latency_ms,
        "started_at": leg.started_at,
        "finished_at": leg.finished_at,
        "request_id": str(leg.request_id),
        "error": leg.error_code or None,
    }


def _float(amount: Any) -> float | None:
    return None if amount is None else float(amount)


def _result(found: View) -> Raw | None:
    if found.outcome is None or found.plan is None or not isinstance(found.outcome.step, Done):
        return None
    return Raw(answer_of(found.plan, found.outcome))


def _error(found: View) -> dict[str, Any] | None:
    if found.outcome is None or not isinstance(found.outcome.step, Failed):
        return None
    shown = client_error(api_error(found.outcome.step.error), str(found.run.pk))
    return {
        "message": shown.message, "type": shown.type, "param": shown.param, "code": shown.code, "hint": shown.hint,
        "details": shown.details,
    }  # fmt: skip


def _steps(found: View, begun: set[int], ended: set[int]) -> list[bytes]:
    """Events of legs that were not told yet."""
    told = []
    for leg in found.legs:
        if leg.pk not in begun:
            begun.add(leg.pk)
            told.append(event("leg_started", {"leg": leg.name, "role": leg.role, "model": leg.model_id or None}))
        if leg.state != LegState.RUNNING and leg.pk not in ended:
            ended.add(leg.pk)
            told.append(completed(store_shown.said(leg)))
    return told
