"""Copies of an alias's requests for its shadow variants: asked once, beside the client's answer and never in its way;
what they said goes into the request log and to nobody else. Belongs to the event loop."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from routing.aside import Asides, beside, entry_for
from routing.call import Call
from routing.snapshot import Target

if TYPE_CHECKING:
    from routing.visit import Visit

REASON: Final = "shadow"
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_STREAMING: Final = frozenset({"stream", "stream_options"})


class Shadows:
    """One per process."""

    def __init__(self, asides: Asides, *, rng: Random) -> None:
        self._asides = asides
        self._rng = rng

    def follow(self, visit: Visit, call: Call) -> None:
        """Sends the copies that are due for a request which has got its answer, to models that its key may use."""
        if call.alias is None:
            return
        names_alias = call.key.may_use(call.alias.name)
        for variant in call.alias.shadows:
            if not names_alias and not call.key.may_use(variant.target.model_id):
                continue
            if self._rng.random() < variant.share and not self._asides.rests(variant.target):
                self._asides.begin(partial(self._ask, visit, call, variant.target))

    async def _ask(self, visit: Visit, call: Call, target: Target) -> None:
        entry = entry_for(visit, call, target, REASON)
        entry.shadow_of = visit.request_id
        copy = beside(call, target, call.dialect.read_envelope(_whole(call.envelope.body)))
        await self._asides.ask(entry, copy, target)


def _whole(body: bytes) -> bytes:
    """The request for a whole answer."""
    fields: dict[str, Any] = {name: value for name, value in _fields(body).items() if name not in _STREAMING}
    return _encode(fields)
