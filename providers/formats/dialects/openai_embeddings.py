"""OpenAI embeddings. They pass through: no two models' vectors can stand in for each other."""

from __future__ import annotations

import msgspec

from providers.formats.base import Dialect
from providers.formats.dialect import Answer, Told, Usage, counted
from providers.formats.envelope import Envelope
from providers.formats.reading import read_answer


class _Usage(msgspec.Struct):
    prompt_tokens: Told = None
    total_tokens: Told = None


class _Embedded(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: _Usage | None = None


_embedded = msgspec.json.Decoder(_Embedded).decode


class OpenAIEmbeddings(Dialect):
    name = "openai-embeddings"
    path = "embeddings"
    family = "embeddings"

    def read_envelope(self, body: bytes) -> Envelope:
        return Envelope.read_embeddings(body)

    def inspect_response(self, body: bytes) -> Answer:
        read = read_answer(_embedded, body, "it is no list of embeddings")
        if read.usage is None or (read.usage.prompt_tokens or read.usage.total_tokens) is None:
            return Answer(body, None, 0)
        return Answer(body, Usage(counted(read.usage.prompt_tokens or read.usage.total_tokens)), 0)


DIALECT = OpenAIEmbeddings()
