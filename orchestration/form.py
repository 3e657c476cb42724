"""The body of `POST /v1/plan`, and what is asked by it. Everything that can be wrong with it is said here, before
anything costs money."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from orchestration.registry import MODES
from orchestration.steps import MAX_ITERATIONS, Directive
from providers.formats.errors import InvalidRequest
from providers.formats.reading import read_body
from routing.consumers_chat import Inner, OutputFormat, PolicyFields, schema_text, shape_of
from routing.errors import ApiError
from routing.shaping import Shape
from routing.words import AUTO

Weight = Annotated[float, Meta(ge=0, le=10)]
_EMPTY: Final = (b"", b"null", b"[]")
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


class Orchestration(msgspec.Struct, forbid_unknown_fields=True):
    mode: str
    iterations: Annotated[int, Meta(ge=0, le=MAX_ITERATIONS)] | None = None
    primary_model_id: str | None = None
    review_model_id: str | None = None
    primary_min_weight: Weight | None = None
    review_min_weight: Weight | None = None
    return_plan_only: bool = False
    output_schema: dict[str, Any] | str | None = None


class Body(msgspec.Struct, forbid_unknown_fields=True):
    request: Inner
    orchestration: Orchestration
    policy: PolicyFields | UnsetType | None = UNSET
    output_format: OutputFormat | UnsetType | None = UNSET
    stream: bool = False
    background: bool = False

    @property
    def streams(self) -> bool:
        return self.stream or self.request.stream


_decode = msgspec.json.Decoder(Body).decode


def read(raw: bytes) -> Body:
    """Raises InvalidRequest, ApiError."""
    body = read_body(_decode, raw)
    asked = body.orchestration
    mode = MODES.get(asked.mode)
    if mode is None:
        raise ApiError(
            "invalid_request",
            f"There is no orchestration mode {asked.mode[:40]!r}.",
            param="orchestration.mode",
            hint="Modes: " + ", ".join(sorted(MODES)),
        )
    count = asked.iterations
    if count is not None and not mode.least <= count <= mode.most:
        raise InvalidRequest(
            f"In the mode {mode.name} iterations must be from {mode.least} to {mode.most}.", "orchestration.iterations"
        )
    if body.streams and body.background:
        raise InvalidRequest("A run is streamed or in the background; follow it by GET with ?stream=true.", "stream")
    _check_parameters(body, takes_tools=mode.takes_tools)
    try:
        _messages(body.request.messages)
    except msgspec.MsgspecError:
        raise InvalidRequest("request.messages must be an array of messages.", "request.messages") from None
    return body


def _check_parameters(body: Body, *, takes_tools: bool) -> None:
    parameters = body.request.parameters
    if parameters is None:
        return
    parameters.pop("stream_options", None)  # streams of a run are its own
    if takes_tools:
        return
    for name in ("tools", "functions", "response_format"):
        if bytes(parameters.get(name, b"")) not in _EMPTY:
            hint = "output_schema says what form the answer must have." if name == "response_format" else ""
            raise ApiError(
                "unsupported_parameter",
                f"The mode {body.orchestration.mode} works on texts and takes no {name}.",
                param=f"request.parameters.{name}",
                hint=hint or "Leave them out, or use the mode planning.",
            )
    if bytes(parameters.get("n", b"1")) not in {b"1", b"null"}:
        raise ApiError(
            "unsupported_parameter",
            f"In the mode {body.orchestration.mode} each model gives one answer.",
            param="request.parameters.n",
        )


def directive_of(body: Body, *, profile: str, prompts: dict[str, str], seed: int, has_form: bool) -> Directive:
    asked = body.orchestration
    count = asked.iterations
    return Directive(
        mode=asked.mode,
        iterations=MODES[asked.mode].default if count is None else count,
        seed=seed,
        primary=_named(asked.primary_model_id or body.request.model_hint),
        review=_named(asked.review_model_id),
        primary_min_weight=_whole(asked.primary_min_weight),
        review_min_weight=_whole(asked.review_min_weight),
        plan_only=asked.return_plan_only,
        has_form=has_form,
        profile=profile,
        prompts=prompts,
    )


def _named(model: str | None) -> str:
    """Empty where the router decides."""
    return "" if model is None or model in AUTO else model


def _whole(weight: float | None) -> int | None:
    return None if weight is None else -int(-weight // 1)


def form_of(body: Body) -> Shape | None:
    """Raises InvalidRequest."""
    schema = body.orchestration.output_schema
    if schema is None:
        return shape_of(body.request, body.output_format)
    output = body.output_format or OutputFormat()
    if output.type not in {None, "json"}:
        raise InvalidRequest(f"A schema is for the type json, not {output.type}.", "orchestration.output_schema")
    param = "orchestration.output_schema"
    return Shape("json", schema_text(schema, param), output.strip_think, param)


def without_model(body: bytes) -> Raw:
    return Raw(_encode({name: value for name, value in _fields(body).items() if name not in {"model", "stream"}}))
