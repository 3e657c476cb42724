"""Anthropic's count of a request's input tokens. Nothing is translated: where nobody counts, TokenHub estimates."""

from __future__ import annotations

import msgspec

from providers.formats import anthropic_wire
from providers.formats.base import Dialect
from providers.formats.dialect import Answer, ClientError, Rendered, Usage
from providers.formats.envelope import Envelope
from providers.formats.reading import read_answer
from providers.formats.seal import has_seals, without_seals


class _Counted(msgspec.Struct):
    input_tokens: int


_counted = msgspec.json.Decoder(_Counted).decode


class AnthropicCountTokens(Dialect):
    name = "anthropic-count-tokens"
    path = "messages/count_tokens"
    family = "count_tokens"
    implied_by = "anthropic-messages"

    def for_upstream(self, envelope: Envelope, upstream_model: str) -> Rendered:
        body = envelope.with_model(upstream_model)
        return Rendered(without_seals(body, "messages") if has_seals(body) else body)

    def inspect_response(self, body: bytes) -> Answer:
        """Nothing is produced, and nothing is paid for."""
        read_answer(_counted, body, "it is no count of tokens")
        return Answer(body, Usage(), 0)

    def render_error(self, error: ClientError) -> bytes:
        return anthropic_wire.render_error(error)


DIALECT = AnthropicCountTokens()
