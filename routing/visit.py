"""One HTTP request of the data plane, from scope to journal: reads a bounded body, notices when the client leaves,
answers once, and leaves one journal entry. Knows ASGI; knows no dialect beyond rendering an error in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import astuple

from keys.allowance import lines_of
from providers.formats.base import Dialect
from providers.formats.dialect import ClientError, Usage
from routing.admission import Admission
from routing.errors import ApiError
from routing.identity import client_request_id, new_request_id
from routing.patience import Patience
from routing.pricing import cost_nano
from routing.snapshot import Target
from routing.traced import ended, usage_told
from telemetry.events import escalation_of
from telemetry.journal import OUTRUN, Attempt, Candidate, Entry
from telemetry.logs import EventLogger

if TYPE_CHECKING:
    from providers.formats.envelope import Envelope
    from routing.bandit import Reward
    from routing.capturing import Capture
    from routing.learning import Lesson
    from routing.runtime import Runtime
    from routing.shaping import Shape
    from telemetry.events import Bus
    from telemetry.tracing import Trace

log = EventLogger(__name__)
WATCH_AFTER_SECONDS = 0.03
BYTES_PER_TOKEN = 4
_JSON = (b"content-type", b"application/json")
ResponseHeaders = list[tuple[bytes, bytes]]
OUTBOX_EXTENSION: dict[str, Any] = {"tokenhub.outbox": {}}
"""In a scope: its server sends whole answers through the runtime's outbox."""
LINES: Final = "tokenhub.lines"
"""In a message to such a server: further lines of the answer's head, as they go out, and the empty one that ends it."""


class ClientLeft(Exception):
    """The client's connection ended before its body was whole."""


