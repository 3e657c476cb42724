"""`GET /v1/models`: what may be named here, in OpenAI's shape, or in Anthropic's for a client of theirs."""

from __future__ import annotations

from time import time
from typing import Any
from urllib.parse import unquote

import msgspec
from django.conf import settings

from keys.auth import KeyRecord, authenticate
from routing.consumers import Endpoint
from routing.errors import ApiError
from routing.policy import usable_names
from routing.snapshot import Snapshot, Target
from routing.visit import Visit
from routing.words import MODE_PREFIX

_encode = msgspec.json.Encoder().encode
_EPOCH = "1970-01-01T00:00:00Z"


class Models(Endpoint):
    path = "/v1/models"
    methods = ("GET", "HEAD")

    async def answer(self, visit: Visit) -> None:
        key: KeyRecord | None = None
        if not settings.TOKENHUB_PUBLIC_MODELS or b"authorization" in visit.headers or b"x-api-key" in visit.headers:
            key = visit.key = authenticate(visit.runtime.snapshot.keys, visit.headers, now=time())
        snapshot = visit.runtime.snapshot
        usable: dict[str, Target | None] = {
            name: snapshot.targets.get(name) for name in sorted(usable_names(snapshot, key))
        }
        is_anthropic = b"anthropic-version" in visit.headers
        wanted = unquote(visit.scope["path"].removeprefix(self.path).strip("/"))
        if wanted:
            if wanted not in usable and wanted not in _router_names(snapshot):
                raise ApiError("model_not_found", f"There is no model {wanted[:200]!r} here.", param="model")
            result: Any = _described(wanted, usable.get(wanted), is_anthropic)
        else:
            names = [*usable, *(_router_names(snapshot) if usable else [])]
            rows = [_described(name, usable.get(name), is_anthropic) for name in names]
            result = (
                {"data": rows, "has_more": False, "first_id": names[0] if names else None,
                 "last_id": names[-1] if names else None}
                if is_anthropic
                else {"object": "list", "data": rows}
            )  # fmt: skip
        await visit.respond_json(200, _encode(result))


def _router_names(snapshot: Snapshot) -> list[str]:
    """What a client may name to leave the choice to the router."""
    return [MODE_PREFIX + mode for mode in ("auto", *snapshot.profiles)] if snapshot.routable else []


def _described(name: str, target: Target | None, is_anthropic: bool) -> dict[str, Any]:
    if is_anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH}
    row: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "tokenhub"}
    if target is not None:
        row["owned_by"] = target.provider.id
        row["context_length"] = target.max_context_tokens
        row["abilities"] = sorted(target.abilities)
    return row


class NotFound(Endpoint):
    """Every other path under /v1."""

    path = "/v1"
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    is_repeatable = False

    async def answer(self, visit: Visit) -> None:
        path = visit.scope["path"][:200]
        hint = "See the API reference for what there is."
        if not path.startswith("/v1/"):
            hint = f"The base URL given to the client lacks /v1: ask /v1{path}."
        elif "/v1/v1/" in path:
            hint = "The base URL given to the client already ends in /v1; give it only once."
        raise ApiError("not_found", f"There is no endpoint {path} here.", hint=hint)
