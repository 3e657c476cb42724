"""The chat endpoints of /v1. Channels consumers that do their own dispatch: a bounded body, no loop per request, and
cancellation when the client leaves."""

from __future__ import annotations

import asyncio
import re
from time import monotonic, time
from typing import Any, ClassVar

import msgspec
from channels.generic.http import AsyncHttpConsumer
from django.db.utils import DatabaseError

from keys.auth import AuthError, authenticate
from providers.client import UpstreamFailure
from providers.formats.base import Dialect
from providers.formats.dialect import Usage
from providers.formats.envelope import Envelope, model_named
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import DIALECTS
from providers.outcomes import ErrorClass, classify_failure
from routing.affinity import Conversation, conversation
from routing.asking import in_words, natively
from routing.attempt import Delivery, discreet
from routing.call import Call, forwardable_headers, forwardable_query
from routing.capturing import Capture
from routing.directives import MARK, taken_from_body
from routing.eligibility import expected_cost, needs_of, needs_of_embedding
from routing.errors import ApiError
from routing.idempotency import HEADER as IDEMPOTENCY
from routing.idempotency import answer_once
from routing.learning import MODE as THOMPSON
from routing.learning import Lesson, lesson_of
from routing.policy import Policy, choose, from_headers
from routing.pricing import dollars
from routing.runtime import runtime
from routing.settling import settle
from routing.shaped import in_shape, mismatch, require_usable
from routing.shaped_stream import ShapedStream, without_last_event
from routing.shaping import Shape
from routing.snapshot import Target
from routing.visit import ClientLeft, ResponseHeaders, Visit, client_error, estimate
from telemetry.logs import REQUEST_ID, EventLogger
from telemetry.tracing import trace_of

log = EventLogger(__name__)
CLIENT_LEFT_STATUS = 499
DRAIN_SECONDS = 0.5
MAX_NAMES_SHOWN = 40
MAX_NAME_SHOWN = 80
_NOT_IN_HEADERS = re.compile(r"[^\x21-\x2b\x2d-\x7e]")
KEEP_ALIVE = b": keep-alive\n\n"
EVENT_STREAM: ResponseHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_PREFLIGHT: ResponseHeaders = [
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"*, authorization"),
    (b"access-control-max-age", b"600"),
]


class Endpoint(AsyncHttpConsumer):  # type: ignore[misc]  # channels has no type information
    """What every /v1 endpoint shares: runtime, address limit, errors in the client's dialect, one journal entry."""

    path: ClassVar[str] = ""
    methods: ClassVar[tuple[str, ...]] = ("POST",)
    dialect: ClassVar[Dialect] = DIALECTS["openai-chat"]
    scopes: ClassVar[tuple[str, ...]] = ("chat",)
    is_repeatable: ClassVar[bool] = True
    refusals: ClassVar = (ApiError, AuthError, InvalidRequest)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        held = runtime()
        if not held.ready:
            try:
                await held.start()
            except (DatabaseError, OSError) as problem:
                await _not_ready(send, self.dialect, type(problem).__name__)
                return
        visit = Visit(scope, receive, send, held, self.path, self.dialect)
        REQUEST_ID.set(visit.request_id)
        if held.tracer is not None:
            visit.trace = trace_of(scope["headers"])
        held.metrics.in_flight += 1
        try:
            await self._guarded(visit)
        except asyncio.CancelledError:
            visit.account(CLIENT_LEFT_STATUS if visit.client_left else 503)
            if not visit.client_left:
                raise
        except ClientLeft:
            visit.account(CLIENT_LEFT_STATUS)
        except Exception:
            log.exception("request_failed", endpoint=self.path)
            await visit.fail(ApiError("internal_error", "TokenHub failed to answer this request. The log says why."))
        finally:
            held.metrics.in_flight -= 1
            visit.close()

    async def _guarded(self, visit: Visit) -> None:
        """Every refusal becomes the error of the contract here."""
        try:
            method = visit.scope["method"]
            if method == "OPTIONS" and b"origin" in visit.headers:
                await visit.respond(204, b"", visit.base_headers() + _PREFLIGHT)
                return
            if wait := visit.runtime.addresses.take(visit.address, visit.started_at):
                raise visit.address_refusal(wait)
            visit.is_noted = False
            if method not in self.methods:
                message = f"{self.path} takes {' and '.join(self.methods)}, not {method}."
                raise ApiError("method_not_allowed", message, allow=self.methods)
            if IDEMPOTENCY in visit.headers and method == "POST" and self.is_repeatable:
                await answer_once(self, visit)
            else:
                await self.answer(visit)
        except self.refusals as problem:
            await self.refuse(visit, problem)

    async def refuse(self, visit: Visit, problem: ApiError | AuthError | InvalidRequest) -> None:
        match problem:
            case AuthError():
                visit.key = problem.record
                problem = ApiError(problem.code, problem.message, hint=problem.hint)
            case InvalidRequest():
                problem = ApiError.of(problem)
        await visit.fail(problem)

    async def answer(self, visit: Visit) -> None:
        raise NotImplementedError

    def require_key(self, visit: Visit, *, counts: bool = True) -> None:
        """One of the scopes is enough. `counts`: at once, towards the key's limits; `visit.admitted` must follow.
        Raises AuthError, ApiError."""
        key = visit.key = authenticate(visit.runtime.snapshot.keys, visit.headers, now=time())
        if not any(key.has_scope(scope) for scope in self.scopes):
            raise ApiError(
                "scope_not_allowed",
                f"This client key lacks the scope {self.scopes[0]!r}.",
                hint="Use another key, or ask the operator for the scope.",
            )
        if counts and (key.limits or visit.runtime.shared_limits is not None):
            visit.admit(key)

    @staticmethod
    def require_journal(visit: Visit) -> None:
        """Raises ApiError."""
        if visit.runtime.journal.is_full:
            raise ApiError(
                "accounting_unavailable",
                "No request can be recorded at the moment: the disk takes no journal.",
                hint="Try again later; the operator must make room.",
                retry_after_seconds=5,
            )

    def capture(self, visit: Visit, body: bytes) -> None:
        """Where the client key, or its project, wants it."""
        if visit.key is not None and visit.key.capture:
            visit.capture = Capture(visit.runtime.captures, visit.runtime.snapshot, self.dialect, body)


