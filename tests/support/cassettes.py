"""The recorded provider traffic in tests/fixtures/cassettes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "cassettes"
AGENTS = FOLDER.parent / "agents"
_DIALECTS = {
    "/chat/completions": "openai-chat",
    "/responses": "openai-responses",
    "/messages": "anthropic-messages",
    "/messages/count_tokens": "anthropic-count-tokens",
    "/embeddings": "openai-embeddings",
}


@dataclass(frozen=True, slots=True)
class Cassette:
    """`dialect` as in a provider's `dialects`."""

    name: str
    dialect: str
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
    path = read["request"]["path"].partition("?")[0]
    return Cassette(
        name=name,
        dialect=next(_DIALECTS[end] for end in sorted(_DIALECTS, key=len, reverse=True) if path.endswith(end)),
        request=read["request"]["body"],
        status=read["response"]["status"],
        body=body.encode() if isinstance(body, str) else json.dumps(body).encode(),
        is_stream=bool(read["request"]["body"].get("stream")) and read["response"]["status"] == 200,
        is_anthropic=read["provider"] == "anthropic",
    )


EVERY = [load(path.stem) for path in sorted(FOLDER.glob("*.json"))]
# the two dialects that are spoken most
ALL = [one for one in EVERY if one.dialect in {"openai-chat", "anthropic-messages"}]
WHOLE = [one for one in ALL if one.status == 200 and not one.is_stream]
STREAMS = [one for one in ALL if one.is_stream]
ERRORS = [one for one in ALL if one.status != 200]
# and all three that are translated into each other
CHATS = [one for one in EVERY if one.dialect in {"openai-chat", "openai-responses", "anthropic-messages"}]
CHATS_WHOLE = [one for one in CHATS if one.status == 200 and not one.is_stream]
CHATS_STREAMS = [one for one in CHATS if one.is_stream]


def names(cassettes: list[Cassette]) -> list[str]:
    return [one.name for one in cassettes]


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """What a coding agent sent."""

    name: str
    dialect: str
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.body)
        return read


AGENT_REQUESTS = [
    AgentRequest(path.stem, "openai-responses" if path.stem.startswith("codex") else "anthropic-messages",
                 path.read_bytes())
    for path in sorted(AGENTS.glob("*.json"))
]  # fmt: skip
