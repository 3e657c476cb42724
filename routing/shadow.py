"""Copies of an alias's requests for its shadow variants: asked once, beside the client's answer and never in its way;
what they said goes into the request log and to nobody else. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from providers.formats.errors import InvalidRequest
from routing.attempt import AttemptFailed
from routing.call import Call
from routing.eligibility import expected_cost
from routing.engine import Engine
from routing.errors import ApiError
from routing.identity import new_request_id
from routing.patience import Patience
from routing.pricing import cost_nano
from routing.snapshot import Target
from routing.visit import estimate
from telemetry.journal import Attempt, Entry, Journal
from telemetry.metrics import Metrics

if TYPE_CHECKING:
    from routing.visit import Visit

AT_ONCE: Final = 16
MAX_ANSWER_BYTES: Final = 65_536
REASON: Final = "shadow"
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_STREAMING: Final = frozenset({"stream", "stream_options"})


class Shadows:
    """One per process."""

    def __init__(
        self, *, engine: Engine, journal: Journal, metrics: Metrics, rng: Random, at_once: int = AT_ONCE
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._metrics = metrics
        self._rng = rng
        self._at_once = at_once
        self._under_way: set[asyncio.Task[None]] = set()

    def follow(self, visit: Visit, call: Call) -> None:
        """Sends the copies that are due for a request which has got its answer."""
        if call.alias is None:
            return
        for variant in call.alias.shadows:
            if self._rng.random() >= variant.share or self._engine.rests(variant.target):
                continue
            if len(self._under_way) >= self._at_once:
                self._metrics.shadows_dropped += 1
                continue
            task = asyncio.get_running_loop().create_task(self._ask(visit, call, variant.target))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, visit: Visit, call: Call, target: Target) -> None:
        """Journals what came of it, once, whatever it was."""
        started, at = monotonic(), time_ns() // 1000
        entry = Entry(
            id=new_request_id(),
            at=at,
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
            reason=REASON,
            estimated_cost_nano=expected_cost(target, call.needs),
            tags=list(call.key.tags),
            shadow_of=visit.request_id,
        )
        attempt = Attempt(target.model_id, target.provider.id)
        try:
            copy = replace(
                call,
                envelope=call.dialect.read_envelope(_whole(call.envelope.body)),
                hint=target,
                policy=replace(call.policy, deadline_ms=None),
                patience=Patience(armed=True),
                started_at=started,
                is_strict=False,
                conversation=None,
                lesson=None,
                plain=None,
                attempts=[],
                candidates=[],
                _parsed=None,
            )
            delivery = await self._engine.ask_once(copy, target)
            answer = delivery.answer
            assert answer is not None  # noqa: S101  it asked for no stream
            usage = answer.usage or estimate(
                None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
            )
            entry.status, entry.answer = (
                200,
                answer.body[:MAX_ANSWER_BYTES].decode("utf-8", "replace").replace("\0", ""),
            )
            entry.usage_estimated = answer.usage is None
            entry.input_tokens, entry.output_tokens = usage.input_tokens, usage.output_tokens
            entry.cached_input_tokens, entry.cache_write_tokens = usage.cached_input_tokens, usage.cache_write_tokens
            entry.reasoning_tokens = usage.reasoning_tokens
            entry.cost_nano = cost_nano(target.prices, usage) if target.prices is not None else None
        except AttemptFailed as failure:
            attempt.error_class, attempt.message = failure.error.value, failure.message
            entry.status, entry.error_class = failure.status or 502, failure.error.value
        except (ApiError, InvalidRequest) as problem:
            entry.status, entry.error_code = 400, problem.code
        finally:
            attempt.latency_ms = entry.latency_ms = int((monotonic() - started) * 1000)
            entry.attempt_list = [attempt]
            self._journal.append(entry)


def _whole(body: bytes) -> bytes:
    """The request for a whole answer."""
    fields: dict[str, Any] = {name: value for name, value in _fields(body).items() if name not in _STREAMING}
    return _encode(fields)