class Chat(Endpoint):
    """A chat completion in one dialect, whole or streamed."""

    async def answer(self, visit: Visit) -> None:
        call = await self.call(visit)
        delivery = await visit.runtime.engine.deliver(call)
        visit.target, visit.reason, visit.at_home = delivery.target, delivery.reason, delivery.at_home
        visit.estimated_cost_nano = expected_cost(delivery.target, call.needs)
        if (events := visit.runtime.events).wanted[0]:
            visit.announce(events)
        if call.alias is not None and call.alias.shadows:
            visit.runtime.shadows.follow(visit, call)
        if delivery.relay is None:
            if call.shape is not None:
                call, delivery = await in_shape(visit, call, delivery, call.shape)
            await self._whole(visit, call, delivery)
        else:
            await self._streamed(visit, call, delivery)

    async def call(self, visit: Visit) -> Call:
        """What is asked for, by whom. Raises AuthError, ApiError, InvalidRequest, ClientLeft."""
        self.require_key(visit, counts=False)
        self.require_journal(visit)
        body = await visit.body()
        visit.watch_client()
        self.capture(visit, body)
        try:
            envelope, policy = self.read(visit, body)
            if visit.shape is not None:
                await require_usable(visit.shape)
        except (ApiError, InvalidRequest):
            visit.requested_model = self.named(body)
            raise
        call = prepare(visit, envelope, policy)
        if visit.ticket is not None:
            await visit.admitted()
        return call

    @staticmethod
    def named(body: bytes) -> str:
        """The model, for the log, by a body that is refused."""
        return model_named(body)[:200]

    def read(self, visit: Visit, body: bytes) -> tuple[Envelope, Policy]:
        policy = from_headers(visit.runtime.snapshot.default_policy, visit.headers, visit.runtime.snapshot.profiles)
        body, policy = self.obey(visit, body, policy)
        return self.envelope(visit, body), policy

    def envelope(self, visit: Visit, body: bytes) -> Envelope:
        """With the form that its answer must have, where it must have one. Raises InvalidRequest."""
        envelope, visit.plain = formed(self.dialect, body, visit.shape)
        return envelope

    def obey(self, visit: Visit, body: bytes, policy: Policy) -> tuple[bytes, Policy]:
        """What directives in its text ask for; they go no further. Raises ApiError."""
        if MARK not in body or visit.key is None or not visit.key.allow_directives or self.dialect.family != "chat":
            return body, policy
        body, found = taken_from_body(body, self.dialect.name)
        if found is not None:
            policy = found.apply(policy, visit.runtime.snapshot.profiles)
            if (schema := found.output_schema) is not None:
                visit.shape = Shape("json", msgspec.json.encode(schema), param="output_schema")
        return body, policy

    def shape(self, visit: Visit, body: bytes, cost: int | None) -> bytes:
        """The last say over a whole answer's body."""
        return body

    async def _whole(self, visit: Visit, call: Call, delivery: Delivery) -> None:
        answer = delivery.answer
        assert answer is not None  # noqa: S101  a delivery has an answer or a relay
        usage = answer.usage or estimate(
            None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
        )
        settle(visit, call, delivery, usage, has_form=visit.is_valid)
        if visit.capture is not None:
            await visit.captured(answer.body)
        told = delivery_headers(visit, delivery)
        cost = visit.account(200, usage=usage, estimated=answer.usage is None, answer_follows=True)
        if answer.usage is not None:
            learn_size(visit, call, delivery, usage)
        headers = visit.base_headers() + told
        headers.append((b"content-type", b"application/json"))
        if cost is not None:
            headers.append((b"x-tokenhub-cost-usd", dollars(cost).encode("ascii")))
        await visit.respond(200, self.shape(visit, answer.body, cost), headers)

    async def _streamed(self, visit: Visit, call: Call, delivery: Delivery) -> None:
        """Passes on what arrives. The request is journalled before the bytes that hold the stream's end go out."""
        stream, exchange = delivery.relay, delivery.exchange
        assert stream is not None  # noqa: S101
        assert exchange is not None  # noqa: S101
        idle = visit.runtime.stream_idle_timeout
        try:
            visit.first_chunk_ms = int((monotonic() - visit.started_at) * 1000)
            ended = False
            error: ApiError | None = None
            headers = visit.base_headers() + delivery_headers(visit, delivery) + EVENT_STREAM
            if not stream.finished:
                await visit.start(200, headers)
            try:
                ended = await self._pass_on(visit, delivery)
            except TimeoutError:
                error = broken("upstream_timeout", f"The provider was silent for {idle:g} seconds.", "timeout")
            except UpstreamFailure as failure:
                error = broken("upstream_error", failure.message, classify_failure(failure.kind).value)
            except UnreadableAnswer as problem:
                error = broken("upstream_error", f"The provider's stream cannot be read: {problem}", "transient")
            if error is None and stream.error is not None:
                said = discreet(delivery.target, stream.error.message)
                error = broken("upstream_error", said or "The provider broke off.", "transient")
            elif error is None and not stream.finished:
                error = broken("upstream_error", "The provider ended its stream in mid-answer.", "transient")
            usage = stream.usage
            estimated = usage is None or error is not None
            if estimated:
                usage = estimate(usage, input_tokens=call.needs.input_tokens, produced_bytes=stream.produced_bytes)
            if error is None and usage is not None:
                if isinstance(stream, ShapedStream) and (verdict := await stream.verdict()) is not None:
                    visit.is_valid = not verdict.problems
                    if verdict.problems:
                        error, delivery.first = mismatch(verdict), without_last_event(delivery.first)
                settle(visit, call, delivery, usage, has_form=visit.is_valid)
            else:
                note_break(visit, call, delivery, error)
            if visit.capture is not None:
                visit.capture.streamed(delivery.first)
                await visit.capture.prepare(visit.request_id)
            visit.account(200 if error is None else error.status, usage=usage, estimated=estimated, error=error)
            if usage is not None and not estimated:
                learn_size(visit, call, delivery, usage)
            data = delivery.first
            if error is not None:
                data += stream.fail(client_error(error, visit.client_id or visit.request_id))
            if not visit.started:
                await visit.start(200, headers)
            visit.leave()  # whoever has all of it may ask again, though its provider takes its time to close
            await visit.send(data, more=False)
            if error is None and not ended:
                await drain(exchange)
        except asyncio.CancelledError:
            usage = estimate(stream.usage, input_tokens=call.needs.input_tokens, produced_bytes=stream.produced_bytes)
            visit.account(200 if visit.client_left else 503, usage=usage, estimated=True)
            raise
        finally:
            exchange.close()

    async def _pass_on(self, visit: Visit, delivery: Delivery) -> bool:
        """Until the stream has ended, in whatever way; what is not sent yet is left in `delivery.first`. Whether the
        provider has closed it. Raises TimeoutError for a silent provider, UpstreamFailure, UnreadableAnswer."""
        stream, exchange = delivery.relay, delivery.exchange
        assert stream is not None  # noqa: S101  a stream has both
        assert exchange is not None  # noqa: S101
        idle = visit.runtime.stream_idle_timeout
        pause = min(idle, visit.runtime.stream_keepalive or idle)
        silent_seconds = 0.0
        blocked_on_client = False
        while True:
            try:
                with visit.patience.within(pause):
                    while not stream.finished and stream.error is None:
                        if delivery.first:
                            if visit.capture is not None and not blocked_on_client:
                                visit.capture.streamed(delivery.first)
                            blocked_on_client = True
                            await visit.send(delivery.first, more=True)
                            blocked_on_client, delivery.first = False, b""
                        visit.patience.renew(pause)
                        chunk = await exchange.chunk()
                        silent_seconds = 0.0
                        if not chunk:
                            delivery.first = stream.close()
                            return True
                        delivery.first = stream.feed(chunk)
                    return False
            except TimeoutError:
                silent_seconds += pause
                if silent_seconds >= idle:
                    if not blocked_on_client:
                        raise
                    visit.client_left = True
                    raise asyncio.CancelledError from None
                if blocked_on_client:
                    continue  # servers write when there is room again: nothing of it was written yet
            delivery.first = KEEP_ALIVE


