"""Turns of one conversation stay at one target while it serves: its provider keeps their common beginning in a cache,
and reads it again for a tenth of the price. A conversation is known by what precedes the model's first answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from mmap import mmap
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Raw

SETS: Final = 16_384
WAYS: Final = 4  # conversations of one set; the fifth takes the place of the oldest
ENTRY: Final = Struct("<16s8sII")  # conversation, mark of the target, until when, checksum
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
    """Which target each conversation was answered by last, for as long as its provider may remember it. Made before the
    workers are forked, it is one for all of them: a table in shared memory, written without locks. An entry torn by two
    writers fails its checksum and is forgotten."""

    def __init__(self, sets: int = SETS) -> None:
        self._sets = sets
        self._table = mmap(-1, sets * WAYS * ENTRY.size)
        self._targets: Mapping[str, object] = {}
        self._names: dict[bytes, str] = {}

    def target(self, one: Conversation, now: float, targets: Mapping[str, object]) -> str:
        """Its model id, one of `targets`; empty for a first turn, and where nobody knows."""
        if not one.is_later:
            return ""
        for at in self._places(one.identity):
            entry = self._table[at : at + ENTRY.size]
            identity, mark, until, checksum = ENTRY.unpack(entry)
            if identity == one.identity:
                is_whole = checksum == crc32(entry[:-4])
                return self._name(mark, targets) if is_whole and now < until else ""
        return ""

    def remember(self, one: Conversation, model_id: str, now: float) -> None:
        """`now`: of the machine's steady clock, which all processes share."""
        oldest, place = 2**32, -1
        for at in self._places(one.identity):
            identity, _, until, _ = ENTRY.unpack(self._table[at : at + ENTRY.size])
            if identity == one.identity:
                place = at
                break
            if until < oldest:
                oldest, place = until, at
        head = ENTRY.pack(one.identity, _mark(model_id), int(now + TTL_SECONDS) % 2**32, 0)[:-4]
        self._table[place : place + ENTRY.size] = head + crc32(head).to_bytes(4, "little")

    def _places(self, identity: bytes) -> range:
        first = int.from_bytes(identity[:8], "little") % self._sets * WAYS * ENTRY.size
        return range(first, first + WAYS * ENTRY.size, ENTRY.size)

    def _name(self, mark: bytes, targets: Mapping[str, object]) -> str:
        if targets is not self._targets:
            self._targets, self._names = targets, {_mark(model_id): model_id for model_id in targets}
        return self._names.get(mark, "")


def _mark(model_id: str) -> bytes:
    return blake2b(model_id.encode(), digest_size=8).digest()


AFFINITY: Final = Affinity()
"""Of this machine's workers."""
