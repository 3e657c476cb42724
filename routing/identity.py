"""Request ids: UUIDs of version 7 (RFC 9562), which sort by time. Pure but for clock and random source."""

from __future__ import annotations

import os
import re
from random import Random
from time import time_ns

_VARIANT = dict(zip("0123", "89ab", strict=True))  # the two upper bits are 10
_random = Random()  # noqa: S311  ids are unique, not secret
os.register_at_fork(after_in_child=_random.seed)
_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}")


def new_request_id() -> str:
    time = f"{time_ns() // 1_000_000:012x}"
    noise = f"{_random.getrandbits(74):019x}"
    return f"{time[:8]}-{time[8:]}-7{noise[1:4]}-{_VARIANT[noise[0]]}{noise[4:7]}-{noise[7:]}"


def client_request_id(raw: bytes | None) -> str:
    """The client's own id if it may be echoed, else empty."""
    return raw.decode("ascii") if raw is not None and _VISIBLE.fullmatch(raw) else ""