class ChatCompletions(Chat):
    path = "/v1/chat/completions"
    dialect = DIALECTS["openai-chat"]


class Messages(Chat):
    path = "/v1/messages"
    dialect = DIALECTS["anthropic-messages"]


class Responses(Chat):
    path = "/v1/responses"
    dialect = DIALECTS["openai-responses"]


class Embeddings(Chat):
    path = "/v1/embeddings"
    dialect = DIALECTS["openai-embeddings"]
    scopes = ("embeddings", "chat")


def formed(dialect: Dialect, body: bytes, shape: Shape | None) -> tuple[Envelope, Envelope | None]:
    """The request with the form that its answer must have; and the same in words, for targets that cannot be made to
    keep it, where others can. Raises InvalidRequest."""
    envelope = dialect.read_envelope(body)
    if shape is None or not shape.kind:
        return envelope, None
    plain = dialect.read_envelope(in_words(body, dialect.name, shape))
    if shape.kind != "json":
        return plain, None
    return dialect.read_envelope(natively(body, dialect.name, shape)), plain


def prepare(visit: Visit, envelope: Envelope, policy: Policy) -> Call:
    """Who is to answer what, before anybody is asked; `visit.admitted` must follow. Raises ApiError."""
    key = visit.key
    assert key is not None  # noqa: S101  the endpoint asked for one
    snapshot = visit.runtime.snapshot
    visit.stream = envelope.stream
    visit.requested_model = envelope.model[:200]
    engine = visit.runtime.engine
    chosen = choose(snapshot, envelope.model, policy, key)
    policy, hint, alias = chosen.policy, chosen.hint, chosen.alias
    variants: tuple[Target, ...] = ()
    talk: Conversation | None = None
    if hint is None:
        talk = conversation(key.id, envelope.raw("system"), envelope.turns)
    if alias is not None:
        hint = engine.variants.pick(alias, key.id, talk, snapshot.targets)
        rest = sorted((one for one in alias.variants if one.target is not hint), key=lambda one: -one.share)
        variants = tuple(one.target for one in rest)
    visit.mode = policy.mode if hint is None else ""
    visit.alias = alias.name if alias is not None else ""
    lesson: Lesson | None = None
    plain = visit.plain
    needs = needs_of_embedding(envelope) if visit.dialect.family == "embeddings" else needs_of(envelope)
    if plain is not None and needs.abilities:
        needs = needs._replace(abilities=needs.abilities - {"structured_output"})
    if hint is None and policy.mode == THOMPSON and visit.dialect.family == "chat":
        lesson = lesson_of(
            envelope.turns,
            input_tokens=needs.input_tokens,
            tools=envelope.has_tools,
            vision=envelope.has_images,
            tag=key.project,
            owner=key.id,
            system=envelope.raw("system"),
            is_judged=visit.runtime.judge.draw(),
        )
        visit.runtime.learner.began(lesson, key.id)
        for budget in key.budgets:
            if (pace := visit.runtime.ledger.pace_of(budget)) is not None:
                lesson.paces.append((budget.amount, pace))
        visit.lesson = lesson
        visit.context = lesson.context.key
    if (key.limits or visit.runtime.shared_limits is not None) and not visit.leg:  # of a run that was let in
        visit.admit(key, needs.input_tokens + needs.output_tokens)
    return Call(
        snapshot=snapshot,
        key=key,
        dialect=visit.dialect,
        envelope=envelope,
        policy=policy,
        hint=hint,
        needs=needs,
        started_at=visit.started_at,
        headers=forwardable_headers(visit.headers),
        query=forwardable_query(visit.scope["query_string"]),
        is_strict=visit.headers.get(b"x-tokenhub-strict", b"").lower() == b"true",
        alias=alias,
        variants=variants,
        patience=visit.patience,
        conversation=talk,
        lesson=lesson,
        plain=plain,
        payer=visit if key.budgets else None,
        wasted=visit.add_leg,
        shape=visit.shape,
        trace=visit.trace,
        attempts=visit.attempts,
        candidates=visit.candidates,
    )


