"""`POST /v1/chat`: TokenHub's own form. The request and its routing policy come in one body; the answer comes with what
was chosen, why, and what it cost. Inside it is an OpenAI chat completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from providers.formats.envelope import Envelope, model_named
from providers.formats.errors import InvalidRequest
from providers.formats.reading import read_body
from routing.consumers import Chat
from routing.policy import Policy, from_headers, with_limits, with_mode
from routing.pricing import NANO
from routing.shaping import Shape
from routing.visit import Visit
from telemetry.journal import Attempt

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
NOT_IN_PARAMETERS = frozenset({"model", "messages", "stream"})
LIMIT_NAMES = ("policy.max_budget_usd", "policy.max_latency_ms", "policy.min_weight")


class Inner(msgspec.Struct):
    messages: Raw
    model_hint: str | None = None
    estimated_input_tokens: Annotated[int, Meta(ge=0)] | None = None
    parameters: dict[str, Raw] | None = None
    stream: bool = False
    meta: dict[str, Any] | None = None
    output_schema: dict[str, Any] | str | None = None


class _Capabilities(msgspec.Struct, forbid_unknown_fields=True):
    planning: bool = False


class PolicyFields(msgspec.Struct, forbid_unknown_fields=True):
    """A misspelt ceiling must not be no ceiling."""

    mode: str | None = None
    max_budget_usd: float | None = None
    max_latency_ms: float | None = None
    min_weight: float | None = None


class OutputFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json", "markdown", "text", "xml"] | None = None
    schema: dict[str, Any] | str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    strip_think: bool = False


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    request: Inner
    capabilities: _Capabilities | UnsetType | None = UNSET
    policy: PolicyFields | UnsetType | None = UNSET
    output_format: OutputFormat | UnsetType | None = UNSET


_decode = msgspec.json.Decoder(_Body).decode


class _AttemptShown(msgspec.Struct):
    model: str
    provider: str
    error_class: str | None
    latency_ms: int


class _Answer(msgspec.Struct):
    negotiated_model: str
    estimated_cost_usd: float | None
    routing_reason: str
    response: Raw
    cost_usd: float | None
    request_id: str
    attempts: list[_AttemptShown]


class TokenHubChat(Chat):
    path = "/v1/chat"

    @staticmethod
    def named(body: bytes) -> str:
        return model_named(body, "request", "model_hint")[:200]

    def read(self, visit: Visit, body: bytes) -> tuple[Envelope, Policy]:
        asked, policy = self.asked(visit, body)
        return self.envelope(visit, asked), policy

    def asked(self, visit: Visit, body: bytes) -> tuple[bytes, Policy]:
        """The chat completion; the form of its answer is the visit's. Raises ApiError, InvalidRequest."""
        parsed = read_body(_decode, body)
        profiles = visit.runtime.snapshot.profiles
        policy = policy_of(visit, visit.runtime.snapshot.default_policy, parsed.policy)
        if parsed.capabilities and parsed.capabilities.planning and not (parsed.policy and parsed.policy.mode):
            policy = with_mode(policy, "planning", param="capabilities.planning", profiles=profiles)
        body, policy = self.obey(visit, chat_body(parsed.request, parsed.output_format), policy)
        asked, directed = shape_of(parsed.request, parsed.output_format), visit.shape
        if asked is not None:
            visit.shape = replace(directed, strip_think=asked.strip_think) if directed is not None else asked
        return body, policy

    def shape(self, visit: Visit, body: bytes, cost: int | None) -> bytes:
        target = visit.target
        assert target is not None  # noqa: S101  there is an answer, so somebody gave it
        return told(
            body,
            model=target.model_id,
            reason=visit.reason,
            estimated_cost_nano=visit.estimated_cost_nano,
            cost_nano=cost,
            request_id=visit.request_id,
            attempts=visit.attempts,
        )


def told(
    body: bytes,
    *,
    model: str,
    reason: str,
    estimated_cost_nano: int | None,
    cost_nano: int | None,
    request_id: str,
    attempts: Sequence[Attempt],
) -> bytes:
    """The answer, around that of the provider."""
    return _encode(
        _Answer(
            negotiated_model=model,
            estimated_cost_usd=None if estimated_cost_nano is None else estimated_cost_nano / NANO,
            routing_reason=reason,
            response=Raw(body),
            cost_usd=None if cost_nano is None else cost_nano / NANO,
            request_id=request_id,
            attempts=[_shown(one) for one in attempts],
        )
    )


def _shown(one: Attempt) -> _AttemptShown:
    return _AttemptShown(one.model, one.provider, one.error_class or None, one.latency_ms)


def policy_of(visit: Visit, policy: Policy, fields: PolicyFields | UnsetType | None) -> Policy:
    """With what headers and body say. Raises ApiError."""
    profiles = visit.runtime.snapshot.profiles
    policy = from_headers(policy, visit.headers, profiles)
    if not fields:
        return policy
    if fields.mode is not None:
        policy = with_mode(policy, fields.mode, param="policy.mode", profiles=profiles)
    return with_limits(
        policy,
        max_budget_usd=fields.max_budget_usd,
        max_latency_ms=fields.max_latency_ms,
        min_weight=fields.min_weight,
        names=LIMIT_NAMES,
    )


def chat_body(inner: Inner, output: OutputFormat | UnsetType | None) -> bytes:
    """The OpenAI chat completion that is asked for."""
    further = {name: value for name, value in (inner.parameters or {}).items() if name not in NOT_IN_PARAMETERS}
    fields: dict[str, Any] = {"model": inner.model_hint or "", "messages": inner.messages, **further}
    if inner.stream:
        fields["stream"] = True
    if output and output.max_tokens is not None:
        fields.pop("max_completion_tokens", None)
        fields["max_tokens"] = output.max_tokens
    return _encode(fields)


def shape_of(inner: Inner, output: OutputFormat | UnsetType | None) -> Shape | None:
    """Raises InvalidRequest."""
    output = output or OutputFormat()
    schema, param = output.schema, "output_format.schema"
    if schema is None:
        schema, param = inner.output_schema, "request.output_schema"
    if schema is not None:
        if output.type not in {None, "json"}:
            raise InvalidRequest(f"A schema is for the type json, not {output.type}.", param)
        return Shape("json", schema_text(schema, param), output.strip_think, param)
    if output.type is None and not output.strip_think:
        return None
    return Shape(output.type or "", b"", output.strip_think)


def schema_text(schema: dict[str, Any] | str, param: str) -> bytes:
    """Raises InvalidRequest."""
    if isinstance(schema, dict):
        return _encode(schema)
    try:
        _fields(schema)
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidRequest("The JSON Schema is no JSON object.", param) from None
    return schema.encode()
