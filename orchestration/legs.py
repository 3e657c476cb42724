"""One leg of a run: a request of its own through the whole of routing, with failover, health, budgets, learning and a
row in the request log, but without an HTTP connection. Whatever comes of it is a result; only cancellation is raised.
Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic, time
from typing import Any, Final

import msgspec
from msgspec import Raw

from keys.auth import KeyRecord
from orchestration.casting import leg_key
from orchestration.plan import CHAT_ENDPOINT, ENDPOINT, Plan, leg_body, leg_error, leg_policy, leg_shape
from orchestration.purse import Funds, LegPurse
from orchestration.steps import Delivered, Leg, LegError, LegResult, StoppedBy, thoughtless
from providers.client import UpstreamFailure
from providers.formats.canonical import TextDelta
from providers.formats.dialect import Usage
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import DIALECTS
from providers.outcomes import classify_failure
from routing.attempt import Delivery, discreet
from routing.call import Call
from routing.chat_texts import messages_of, text_of
from routing.consumers import broken, delivery_headers, drain, formed, learn_size, note_break, prepare
from routing.eligibility import expected_cost
from routing.errors import ApiError
from routing.patience import Patience
from routing.runtime import Runtime
from routing.settling import settle
from routing.shaped import in_shape
from routing.visit import Visit, estimate
from telemetry.logs import EventLogger
from telemetry.tracing import Trace, trace_of

log = EventLogger(__name__)
CHAT: Final = DIALECTS["openai-chat"]
CANCELLED_STATUS: Final = 499
AT_THE_END_SECONDS: Final = 0.05  # before the deadline a failure is taken for its doing
TRACE: Final[ContextVar[Trace | None]] = ContextVar("plan_trace", default=None)
"""Of the run, where tracing is on: each leg is a request within it."""
_SCOPE: Final[dict[str, Any]] = {"method": "POST", "headers": [], "query_string": b"", "client": None}
_any = msgspec.json.Decoder().decode
Hear = Callable[[str], None]
KeyOf = Callable[[], KeyRecord]


class Legs:
    """Of one run. `key_of`: the key that pays, as it is now; raises ApiError when it may not be used any more."""

    def __init__(self, runtime: Runtime, plan: Plan, key_of: KeyOf, funds: Funds) -> None:
        self._runtime = runtime
        self._plan = plan
        self._key_of = key_of
        self._funds = funds

    async def ask(self, leg: Leg, request_id: str, hear: Hear | None = None) -> LegResult:
        """`hear` is told the text as it comes, where it can be."""
        started = monotonic()
        seconds = self._plan.seconds_left(time())
        if seconds is not None and seconds <= 0:
            late = ApiError("upstream_timeout", "The time that was given for the plan is over.", error_class="timeout")
            return LegResult(leg.name, leg.role, model=leg.model, request_id=request_id, error=leg_error(late, "time"))
        endpoint = CHAT_ENDPOINT if self._plan.is_chat else ENDPOINT
        visit = Visit(_SCOPE, _nothing, _nothing, self._runtime, endpoint, CHAT)
        visit.request_id, visit.plan, visit.leg, visit.client_id = request_id, self._plan.id, leg.name, ""
        visit.patience = Patience(armed=True)
        if self._runtime.tracer is not None:
            run = TRACE.get()
            visit.trace = run.child() if run is not None else trace_of(())
        try:
            found = await self._asked(visit, leg, hear)
        except ApiError as error:
            found = self._failed(visit, leg, error)
        except InvalidRequest as problem:
            found = self._failed(visit, leg, ApiError.of(problem))
        except asyncio.CancelledError:
            visit.account(CANCELLED_STATUS)
            raise
        except Exception:
            log.exception("leg_failed", plan=self._plan.id, leg=leg.name)
            found = self._failed(
                visit, leg, ApiError("internal_error", "TokenHub failed at this step; the log says why.")
            )
        finally:
            visit.close()
        return msgspec.structs.replace(
            found, request_id=request_id, attempts=visit.attempts, latency_ms=int((monotonic() - started) * 1000)
        )

    async def _asked(self, visit: Visit, leg: Leg, hear: Hear | None) -> LegResult:
        key = self._key_of()
        restricted = not leg.only and bool(leg.without) and leg.if_possible
        try:
            return await self._answered(visit, leg, key, hear)
        except ApiError as error:
            if not restricted or visit.attempts or error.code not in {"no_eligible_models", "no_models_configured"}:
                raise
        return await self._answered(visit, msgspec.structs.replace(leg, without=[]), key, hear)

    async def _answered(self, visit: Visit, leg: Leg, key: KeyRecord, hear: Hear | None) -> LegResult:
        """Raises ApiError, InvalidRequest."""
        plan = self._plan
        shape = leg_shape(plan, leg)
        is_checked = shape is not None and not leg.schema
        streams = hear is not None and shape is None
        call = self._call(visit, leg, key, stream=streams)
        delivery = await self._runtime.engine.deliver(call)
        visit.target, visit.reason = delivery.target, delivery.reason
        visit.estimated_cost_nano = expected_cost(delivery.target, call.needs)
        if plan.is_chat:
            visit.at_home = delivery.at_home
            if call.alias is not None and call.alias.shadows:
                self._runtime.shadows.follow(visit, call)
        if delivery.relay is not None:
            text, usage, estimated = await self._heard(visit, call, delivery, hear)
            result = LegResult(leg.name, leg.role, text)
        else:
            if is_checked and shape is not None:
                call, delivery = await in_shape(visit, call, delivery, shape)
            answer = delivery.answer
            assert answer is not None  # noqa: S101  it asked for no stream
            estimated = answer.usage is None
            usage = answer.usage or estimate(
                None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
            )
            result = _whole(leg, answer.body, cut_at=delivery.lowered_to)
        settle(visit, call, delivery, usage, has_form=visit.is_valid)
        if not estimated:
            learn_size(visit, call, delivery, usage)
        target = delivery.target
        is_mute = not thoughtless(result.text) and not plan.keeps_body
        error = ApiError("upstream_error", f"{target.model_id} answered without a text.", error_class="transient")
        delivered = _delivered(visit, delivery) if plan.is_chat else None
        cost = visit.account(200, usage=usage, estimated=estimated)
        if result.text and hear is not None and not streams:
            hear(result.text)
        return msgspec.structs.replace(
            result,
            model=target.model_id,
            provider=target.provider.id,
            cost_nano=cost,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            body=result.body if plan.keeps_body else Raw(b"null"),
            error=leg_error(error) if is_mute else None,
            delivered=delivered,
        )

    def _call(self, visit: Visit, leg: Leg, key: KeyRecord, *, stream: bool) -> Call:
        runtime, plan = self._runtime, self._plan
        visit.key = leg_key(key, leg, runtime.snapshot)
        shape = leg_shape(plan, leg)
        visit.shape = None if leg.schema else shape
        policy = leg_policy(plan, leg, now=time(), default_mode=runtime.snapshot.default_policy.mode)
        envelope, visit.plain = formed(CHAT, leg_body(plan, leg, stream=stream), shape)
        call = prepare(visit, envelope, policy)
        if plan.is_chat:
            call.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plan.headers.items()]
            call.query = plan.query.encode("latin-1")
        else:
            call.conversation = None  # each leg finds its own model
        call.is_strict = plan.is_strict
        call.started_at = monotonic()
        visit.purse = call.payer = LegPurse(
            ledger=runtime.ledger,
            budgets=key.budgets,
            fail_open=runtime.money_fail_open,
            funds=self._funds,
            max_tokens=leg.max_tokens,
        )
        return call

    async def _heard(self, visit: Visit, call: Call, delivery: Delivery, hear: Hear | None) -> tuple[str, Usage, bool]:
        """The whole text of a stream, which is told as it comes; and what it took. Raises ApiError."""
        stream, exchange = delivery.relay, delivery.exchange
        assert stream is not None  # noqa: S101  a stream has both
        assert exchange is not None  # noqa: S101
        parser, texts = CHAT.stream_parser(), list[str]()
        idle = self._runtime.stream_idle_timeout
        error: ApiError | None = None
        data, ended = delivery.first, False
        is_clients = False
        """The deadline that the next wait may reach."""
        visit.first_chunk_ms = int((monotonic() - visit.started_at) * 1000)
        try:
            while True:
                for event in parser.feed(data):
                    if isinstance(event, TextDelta) and event.text:
                        texts.append(event.text)
                        if hear is not None:
                            hear(event.text)
                if stream.finished or stream.error is not None or ended:
                    break
                seconds = self._plan.seconds_left(time())
                is_clients = seconds is not None and seconds <= idle
                with visit.patience.within(idle if seconds is None else min(idle, seconds)):
                    chunk = await exchange.chunk()
                ended = not chunk
                data = stream.close() if ended else stream.feed(chunk)
        except TimeoutError:
            error = broken("upstream_timeout", "The provider was silent for too long.", "timeout")
        except UpstreamFailure as failure:
            is_clients = False
            error = broken("upstream_error", failure.message, classify_failure(failure.kind).value)
        except UnreadableAnswer as problem:
            error = broken("upstream_error", f"The provider's stream cannot be read: {problem}", "transient")
        except asyncio.CancelledError:
            usage = estimate(stream.usage, input_tokens=call.needs.input_tokens, produced_bytes=stream.produced_bytes)
            visit.account(CANCELLED_STATUS, usage=usage, estimated=True)
            exchange.close()
            raise
        if error is None and (stream.error is not None or not stream.finished):
            said = discreet(delivery.target, stream.error.message) if stream.error is not None else ""
            error = broken("upstream_error", said or "The provider broke off.", "transient")
        seen = stream.usage
        estimated = seen is None or error is not None
        usage = seen or Usage()
        if estimated:
            usage = estimate(seen, input_tokens=call.needs.input_tokens, produced_bytes=stream.produced_bytes)
        if error is not None:
            if error.error_class != "timeout" or not (is_clients or call.deadline_passed):  # who did not wait longer
                note_break(visit, call, delivery, error)
            visit.add_leg(delivery.target, usage, estimated=True)
            exchange.close()
            raise error
        try:
            if not ended:
                await drain(exchange)
        except asyncio.CancelledError:
            visit.account(CANCELLED_STATUS, usage=usage, estimated=estimated)
            raise
        finally:
            exchange.close()
        return "".join(texts), usage, estimated

    def _failed(self, visit: Visit, leg: Leg, error: ApiError) -> LegResult:
        stopped: StoppedBy = ""
        seconds = self._plan.seconds_left(time())
        if error.code == "budget_exceeded":
            stopped = "money"
        elif seconds is not None and seconds <= AT_THE_END_SECONDS:
            stopped = "time"
        cost = visit.account(error.status, error=error)
        found: LegError = leg_error(error, stopped)
        last = visit.attempts[-1] if visit.attempts else None
        return LegResult(
            leg.name,
            leg.role,
            model=last.model if last is not None else leg.model,
            provider=last.provider if last is not None else "",
            cost_nano=cost,
            error=found,
        )


def _whole(leg: Leg, body: bytes, *, cut_at: int | None) -> LegResult:
    try:
        answer = _any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    messages = messages_of(answer) if isinstance(answer, dict) else []
    texts = [text for message in messages[:1] if (text := text_of(message)) is not None]
    reasons = [one.get("finish_reason") for one in answer["choices"] if isinstance(one, dict)] if messages else []
    is_cut = cut_at is not None and "length" in reasons
    return LegResult(leg.name, leg.role, "".join(texts), Raw(body), is_cut=is_cut)


def _delivered(visit: Visit, delivery: Delivery) -> Delivered:
    headers = {name.decode(): value.decode("latin-1") for name, value in delivery_headers(visit, delivery)}
    return Delivered(visit.reason, visit.estimated_cost_nano, headers)


async def _nothing(*_: Any) -> Any:
    """Of a visit without a connection nobody reads, and nobody writes to it."""
    raise RuntimeError("a leg has no connection")
