"""Turns of one conversation stay at one target while it serves: its provider keeps their common beginning in a cache,
and reads it again for a tenth of the price. A conversation is known by what precedes the model's first answer. Pure."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

MAX_CONVERSATIONS: Final = 50_000
TTL_SECONDS: Final = 3600.0


class Conversation(NamedTuple):
    """`identity` is the same in each of its turns; `is_later`: the model has answered in it before."""

    identity: bytes
    is_later: bool


class _Turn(msgspec.Struct):
    role: str = ""
    type: str = ""


_list = msgspec.json.Decoder(list[Raw]).decode
_turn = msgspec.json.Decoder(_Turn).decode
_ANSWERS: Final = frozenset({"function_call", "custom_tool_call", "reasoning"})


def conversation(owner: str, system: bytes, turns: bytes) -> Conversation:
    """`owner`: the client key's id; `system` and `turns` as they stand in the request. Raises nothing: what cannot be
    read is a conversation of its own."""
    digest = blake2b(owner.encode(), digest_size=16)
    digest.update(system)
    try:
        for raw in _list(turns) if turns[:1] == b"[" else ():
            turn = _turn(raw)
            if turn.role == "assistant" or turn.type in _ANSWERS:
                return Conversation(digest.digest(), True)
            digest.update(memoryview(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    else:
        if turns[:1] != b"[":
            digest.update(turns)
    return Conversation(digest.digest(), False)


class Affinity:
    """Which target each conversation was answered by last, for so many of them and so long."""

    def __init__(self, limit: int = MAX_CONVERSATIONS) -> None:
        self._limit = limit
        self._targets: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def target(self, one: Conversation, now: float) -> str:
        """Its model id; empty for a first turn, and where nobody knows."""
        if not one.is_later:
            return ""
        model_id, until = self._targets.get(one.identity, ("", 0.0))
        return model_id if now < until else ""

    def remember(self, one: Conversation, model_id: str, now: float) -> None:
        self._targets[one.identity] = (model_id, now + TTL_SECONDS)
        self._targets.move_to_end(one.identity)
        if len(self._targets) > self._limit:
            self._targets.popitem(last=False)
