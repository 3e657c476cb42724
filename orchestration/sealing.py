"""What clients asked and models said is kept under the server key: a run can be taken up by every host, also while the
vault is locked. Bound to its run and its place in it."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from vault import server_key

T = TypeVar("T")
PURPOSE: Final = "plan runs 1"
_encode = msgspec.json.Encoder().encode


def seal(value: object, *, run_id: object, place: str) -> bytes:
    return server_key.seal(PURPOSE, _encode(value), f"{run_id}/{place}".encode())


def unseal(sealed: bytes | memoryview, kind: type[T], *, run_id: object, place: str) -> T:
    """Raises Damaged, also when another host has another secret."""
    plain = server_key.unseal(PURPOSE, bytes(sealed), f"{run_id}/{place}".encode())
    return msgspec.json.decode(plain, type=kind)
