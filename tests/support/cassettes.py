"""The recorded provider traffic in tests/fixtures/cassettes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "cassettes"


@dataclass(frozen=True, slots=True)
class Cassette:
    name: str
    request: dict[str, Any]
    status: int
    body: bytes
    is_stream: bool
    is_anthropic: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_bytes(self) -> bytes:
        return json.dumps(self.request).encode()


def load(name: str) -> Cassette:
    read = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    body = read["response"]["body"]
    return Cassette(
        name=name,
        request=read["request"]["body"],
        status=read["response"]["status"],
        body=body.encode() if isinstance(body, str) else json.dumps(body).encode(),
        is_stream=bool(read["request"]["body"].get("stream")) and read["response"]["status"] == 200,
        is_anthropic=read["provider"] == "anthropic",
    )


ALL = [load(path.stem) for path in sorted(FOLDER.glob("*.json"))]
WHOLE = [one for one in ALL if one.status == 200 and not one.is_stream]
STREAMS = [one for one in ALL if one.is_stream]
ERRORS = [one for one in ALL if one.status != 200]


def names(cassettes: list[Cassette]) -> list[str]:
    return [one.name for one in cassettes]
