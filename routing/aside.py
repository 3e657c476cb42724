"""One model asked beside a client's request and never in its way, for a shadow or a judge: what came of it goes into
the request log, once, whatever it was. The installation pays. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

from keys.ledger import Ledger
from providers.formats.dialect import Answer, Usage
from providers.formats.envelope import Envelope
from providers.formats.errors import InvalidRequest
from routing.attempt import AttemptFailed
from routing.call import Call
from routing.capturing import Captures
from routing.eligibility import expected_cost
from routing.engine import Engine
from routing.errors import ApiError
from routing.identity import new_request_id
from routing.patience import Patience
from routing.pricing import cost_nano
from routing.purse import Purse
from routing.snapshot import Target
from routing.visit import estimate
from telemetry.journal import Attempt, Entry, Journal

if TYPE_CHECKING:
    from routing.visit import Visit


class Asides:
    """So many at once, and no more. `dropped`: is told of each that found no room."""

    def __init__(
        self,
        *,
        engine: Engine,
        journal: Journal,
        ledger: Ledger,
        captures: Captures,
        at_once: int,
        dropped: Callable[[], None],
    ) -> None:
        self._captures = captures
        self._engine = engine
        self._ledger = ledger
        self._journal = journal
        self._at_once = at_once
        self._dropped = dropped
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if len(self._under_way) >= self._at_once:
            self._dropped()
            return
        task = asyncio.get_running_loop().create_task(coroutine())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def rests(self, target: Target) -> bool:
        return self._engine.rests(target)

    async def stop(self) -> None:
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, entry: Entry, call: Call, target: Target) -> Answer | None:
        """The whole answer, or None; the entry tells which, and is in the journal."""
        started, attempt = monotonic(), Attempt(target.model_id, target.provider.id)
        purse: Purse | None = None
        if call.snapshot.budgets:
            purse = call.payer = Purse(ledger=self._ledger, budgets=call.snapshot.budgets)
        try:
            delivery = await self._engine.ask_once(call, target)
            answer = delivery.answer
            assert answer is not None  # noqa: S101  it asked for no stream
            usage = answer.usage or estimate(
                None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
            )
            entry.status = 200
            _charge(entry, target, usage, estimated=answer.usage is None)
            entry.capture = await asyncio.to_thread(
                self._captures.sealed, call.snapshot, entry.id, answer=answer.body, dialect=call.dialect
            )
        except AttemptFailed as failure:
            attempt.error_class, attempt.message = failure.error.value, failure.message
            entry.status, entry.error_class = failure.status or 502, failure.error.value
            if failure.usage is not None:
                _charge(entry, target, failure.usage, estimated=False)
            return None
        except (ApiError, InvalidRequest) as problem:
            entry.status, entry.error_code = 400, problem.code
            return None
        finally:
            attempt.latency_ms = entry.latency_ms = int((monotonic() - started) * 1000)
            entry.attempt_list = [attempt]
            if purse is not None:
                entry.charges = purse.settle(entry.cost_nano or 0)
            self._journal.append(entry)
        return answer


def _charge(entry: Entry, target: Target, usage: Usage, *, estimated: bool) -> None:
    entry.usage_estimated = estimated or usage.is_unlikely
    entry.input_tokens, entry.output_tokens = usage.input_tokens, usage.output_tokens
    entry.cached_input_tokens, entry.cache_write_tokens = usage.cached_input_tokens, usage.cache_write_tokens
    entry.reasoning_tokens, entry.hour_cache_write_tokens = usage.reasoning_tokens, usage.hour_cache_write_tokens
    entry.cost_nano = cost_nano(target.prices, usage) if target.prices is not None else None


def entry_for(visit: Visit, call: Call, target: Target, reason: str) -> Entry:
    """Of a request that is made beside the visit's own. Not answered yet."""
    return Entry(
        id=new_request_id(),
        at=time_ns() // 1000,
        endpoint=visit.endpoint,
        status=503,
        key_id=call.key.id,
        key_name=call.key.name,
        project=call.key.project,
        dialect=call.dialect.name,
        requested_model=visit.requested_model,
        alias=visit.alias,
        model=target.model_id,
        provider=target.provider.id,
        reason=reason,
        estimated_cost_nano=expected_cost(target, call.needs),
        tags=list(call.key.tags),
    )


def beside(call: Call, target: Target, envelope: Envelope, **changes: Any) -> Call:
    """The call of that target alone, without what is the client's own business: its deadline, its demands, its
    lesson, its bill."""
    return replace(
        call,
        envelope=envelope,
        hint=target,
        policy=replace(call.policy, deadline_ms=None),
        patience=Patience(armed=True),
        started_at=monotonic(),
        is_strict=False,
        conversation=None,
        lesson=None,
        plain=None,
        payer=None,
        wasted=None,
        lowered_to=None,
        trace=None,
        attempts=[],
        candidates=[],
        _parsed=None,
        _parsed_plain=None,
        **changes,
    )
