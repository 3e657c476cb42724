"""How messages look to Temporal's server: msgspec's JSON, sealed under the key that is derived from Django's secret.
Messages of failures and their traces are sealed, too. The server sees ids, names of activities, and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    BinaryNullPayloadConverter,
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
    PayloadCodec,
)

from orchestration.sealing import PURPOSE
from vault import server_key

SEALED: Final = b"binary/sealed"
CONTEXT: Final = b"temporal/payload"


class Structs(EncodingPayloadConverter):
    @property
    def encoding(self) -> str:
        return "json/msgspec"

    def to_payload(self, value: Any) -> Payload | None:
        return Payload(metadata={"encoding": self.encoding.encode()}, data=msgspec.json.encode(value))

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        return msgspec.json.decode(payload.data, type=Any if type_hint is None else type_hint)


class Converter(CompositePayloadConverter):
    def __init__(self) -> None:
        super().__init__(BinaryNullPayloadConverter(), Structs())


class Sealing(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": SEALED}, data=server_key.seal(PURPOSE, one.SerializeToString(), CONTEXT))
            for one in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises Damaged: the other side has another secret."""
        return [
            Payload.FromString(server_key.unseal(PURPOSE, one.data, CONTEXT))
            if one.metadata.get("encoding") == SEALED
            else one
            for one in payloads
        ]


CONVERTER: Final = DataConverter(
    payload_converter_class=Converter,
    payload_codec=Sealing(),
    failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
)