def delivery_headers(visit: Visit, delivery: Delivery) -> ResponseHeaders:
    """To be made ahead of `account`: the journal has the warning, too."""
    target = delivery.target
    headers = [
        (b"x-tokenhub-model", target.model_id.encode("ascii")),
        (b"x-tokenhub-provider", target.provider.id.encode("ascii")),
        (b"x-tokenhub-reason", delivery.reason.encode("ascii")),
        (b"x-tokenhub-attempts", str(len(visit.attempts)).encode("ascii")),
    ]
    if visit.alias:
        headers.append((b"x-tokenhub-alias", visit.alias.encode("ascii")))
    if visit.estimated_cost_nano is not None:
        headers.append((b"x-tokenhub-estimated-cost-usd", dollars(visit.estimated_cost_nano).encode("ascii")))
    if delivery.dropped or delivery.lowered_to is not None:
        warnings = [_dropped(delivery.dropped)] if delivery.dropped else []
        warnings += [b"max_tokens=%d" % delivery.lowered_to] if delivery.lowered_to is not None else []
        headers.append((b"x-tokenhub-warning", warning := b"; ".join(warnings)))
        visit.warning = warning.decode("ascii")
    for name in (b"x-request-id", b"request-id"):
        if value := delivery.upstream_headers.get(name):
            headers.append((b"x-tokenhub-upstream-request-id", value))
            break
    return headers


