"""Request ids: UUIDs of version 7 (RFC 9562), which sort by time. Pure but for clock and random source."""

from __future__ import annotations

import os
import re
from time import time_ns

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}")


def new_request_id() -> str:
    value = (time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def client_request_id(raw: bytes | None) -> str:
    """The client's own id if it may be echoed, else empty."""
    return raw.decode("ascii") if raw is not None and _VISIBLE.fullmatch(raw) else ""