class Visit(Admission):
    __slots__ = (
        "_accounted",
        "_earlier",
        "_has_estimates",
        "_receive",
        "_send",
        "_task",
        "_ticked",
        "_timer",
        "_watched",
        "_watcher",
        "alias",
        "at_home",
        "attempts",
        "candidates",
        "capture",
        "client_id",
        "client_left",
        "context",
        "dialect",
        "endpoint",
        "estimated_cost_nano",
        "first_chunk_ms",
        "headers",
        "is_valid",
        "kept_body",
        "leg",
        "lesson",
        "mode",
        "patience",
        "plain",
        "plan",
        "reason",
        "request_id",
        "requested_model",
        "reward",
        "scope",
        "shape",
        "started",
        "stream",
        "target",
        "trace",
        "warning",
    )  # fmt: skip

    def __init__(self, scope: Any, receive: Any, send: Any, runtime: Runtime, endpoint: str, dialect: Dialect) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        super().__init__(runtime, self._address(runtime))
        self._receive = receive
        self._send = send
        self.endpoint = endpoint
        self.dialect = dialect
        self.request_id = new_request_id()
        self.client_id = client_request_id(self.headers.get(b"x-request-id"))
        self.target: Target | None = None
        self.attempts: list[Attempt] = []
        self.candidates: list[Candidate] = []
        self.context = ""
        self.reward: Reward | None = None
        self.lesson: Lesson | None = None
        self.requested_model = self.alias = self.mode = self.reason = self.plan = self.leg = self.warning = ""
        self.stream = self.started = self.client_left = self.at_home = self._accounted = False
        self.estimated_cost_nano: int | None = None
        self.first_chunk_ms: int | None = None
        self.trace: Trace | None = None
        self.capture: Capture | None = None
        self.kept_body: bytes | None = None
        """Read already, for whoever asks for it next."""
        self.shape: Shape | None = None
        self.plain: Envelope | None = None
        self.is_valid: bool | None = None
        self._earlier: list[Usage] | None = None
        self._has_estimates = False
        self._task = asyncio.current_task()
        self.patience = Patience()
        self._ticked = self._watched = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def _address(self, runtime: Runtime) -> str:
        """The client's, which a trusted proxy may tell."""
        client = self.scope.get("client")
        address = str(client[0]) if client else ""
        if runtime.trusted_proxies and runtime.is_trusted_proxy(address):
            for hop in reversed(self.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
                if hop.strip() and not runtime.is_trusted_proxy(hop.strip()):
                    return hop.strip()[:64]
        return address

    # -- the client's body and leaving ---------------------------------------------------------------------------
    async def body(self) -> bytes:
        """Raises ApiError past the size or the time allowed, ClientLeft."""
        if self.kept_body is not None:
            return self.kept_body
        limit = self.runtime.max_body_bytes
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._tick)
        try:
            with self.patience.within(self.runtime.body_timeout):
                message = await self._receive()
                body: bytes = message.get("body", b"")
                if message["type"] != "http.disconnect" and not message.get("more_body", False):
                    if len(body) > limit:
                        raise _too_large(limit)
                    return body
                parts, size = [body], len(body)
                while message["type"] != "http.disconnect":
                    if size > limit:
                        raise _too_large(limit)
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    message = await self._receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
        except TimeoutError:
            raise ApiError(
                "request_timeout",
                f"The request's body did not arrive within {self.runtime.body_timeout:g} seconds.",
                hint="Send it again; large bodies need a faster connection.",
            ) from None
        self.client_left = True
        raise ClientLeft

    def watch_client(self) -> None:
        """From now on the request is cancelled when its client leaves. Starts late: most requests end before."""
        self._watched = True
        if self._ticked:
            self._start_watcher()

    def _tick(self) -> None:
        """The request takes long enough for what only long requests need."""
        self._ticked = True
        self.patience.arm()
        if self._watched:
            self._start_watcher()

    def _start_watcher(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait_for_leave())

    async def _wait_for_leave(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        if not self._accounted and self._task is not None:
            self.client_left = True
            self._task.cancel()

    # -- the end -------------------------------------------------------------------------------------------------
    def close(self) -> None:
        if self.ticket is None and not self.is_noted and (shared := self.runtime.shared_limits) is not None:
            shared.note(self.address)
        if self.ticket is not None or not self._is_held:
            self.leave()
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    # -- answering -----------------------------------------------------------------------------------------------
    def base_headers(self) -> ResponseHeaders:
        headers = [
            (b"x-request-id", (self.client_id or self.request_id).encode("ascii")),
            (b"x-tokenhub-request-id", self.request_id.encode("ascii")),
        ]
        if self.allowance is not None and self._is_held:
            self._lines = self.allowance.lines
        elif self._admitted and self._is_held:
            self._lines = lines_of(self._admitted, monotonic())
        elif self.allowance is not None or self._admitted or self.standings is not None:
            headers += self.limit_headers()
        origin = self.headers.get(b"origin")
        if origin is not None and origin in self.runtime.cors_origins:
            headers += [
                (b"access-control-allow-origin", origin),
                (b"vary", b"Origin"),
                (b"access-control-expose-headers", b"*"),
            ]
        return headers

    def divert(self, send: Any) -> Any:
        """What is sent from now on goes there, in place of where it went."""
        before, self._send = self._send, send
        return before

    async def start(self, status: int, headers: ResponseHeaders) -> None:
        self.started = True
        message: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
        if self._lines:
            message[LINES] = self._lines
        await self._send(message)

    async def send(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def respond(self, status: int, body: bytes, headers: ResponseHeaders) -> None:
        headers.append((b"content-length", str(len(body)).encode("ascii")))
        await self.start(status, headers)
        await self.send(b"" if self.scope["method"] == "HEAD" else body, more=False)

    async def respond_json(self, status: int, body: bytes, headers: ResponseHeaders | None = None) -> None:
        await self.respond(status, body, [*self.base_headers(), _JSON, *(headers or [])])

    async def fail(self, error: ApiError) -> None:
        """The error in the client's dialect: as an answer, or as the event that ends a stream which has begun."""
        if self.capture is not None and not self._accounted:
            await self.capture.prepare(self.request_id)
        self.account(error.status, error=error)
        shown = client_error(error, self.client_id or self.request_id)
        if self.started:
            await self.send(self.dialect.render_stream_error(shown), more=False)
            return
        headers = [(b"x-tokenhub-error-code", error.code.encode("ascii"))]
        if error.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        if error.is_lasting:
            headers.append((b"x-should-retry", b"false"))  # OpenAI's and Anthropic's clients obey it
        if error.code == "request_timeout" or (error.code == "request_too_large" and b"expect" in self.headers):
            headers.append((b"connection", b"close"))  # else what is on its way is read: who writes may not see a close
        if error.allow:
            headers.append((b"allow", ", ".join(error.allow).encode("ascii")))
        if self.attempts:
            headers.append((b"x-tokenhub-attempts", str(len(self.attempts)).encode("ascii")))
        await self.respond_json(error.status, self.dialect.render_error(shown), headers)

    def announce(self, events: Bus) -> None:
        """An answer begins, and somebody listens: of a stream, or beyond a model that was too small for it."""
        target, key = self.target, self.key
        told = {
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "api_key_name": key.name if key is not None else "",
            "project": key.project if key is not None else "",
            "requested_model": self.requested_model,
            "alias": self.alias,
            "mode": self.mode,
            "model_id": target.model_id if target is not None else "",
            "provider_id": target.provider.id if target is not None else "",
        }
        if found := escalation_of(self.attempts):
            events.of_request("escalation", {**told, **found})
        if self.stream:
            first_chunk_ms = int((monotonic() - self.started_at) * 1000)
            more = {"routing_reason": self.reason, "attempts": len(self.attempts)}
            events.of_request("stream_started", {**told, **more, "time_to_first_chunk_ms": first_chunk_ms})

    def add_leg(self, target: Target, usage: Usage, *, estimated: bool = False) -> None:
        """An answer that is paid for, and is not the one that the client gets."""
        self._earlier = [*(self._earlier or []), usage]
        self._has_estimates = self._has_estimates or estimated
        if self.trace is not None:
            self.trace.used(usage_told(usage))
        if target.prices is not None:
            self.spent_nano += cost_nano(target.prices, usage)
        if self.purse is not None:
            self.purse.spent = self.spent_nano

    async def captured(self, answer: bytes) -> None:
        """The whole answer, where it is wanted; to be called ahead of `account`."""
        if self.capture is not None:
            self.capture.answered(answer)
            await self.capture.prepare(self.request_id)

    # -- the record ----------------------------------------------------------------------------------------------
    def account(
        self,
        status: int,
        *,
        usage: Usage | None = None,
        estimated: bool = False,
        error: ApiError | None = None,
        answer_follows: bool = False,
        cost: int | None = None,
    ) -> int | None:
        """Journals the request, once; must be called before its last byte leaves. The cost in nano-dollars: `cost`,
        where usage does not say it.
        `answer_follows`: a whole answer is sent next, and the outbox writes the journal ahead of it."""
        if self._accounted:
            return None
        self._accounted = True
        runtime, metrics, key, target = self.runtime, self.runtime.metrics, self.key, self.target
        if error is not None and error.status == 401 and not runtime.count_refusal(self.address):
            return None
        latency_ms = (monotonic() - self.started_at) * 1000
        if usage is None:
            usage = _NOTHING
        elif target is not None and target.prices is not None:
            cost = cost_nano(target.prices, usage)
        if self.trace is not None:
            self.trace.used(usage_told(usage))
        if self._earlier is not None:
            usage, estimated = added([*self._earlier, usage]), estimated or self._has_estimates
            cost = None if cost is None and not self.spent_nano else (cost or 0) + self.spent_nano
        self._used_tokens = self.tokens_elsewhere + usage.input_tokens + usage.output_tokens
        model = provider = ""
        if target is not None:
            model, provider = target.model_id, target.provider.id
        elif self.attempts:
            model, provider = self.attempts[-1].model, self.attempts[-1].provider
        if usage.is_unlikely:
            estimated = True
            log.warning("usage_unlikely", request=self.request_id, model=model, provider=provider)
        entry = Entry(
            id=self.request_id,
            at=time_ns() // 1000,
            endpoint=self.endpoint,
            status=status,
            client_id=self.client_id,
            key_id=key.id if key is not None else "",
            key_name=key.name if key is not None else "",
            project=key.project if key is not None else "",
            dialect=self.dialect.name,
            requested_model=self.requested_model,
            alias=self.alias,
            mode=self.mode,
            model=model,
            provider=provider,
            reason=self.reason,
            error_class=error.error_class if error is not None else "",
            error_code=error.code if error is not None else "",
            stream=self.stream,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            hour_cache_write_tokens=usage.hour_cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_estimated=estimated,
            estimated_cost_nano=self.estimated_cost_nano,
            cost_nano=cost,
            latency_ms=int(latency_ms),
            first_chunk_ms=self.first_chunk_ms,
            disconnected=self.client_left,
            tags=list(key.tags) if key is not None else [],
            attempt_list=self.attempts,
            candidates=self.candidates,
            context=self.context,
            pressure=self.lesson.pressure if self.lesson is not None else 0.0,
            reward=self.reward.value if self.reward is not None else None,
            reward_parts=self.reward.shown() if self.reward is not None else {},
            at_home=self.at_home,
            capture=self.capture.take(self.request_id) if self.capture is not None else b"",
            plan=self.plan,
            leg=self.leg,
            refusal=error.noted if error is not None else None,
            retry_after=error.retry_after if error is not None and not self.started else 0,
            warning=self.warning,
        )
        if answer_follows and self.scope.get("extensions") is OUTBOX_EXTENSION:
            self._is_held = self.allowance is not None or self.purse is not None or bool(self._admitted)
            runtime.journal.hold(entry, self if self._is_held else None)
            runtime.outbox.schedule()
        else:
            if self.purse is not None or self.taken:
                entry.charges = self.settle(cost or 0)
            runtime.journal.append(entry)
        if runtime.events.wanted[0]:
            runtime.events.finished(entry)
        metrics.requests[self.mode, model, provider, str(status)].n += 1
        if error is not None:
            metrics.errors[self.endpoint, error.code].n += 1
        if self.client_left:
            metrics.disconnects += 1
        for one in self.attempts:
            if one.error_class and one.error_class != OUTRUN:
                metrics.attempts_failed[one.model, one.provider, one.error_class].n += 1
        if target is not None:
            counts = metrics.targets[model, provider]
            counts.latency.observe(latency_ms)
            if self.first_chunk_ms is not None:
                counts.first_chunk.observe(self.first_chunk_ms)
            if cost:
                counts.cost_nano += cost
            counts.input_tokens += usage.input_tokens
            counts.output_tokens += usage.output_tokens
        if self.trace is not None:
            ended(self, self.trace, status=status, model=model, provider=provider, cost_nano=cost, error=error)
        return cost


_NOTHING = Usage()


def added(usages: Sequence[Usage]) -> Usage:
    return Usage(*(sum(counts) for counts in zip(*map(astuple, usages), strict=True)))


def client_error(error: ApiError, request_id: str) -> ClientError:
    return ClientError(
        status=error.status,
        code=error.code,
        message=error.message,
        type=error.type,
        param=error.param,
        hint=error.hint,
        request_id=request_id,
        details=error.details,
    )


def estimate(seen: Usage | None, *, input_tokens: int, produced_bytes: int) -> Usage:
    """Usage of an answer whose provider gave none, or not all of it: what it said so far, and the rest by size."""
    seen = seen or _NOTHING
    return Usage(
        input_tokens=seen.input_tokens or input_tokens,
        cached_input_tokens=seen.cached_input_tokens,
        cache_write_tokens=seen.cache_write_tokens,
        output_tokens=max(seen.output_tokens, -(-produced_bytes // BYTES_PER_TOKEN)),
        reasoning_tokens=seen.reasoning_tokens,
        hour_cache_write_tokens=seen.hour_cache_write_tokens,
    )


def _too_large(limit: int) -> ApiError:
    return ApiError(
        "request_too_large",
        f"The request's body is larger than {limit} bytes.",
        hint="Send less, or raise TOKENHUB_MAX_BODY_BYTES.",
    )