def note_break(visit: Visit, call: Call, delivery: Delivery, error: ApiError | None) -> None:
    """A stream that broke after its first bytes is a failure of its target, though nobody else can step in."""
    target = delivery.target
    if call.lesson is not None:
        visit.runtime.learner.failed(call.lesson, target.model_id)
    error_class = ErrorClass.TIMEOUT if error is not None and error.error_class == "timeout" else ErrorClass.TRANSIENT
    visit.runtime.health.failed(
        target.provider.id,
        target.model_id,
        error_class,
        now=monotonic(),
        retry_after=None,
        status=0,
        started=delivery.started_at,
    )


def learn_size(visit: Visit, call: Call, delivery: Delivery, usage: Usage) -> None:
    target, guessed = delivery.target, call.needs.input_tokens
    visit.runtime.health.counted(target.provider.id, target.model_id, guessed=guessed, tokens=usage.input_tokens)


def _dropped(names: tuple[str, ...]) -> bytes:
    """The names are the client's own and may hold anything."""
    shown = [_NOT_IN_HEADERS.sub("?", name[:MAX_NAME_SHOWN]) for name in names[:MAX_NAMES_SHOWN]]
    return b"dropped=" + ",".join(shown).encode("ascii")


async def drain(exchange: Any) -> None:
    """Lets the upstream say that it is done, so that its connection can be used again."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await exchange.chunk():
                pass
    except (TimeoutError, UpstreamFailure):
        pass


def broken(code: str, message: str, error_class: str) -> ApiError:
    return ApiError(code, message, error_class=error_class)


async def _not_ready(send: Any, dialect: Dialect, why: str) -> None:
    log.error("not_ready", error=why)
    error = ApiError("overloaded", "TokenHub is not ready yet: its database or data folder cannot be used.")
    body = dialect.render_error(client_error(error, ""))
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", b"2"),
        (b"x-tokenhub-error-code", b"overloaded"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
